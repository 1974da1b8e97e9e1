"""Forward and backward hooks of modules; a module without hooks never comes here."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.autograd.function import Function, tensors
from minidl.tensor import Tensor


class RemovableHandle:
    """What the ``register_*_hook`` methods return: ``remove()`` it, or use it as a ``with`` block."""

    def __init__(self, hooks: dict[int, Any], key: int):
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Take the hook away; doing it twice does no harm."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def watched(module: Any) -> bool:
    """Whether ``module`` has a hook."""
    return module._hooks is not None and any(module._hooks.kinds.values())


class Hooks:
    """The hooks of one module, in the order in which they are called."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[int, tuple[Callable[..., Any], bool]]] = {"forward_pre": {}, "forward": {}, "backward": {}}
        self._next = 0

    def add(self, kind: str, hook: Callable[..., Any], prepend: bool, with_kwargs: bool) -> RemovableHandle:
        """Add a hook at the end, or at the beginning with ``prepend``."""
        hooks, key = self.kinds[kind], self._next
        self._next += 1
        rest = dict(hooks) if prepend else {}
        if prepend:
            hooks.clear()
        hooks[key] = (hook, with_kwargs)
        hooks.update(rest)
        return RemovableHandle(hooks, key)

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``module.forward(*args, **kwargs)`` with the hooks around it."""
        for hook, with_kwargs in list(self.kinds["forward_pre"].values()):
            if with_kwargs:
                changed = hook(module, args, kwargs)
                if changed is not None:
                    args, kwargs = changed
            else:
                changed = hook(module, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        backward = list(self.kinds["backward"].values())
        gate = _BackwardGate(module, [hook for hook, _ in backward]) if backward else None
        if gate is not None:
            args = gate.enter(args)
        output = module.forward(*args, **kwargs)
        for hook, with_kwargs in list(self.kinds["forward"].values()):
            changed = hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)
            if changed is not None:
                output = changed
        return output if gate is None else gate.leave(output)


class _Pass(Function):
    """The identity on several tensors, whose backward passes all their gradients to ``watch`` at once."""

    __slots__ = ("watch", "count")

    def forward(self, F: Any, *xs: Any, watch: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
        self.watch, self.count = watch, len(xs)
        return tuple(xs)

    def backward(self, F: Any, gys: Any) -> tuple[Any, ...]:
        recorded = F is tensors  # gradients are Tensors already, and stay in the graph
        grads = self.watch(tuple(
            None if k not in gys else gys[k] if recorded else Tensor(gys[k], F) for k in range(self.count)
        ))
        return tuple(g if g is None or recorded else g.data for g in grads)


class _BackwardGate:
    """Catches the gradients of a module's outputs and inputs in one call, and shows them to its backward hooks."""

    def __init__(self, module: Any, hooks: list[Callable[..., Any]]):
        self.module, self.hooks = module, hooks
        self.grad_output: tuple[Any, ...] = ()
        self.watched: list[int] = []
        self.inputs = 0

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Let the tensors among ``args`` that need a gradient pass the gate."""
        self.inputs = len(args)
        self.watched = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if not self.watched:
            return args
        passed = dict(zip(self.watched, _Pass.apply(*[args[i] for i in self.watched], watch=self._inputs), strict=True))
        return tuple(passed.get(i, a) for i, a in enumerate(args))

    def leave(self, output: Any) -> Any:
        """Let the output, a tensor or a tuple of them, pass the gate."""
        outputs = output if isinstance(output, tuple) else (output,)
        places = [i for i, y in enumerate(outputs) if isinstance(y, Tensor) and y.requires_grad]
        if not places:
            return output

        def watch(grads: tuple[Any, ...]) -> tuple[Any, ...]:
            found = dict(zip(places, grads, strict=True))
            self.grad_output = tuple(found.get(i) for i in range(len(outputs)))
            if not self.watched:  # a first layer: its input has no gradient to wait for
                self._call((None,) * self.inputs)
            return grads

        passed = dict(zip(places, _Pass.apply(*[outputs[i] for i in places], watch=watch), strict=True))
        result = tuple(passed.get(i, y) for i, y in enumerate(outputs))
        return result if isinstance(output, tuple) else result[0]

    def _inputs(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        found = dict(zip(self.watched, grads, strict=True))
        result = self._call(tuple(found.get(i) for i in range(self.inputs)))
        return tuple(result[i] for i in self.watched)

    def _call(self, grad_input: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.hooks:
            changed = hook(self.module, grad_input, self.grad_output)
            if changed is not None:
                grad_input = changed if isinstance(changed, tuple) else (changed,)
        return grad_input
