"""Module: the base class of every layer and net, with PyTorch's names and behaviour.

Attributes that are Parameters, Buffers or Modules are *registered*: assigning them is all it takes for ``parameters()``,
``state_dict()``, ``to()``, ``train()`` and ``repr`` to find them.  The values stay in the instance's ordinary
``__dict__`` (so that reading ``self.weight`` costs nothing extra); ``_kinds`` only remembers which names are registered,
as what, and in which order.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from minidl.errors import CheckpointError, ConfigError
from minidl.nn.hooks import Hooks, RemovableHandle
from minidl.nn.parameter import Buffer, Parameter
from minidl.nn.state import load_into, replace_data
from minidl.tensor import Tensor

M = TypeVar("M", bound="Module")

PARAMETER, BUFFER, MODULE = "parameter", "buffer", "module"


class LoadResult(NamedTuple):
    """What ``load_state_dict`` found: names the model has and the state lacks, and the reverse."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"LoadResult(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """Base class of layers and nets.

    A subclass creates its layers in ``__init__`` (after ``super().__init__()``) and computes in ``forward``; call the
    instance, not ``forward``, so that hooks run::

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1 = nn.Linear(784, 100)
                self.fc2 = nn.Linear(100, 10)

            def forward(self, x):
                return self.fc2(F.relu(self.fc1(x)))
    """

    training: bool
    _kinds: dict[str, str]
    _non_persistent: set[str]
    _hooks: Hooks | None
    #: Names of own state that a state dict may lack even when strict (files written before the name existed).
    _optional_state: tuple[str, ...] = ()

    def __init__(self) -> None:
        own = self.__dict__
        own["training"] = True
        own["_kinds"] = {}
        own["_non_persistent"] = set()
        own["_hooks"] = None

    if TYPE_CHECKING:
        forward: Callable[..., Any]  # a method of any signature: subclasses choose their own
    else:

        def forward(self, *args, **kwargs):
            """Compute the output; every subclass defines it."""
            raise NotImplementedError(f"{type(self).__name__} has no forward(): define it to say what the module computes")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._hooks.call(self, args, kwargs)

    # ---- registration

    def __setattr__(self, name: str, value: Any) -> None:
        kinds = self.__dict__.get("_kinds")
        if isinstance(value, (Parameter, Buffer, Module)):
            if kinds is None:
                raise ConfigError(self._not_initialised(f"assigning {name!r}"))
            kind = MODULE if isinstance(value, Module) else PARAMETER if isinstance(value, Parameter) else BUFFER
            if kinds.get(name) != kind:
                kinds.pop(name, None)  # a name that changes its kind goes to the end, as a new one does
                kinds[name] = kind
                self._non_persistent.discard(name)
        elif kinds and name in kinds and value is not None and not (kinds[name] == BUFFER and isinstance(value, Tensor)):
            wanted = {PARAMETER: "an nn.Parameter", BUFFER: "a Tensor", MODULE: "an nn.Module"}[kinds[name]]
            hint = f"; write `with minidl.no_grad(): module.{name}.copy_(values)` to change its values"
            raise TypeError(
                f"{type(self).__name__}.{name}: cannot assign a {type(value).__name__} to a registered {kinds[name]}; "
                f"expected {wanted} or None{hint if kinds[name] == PARAMETER else ''}"
            )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self.__dict__.get("_kinds", {}).pop(name, None)
        self.__dict__.get("_non_persistent", set()).discard(name)

    def __getattr__(self, name: str) -> Any:
        # Python comes here only when the ordinary look-up failed.
        if "_kinds" not in self.__dict__ and not name.startswith("__"):
            raise AttributeError(self._not_initialised(f"reading {name!r}"))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def _not_initialised(self, doing: str) -> str:
        return (
            f"{type(self).__name__}: {doing} before Module.__init__() ran; "
            f"make `super().__init__()` the first line of {type(self).__name__}.__init__"
        )

    def _check_name(self, name: str, kind: str) -> None:
        if "_kinds" not in self.__dict__:
            raise ConfigError(self._not_initialised(f"registering {name!r}"))
        if not isinstance(name, str) or not name or "." in name:
            raise ConfigError(f"{type(self).__name__}: a {kind}'s name must be a non-empty string without '.', got {name!r}")
        if name not in self._kinds and hasattr(self, name):
            raise ConfigError(f"{type(self).__name__}: cannot register {kind} {name!r}: the attribute exists already")

    def _register(self, name: str, kind: str, value: Any) -> None:
        self._check_name(name, kind)
        self._kinds[name] = kind
        self.__dict__[name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register ``param`` under ``name``; None reserves the name (a layer without bias has ``bias = None``)."""
        if param is not None and not isinstance(param, Parameter):
            found = type(param).__name__
            raise TypeError(f"{type(self).__name__}: parameter {name!r} must be an nn.Parameter or None, got {found}")
        self._register(name, PARAMETER, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register state that is not trained (running statistics).  ``persistent=False`` keeps it out of state dicts."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{type(self).__name__}: buffer {name!r} must be a Tensor or None, got {type(tensor).__name__}")
        self._register(name, BUFFER, tensor)
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Register a child under ``name``, as ``setattr`` does, but also for names that are no identifiers ("0")."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: child {name!r} must be an nn.Module or None, got {type(module).__name__}")
        self._register(name, MODULE, module)

    add_module = register_module

    def _own(self, kind: str) -> list[tuple[str, Any]]:
        """This module's own registered (name, value) pairs of one kind, None left out."""
        own = self.__dict__
        return [(name, own[name]) for name, k in self._kinds.items() if k == kind and own[name] is not None]

    # ---- walking

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Direct children with their names, each once."""
        seen: set[Module] = set()
        for name, child in self._own(MODULE):
            if child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """Direct children, each once."""
        for _, child in self.named_children():
            yield child

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module (under ``prefix``) and all below it, parents first; a shared module once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._own(MODULE):
            yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def _named_tensors(self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()  # identities: a tensor's == is elementwise
        owners = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in owners:
            for name, value in module._own(kind):
                if remove_duplicate and id(value) in seen:
                    continue
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their dotted names; a shared one once, under its first name."""
        return self._named_tensors(PARAMETER, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters of this module and, with ``recurse``, of all below it: what an optimiser is given."""
        for _, param in self.named_parameters(recurse=recurse):
            yield param

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their dotted names, persistent or not."""
        return self._named_tensors(BUFFER, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers of this module and, with ``recurse``, of all below it."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path such as ``"layer1.0.conv1"``; ``""`` is the module itself."""
        module: Module = self
        for depth, name in enumerate(target.split(".") if target else ()):
            child = module.__dict__.get(name)
            if not isinstance(child, Module):
                where = ".".join(target.split(".")[:depth]) or type(self).__name__
                names = ", ".join(n for n, _ in module._own(MODULE)) or "none"
                raise AttributeError(f"get_submodule({target!r}): {where} has no child {name!r}; its children: {names}")
            module = child
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path such as ``"layer1.0.conv1.weight"``."""
        return self._get_tensor(target, PARAMETER)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path such as ``"bn1.running_mean"``."""
        return self._get_tensor(target, BUFFER)

    def _get_tensor(self, target: str, kind: str) -> Any:
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if owner._kinds.get(name) != kind:
            names = ", ".join(n for n, _ in owner._own(kind)) or "none"
            raise AttributeError(f"{type(owner).__name__} has no {kind} {name!r} (asked for {target!r}); its {kind}s: {names}")
        return owner.__dict__[name]

    # ---- changing the whole tree

    def apply(self: M, fn: Callable[[Module], Any]) -> M:
        """Call ``fn`` on every module, children first, then on this one: the usual way to initialise a net."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self: M, mode: bool = True) -> M:
        """Set training mode here and below: dropout drops and batch norm uses (and records) the batch's statistics."""
        if not isinstance(mode, bool):
            raise TypeError(f"{type(self).__name__}.train: mode must be True or False, got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: M) -> M:
        """Set evaluation mode here and below: ``train(False)``."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Freeze (False) or unfreeze every parameter here and below."""
        for param in self.parameters():
            param.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; ``set_to_none=False`` fills them with zeros instead."""
        for param in self.parameters():
            if set_to_none or param.grad is None:
                param.grad = None
            else:
                param.grad = param.grad.detach() * 0

    def to(self: M, *args: Any, **kwargs: Any) -> M:
        """Move to a device and/or change the floating dtype, in place: ``to("cuda")``, ``to(minidl.float64)``.

        Parameters and buffers keep their identity, so that an optimiser made before still holds them; integer buffers
        keep their dtype, as in torch.
        """
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        kwargs.pop("non_blocking", None)  # for code written for PyTorch; transfers wait
        if kwargs:
            raise TypeError(f"{type(self).__name__}.to: unknown option {next(iter(kwargs))!r}; expected device and dtype")
        for arg in args:
            if isinstance(arg, Tensor):
                device, dtype = arg.device, arg.dtype
            elif _is_dtype(arg):
                dtype = arg
            elif arg is not None:
                device = arg
        return self._convert(device, dtype)

    def _convert(self: M, device: Any, dtype: Any) -> M:
        seen: set[int] = set()
        for module in self.modules():
            for kind in (PARAMETER, BUFFER):
                for _, tensor in module._own(kind):
                    if id(tensor) not in seen:
                        seen.add(id(tensor))
                        replace_data(tensor, device, dtype)
        return self

    def float(self: M) -> M:
        """Convert floating parameters and buffers to float32."""
        return self._convert(None, "float32")

    def half(self: M) -> M:
        """Convert floating parameters and buffers to float16; training wants float32 ones, see :class:`minidl.autocast`."""
        return self._convert(None, "float16")

    def bfloat16(self: M) -> M:
        """Convert floating parameters and buffers to bfloat16; training wants float32 ones, see :class:`minidl.autocast`."""
        return self._convert(None, "bfloat16")

    def double(self: M) -> M:
        """Convert floating parameters and buffers to float64: what gradient checks need."""
        return self._convert(None, "float64")

    def cuda(self: M, device: Any = None) -> M:
        """Move to the GPU: ``to("cuda")``."""
        return self._convert("cuda" if device is None else device, None)

    def cpu(self: M) -> M:
        """Move to the CPU: ``to("cpu")``."""
        return self._convert("cpu", None)

    # ---- state

    def state_dict(
        self, destination: dict[str, Tensor] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """All parameters and persistent buffers by dotted name, in order of registration.

        The tensors share memory with the model (copy them to keep them) and are detached, unless ``keep_vars``.
        """
        destination = {} if destination is None else destination
        for kind in (PARAMETER, BUFFER):
            for name, tensor in self._own(kind):
                if name not in self._non_persistent:
                    destination[prefix + name] = tensor if keep_vars else tensor.detach()
        for name, child in self._own(MODULE):
            child.state_dict(destination, f"{prefix}{name}.", keep_vars)
        return destination

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy a state dict's values into this model, cast to its dtypes.

        Values may be Tensors, NumPy arrays or torch tensors.  Nothing is written unless everything fits.
        ``strict=False`` allows missing and unexpected names (returned), never a wrong shape.

        Raises:
            CheckpointError: listing the missing names, the unexpected names, the wrong shapes and what is no tensor.
            TypeError: ``state_dict`` is no mapping.
        """
        if not isinstance(state_dict, Mapping):
            kind = type(state_dict).__name__
            raise TypeError(f"{type(self).__name__}.load_state_dict: expected a mapping of names to tensors, got {kind}")
        targets = self.state_dict(keep_vars=True)
        optional = {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules(remove_duplicate=False)
            for name in module._optional_state
        }
        missing = [name for name in targets if name not in state_dict and name not in optional]
        unexpected = [name for name in state_dict if name not in targets]
        lines = []
        if strict and missing:
            lines.append("missing: " + ", ".join(missing))
        if strict and unexpected:
            lines.append("unexpected: " + ", ".join(unexpected) + _prefix_hint(state_dict, targets))
        for name, target in targets.items():
            if name not in state_dict:
                continue
            found = _shape(state_dict[name])
            if found is None:
                lines.append(f"not a tensor: {name} is a {type(state_dict[name]).__name__}")
            elif found != tuple(target.shape):
                lines.append(f"wrong shape: {name} is {found} in the state dict, {tuple(target.shape)} in the model")
        if lines:
            raise CheckpointError(f"the state dict does not fit {type(self).__name__}:\n  " + "\n  ".join(lines))
        for name, target in targets.items():
            if name in state_dict:
                load_into(target, state_dict[name])
        return LoadResult(missing, unexpected)

    # ---- hooks

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns, unless None, replaces the arguments."""
        return self._ensure_hooks().add("forward_pre", hook, prepend, with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after ``forward``; what it returns, unless None, replaces the output."""
        return self._ensure_hooks().add("forward", hook, prepend, with_kwargs)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the module's inputs are known.

        Both are tuples with one entry per positional input and per output, None where there is no gradient.  What the
        hook returns, unless None, replaces ``grad_input``.
        """
        return self._ensure_hooks().add("backward", hook, prepend, False)

    def _ensure_hooks(self) -> Hooks:
        if self._hooks is None:
            self.__dict__["_hooks"] = Hooks()
        return self._hooks  # type: ignore[return-value]

    # ---- printing

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses; layers print their options here."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): {_indent(repr(child))}" for name, child in self._own(MODULE)]
        if not lines:
            return f"{type(self).__name__}({extra})" if "\n" not in extra else _block(type(self).__name__, extra.split("\n"))
        return _block(type(self).__name__, (extra.split("\n") if extra else []) + lines)

    def __dir__(self) -> list[str]:
        return sorted(name for name in super().__dir__() if not name[:1].isdigit())


def _block(name: str, lines: list[str]) -> str:
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)"


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _is_dtype(value: Any) -> bool:
    return hasattr(value, "itemsize") or (isinstance(value, str) and value.startswith(("float", "bfloat", "int", "bool")))


def _shape(value: Any) -> tuple[int, ...] | None:
    """A tensor's, an array's or a number's; None for anything else."""
    if isinstance(value, int | float):
        return ()
    return tuple(value.shape) if hasattr(value, "shape") else None


def _prefix_hint(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """When every name only carries an extra prefix ("module.", "model."), say so."""
    for prefix in {name.split(".", 1)[0] + "." for name in given}:
        if all(name.startswith(prefix) for name in given) and any(name[len(prefix):] in wanted for name in given):
            return f" (every name starts with {prefix!r}: strip it, `{{k[{len(prefix)}:]: v for k, v in state.items()}}`)"
    return ""
