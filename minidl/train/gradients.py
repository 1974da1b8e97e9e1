"""Check the gradient of an operation by name, or of a class or function in a file: the work of ``minidl gradcheck``."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import minidl
from minidl import nn
from minidl.autograd import Function
from minidl.autograd.gradcheck import GradcheckError, Mismatch, gradcheck, gradgradcheck
from minidl.errors import ConfigError, MinidlError
from minidl.nn import functional as F
from minidl.tensor import Tensor

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A function to check, float64 inputs for it, and the inputs' names."""

    title: str
    function: Callable[..., Any]
    inputs: list[Tensor]
    names: list[str]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check found: the elements that disagree, or a ``problem`` that is no matter of single elements.

    ``second`` is the same for the gradient of the gradient; None if there is none or the first is wrong already.
    """

    elements: int
    mismatches: list[Mismatch]
    problem: str | None = None
    second: Verdict | None = None

    @property
    def wrong(self) -> list[Mismatch]:
        """The mismatches that are errors: those that are not at a kink."""
        return [mismatch for mismatch in self.mismatches if not mismatch.kink]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (kinks are not)."""
        return self.problem is None and not self.wrong and (self.second is None or self.second.ok)


def check(subject: Subject) -> Verdict:
    """Compare backward with finite differences, and the recorded backward's own gradient as well."""
    first = _run(gradcheck, subject)
    if not first.ok or first.mismatches:
        return first
    return dataclasses.replace(first, second=_run(gradgradcheck, subject))


def _run(checker: Callable[..., bool], subject: Subject) -> Verdict:
    elements = sum(tensor.numel() for tensor in subject.inputs)
    try:
        checker(subject.function, subject.inputs)
    except GradcheckError as error:
        return Verdict(elements, error.mismatches, None if error.mismatches else str(error))
    except Exception as error:  # from code that is being tested: anything may come
        return Verdict(elements, [], f"it raised {type(error).__name__}: {error}")
    return Verdict(elements, [])


def factor(mismatches: Sequence[Mismatch]) -> float | None:
    """The one number by which all of backward's values are too large, if there is one: it often names the mistake."""
    ratios = [m.analytic / m.numeric for m in mismatches if abs(m.numeric) > 1e-3]
    if len(ratios) < 2 or len(ratios) < len(mismatches) / 2:
        return None
    mean = sum(ratios) / len(ratios)
    # Numeric gradients carry about six digits of the values kept above.
    return mean if all(abs(ratio - mean) <= 1e-4 * max(abs(mean), 1) for ratio in ratios) else None


# ---- finding what to check


def find(target: str, shapes: Sequence[Shape] = (), options: dict[str, Any] | None = None, seed: int = 0) -> Subject:
    """The subject that ``target`` names: an operation (``conv2d``), or ``file.py:NAME``.

    ``shapes`` are those of the inputs, ``options`` keyword arguments; both have defaults for every operation of minidl.
    Raises :class:`~minidl.errors.ConfigError` for a name that is not known, an operation without a gradient, and inputs that
    the operation does not take.
    """
    minidl.manual_seed(seed)
    path, colon, name = target.rpartition(":")
    subject = (
        _from_file(Path(path), name, shapes, options or {}) if colon else _operation(target, shapes, options or {})
    )
    try:
        result = subject.function(*subject.inputs)
    except (MinidlError, TypeError, ValueError, IndexError) as error:
        given = ", ".join(str(tuple(tensor.shape)) for tensor in subject.inputs) or "none"
        raise ConfigError(
            f"gradcheck: {target} does not take inputs of shape {given} ({error}); give each its --shape, such as --shape 2,3, "
            "and each further argument as --option NAME=VALUE"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # from the file that is being checked: anything may come
        raise ConfigError(f"gradcheck: {target} raised {type(error).__name__}: {error}") from error
    outputs = result if isinstance(result, tuple | list) else (result,)
    if not colon and not any(isinstance(y, Tensor) and y.requires_grad for y in outputs):
        kinds = ", ".join(str(y.dtype) if isinstance(y, Tensor) else type(y).__name__ for y in outputs)
        raise ConfigError(f"gradcheck: {target} has no gradient to check: it gives {kinds}, whatever its inputs need")
    return subject


def _operation(name: str, shapes: Sequence[Shape], options: dict[str, Any]) -> Subject:
    function = next((found for home in (F, minidl, Tensor) if callable(found := getattr(home, name, None))), None)
    if function is None or name.startswith("_") or not _is_operation(function):
        close = difflib.get_close_matches(name, _operations(), 3)
        if getattr(function, "__module__", None) in _NO_OPERATIONS:
            hint = "it makes tensors or sets a switch, and has no gradient"
        elif name.endswith(".py"):
            hint = f"say what in that file is to be checked: {name}:NAME"
        elif close:
            hint = f"did you mean {' or '.join(close)}?"
        else:
            hint = "it takes the functions of minidl and minidl.nn.functional"
        raise ConfigError(f"gradcheck: no operation is called {name!r}; {hint}")
    sample = _SAMPLES.get(name)
    if sample is not None and not shapes and not options:
        call, shapes = sample
        tensors = [_random(shape) for shape in shapes]
        return Subject(name, call, tensors, _names(call, len(tensors)))
    tensors = [_random(shape, _DOMAINS.get(name, "")) for shape in shapes or _generic_shapes(function)]
    return Subject(name, lambda *xs: function(*xs, **options), tensors, _names(function, len(tensors)))


# Where functions are defined that make tensors or set switches.
_NO_OPERATIONS = ("minidl.ops.creation", "minidl.backend.rng", "minidl.backend.threads", "minidl.autograd.grad_mode",
                  "minidl.autograd.engine", "minidl.autograd.autocast")


def _is_operation(thing: Any) -> bool:
    """Whether it is a function from tensors to tensors."""
    if not callable(thing) or isinstance(thing, type) or thing is minidl.is_grad_enabled:
        return False
    return getattr(thing, "__module__", None) not in _NO_OPERATIONS


def _operations() -> list[str]:
    named = {name for home in (F, minidl) for name in dir(home) if _is_operation(getattr(home, name))}
    return sorted(name for name in named | set(_SAMPLES) if not name.startswith("_"))


def _from_file(path: Path, name: str, shapes: Sequence[Shape], options: dict[str, Any]) -> Subject:
    if not path.is_file():
        raise ConfigError(f"gradcheck: there is no file {path}; expected the name of an operation, or file.py:NAME")
    spec = importlib.util.spec_from_file_location("minidl_gradcheck_subject", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"gradcheck: {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"gradcheck: {path} cannot be imported: {type(error).__name__}: {error}") from error
    thing = getattr(module, name, None)
    if thing is None:
        known = ", ".join(key for key, value in vars(module).items() if getattr(value, "__module__", "") == spec.name)
        raise ConfigError(f"gradcheck: {path} has nothing called {name!r}; it defines: {known or 'nothing'}")
    if isinstance(thing, type) and issubclass(thing, Function):
        count = max(len(thing.inputs), 1)
        tensors = [_random(shape) for shape in shapes or [(2, 3)] * count]
        return Subject(
            name, lambda *xs: thing.apply(*xs, **options), tensors, list(thing.inputs) or _numbered(len(tensors))
        )
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        try:
            instance = thing(**options).double()
        except Exception as error:
            raise ConfigError(
                f"gradcheck: {path}:{name} cannot be made ({type(error).__name__}: {error}); give its arguments as --option "
                "NAME=VALUE"
            ) from error
        return _module(name, instance, shapes)
    if callable(thing) and not isinstance(thing, type):
        tensors = [_random(shape) for shape in shapes or _generic_shapes(thing)]
        return Subject(name, lambda *xs: thing(*xs, **options), tensors, _names(thing, len(tensors)))
    raise ConfigError(f"gradcheck: {name} is a {type(thing).__name__}; expected a Function, an nn.Module or a function")


def _module(name: str, module: nn.Module, shapes: Sequence[Shape]) -> Subject:
    """A module's inputs and its parameters, all checked."""
    tensors = [_random(shape) for shape in shapes or _generic_shapes(module.forward)]
    parameters = dict(module.named_parameters())

    def run(*values: Tensor) -> Any:
        with _replaced(module, dict(zip(parameters, values[len(tensors) :], strict=True))):
            return module(*values[: len(tensors)])

    names = _names(module.forward, len(tensors)) + list(parameters)
    copies = [parameter.detach().clone().requires_grad_() for parameter in parameters.values()]
    return Subject(name, run, tensors + copies, names)


@contextlib.contextmanager
def _replaced(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Within it, ``values`` stand in for the module's parameters of these names."""
    places = []
    for dotted in values:
        owner, _, name = dotted.rpartition(".")
        places.append((vars(module.get_submodule(owner) if owner else module), name))
    originals = [attributes[name] for attributes, name in places]
    try:
        for (attributes, name), value in zip(places, values.values(), strict=True):
            attributes[name] = value
        yield
    finally:
        for (attributes, name), original in zip(places, originals, strict=True):
            attributes[name] = original


def _random(shape: Shape, domain: str = "") -> Tensor:
    """Random float64 numbers of the domain: all, "positive", "unit" (-0.9 to 0.9) or "above one"."""
    x = minidl.randn(*shape, dtype=minidl.float64)
    if domain == "positive":
        x = x.abs() + 0.5
    elif domain == "unit":
        x = x.tanh() * 0.9
    return x.detach().requires_grad_()


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]


def _generic_shapes(function: Callable[..., Any]) -> list[Shape]:
    return [(2, 3)] * max(len(_parameters(function)), 1)


def _names(function: Callable[..., Any], count: int) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)[:count]
    except (TypeError, ValueError):
        names = []
    return names if len(names) == count else _numbered(count)


def _numbered(count: int) -> list[str]:
    return [f"input {k}" for k in range(count)]


def _labels(*values: Any) -> Tensor:
    return minidl.tensor(list(values))


def _mask() -> Tensor:
    return minidl.tensor([[True, False, True], [False, False, True]])


def _seeded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same random numbers in every call: finite differences need a function that can be repeated."""

    @functools.wraps(function)
    def call(*xs: Tensor) -> Tensor:
        minidl.manual_seed(0)
        return function(*xs)

    return call


_DOMAINS = dict.fromkeys(["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "div"], "positive")
_DOMAINS |= dict.fromkeys(["asin", "acos"], "unit")

# What an operation is checked with when the user gives no shapes: a call, and the shapes of its inputs.  An operation on
# integers takes none: it is called to see that its result has no gradient.
_SAMPLES: dict[str, tuple[Callable[..., Any], Sequence[Shape]]] = {
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 2), [(2, 2, 5, 4)]),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 2), [(2, 2, 5, 4)]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, stride=2, padding=1), [(2, 2, 5, 6)]),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), [(4, 3, 2, 2), (3,), (3,)]),
    "binary_cross_entropy_with_logits": (
        lambda x, t: F.binary_cross_entropy_with_logits(x, t.sigmoid()), [(3, 4), (3, 4)]),
    "binary_cross_entropy": (lambda x, t: F.binary_cross_entropy(x.sigmoid(), t.sigmoid()), [(3, 4), (3, 4)]),
    "bincount": (lambda: minidl.bincount(_labels(1, 0, 1)), []),
    "bitwise_and": (lambda: minidl.bitwise_and(_labels(1, 2), _labels(3, 1)), []),
    "bitwise_not": (lambda: minidl.bitwise_not(_labels(1, 2)), []),
    "bitwise_or": (lambda: minidl.bitwise_or(_labels(1, 2), _labels(3, 1)), []),
    "bitwise_xor": (lambda: minidl.bitwise_xor(_labels(1, 2), _labels(3, 1)), []),
    "bmm": (lambda a, b: minidl.bmm(a, b), [(2, 3, 4), (2, 4, 2)]),
    "broadcast_to": (lambda x: minidl.broadcast_to(x, (4, 2, 3)), [(2, 3)]),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), [(2, 4, 3)]),
    "chunk": (lambda x: minidl.chunk(x, 2), [(3, 2)]),
    "clamp": (lambda x: minidl.clamp(x, -0.5, 0.5), [(3, 4)]),
    "clip": (lambda x: minidl.clip(x, -0.5, 0.5), [(3, 4)]),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), [(2, 3, 6, 5), (4, 3, 3, 3), (4,)]),
    "conv_transpose2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), [(2, 3, 3, 2), (3, 2, 3, 3), (2,)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, _labels(1, 0, 4, 2), label_smoothing=0.1), [(4, 5)]),
    "cumprod": (lambda x: minidl.cumprod(x, 1), [(2, 4)]),
    "cumsum": (lambda x: minidl.cumsum(x, 1), [(2, 4)]),
    "dot": (lambda a, b: minidl.dot(a, b), [(4,), (4,)]),
    "dropout": (_seeded(lambda x: F.dropout(x, 0.5)), [(4, 5)]),
    "dropout2d": (_seeded(lambda x: F.dropout2d(x, 0.5)), [(3, 4, 2, 2)]),
    "einsum": (lambda a, b: minidl.einsum("ij,jk->ki", a, b), [(2, 3), (3, 4)]),
    "embedding": (lambda w: F.embedding(_labels(1, 0, 1, 3), w), [(4, 3)]),
    "fold": (lambda x: F.fold(x, (4, 5), 2), [(2, 8, 12)]),
    "gather": (lambda x: minidl.gather(x, 1, _labels([0, 2, 2], [1, 0, 1])), [(2, 3)]),
    "glu": (lambda x: F.glu(x), [(2, 6)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [(2, 4, 3), (4,), (4,)]),
    "index_select": (lambda x: minidl.index_select(x, 1, _labels(2, 0, 2)), [(2, 3)]),
    "instance_norm": (lambda x: F.instance_norm(x), [(2, 3, 3, 2)]),
    "interpolate": (lambda x: F.interpolate(x, size=(5, 6), mode="bilinear"), [(2, 2, 3, 4)]),
    "kl_div": (lambda x, t: F.kl_div(F.log_softmax(x, 1), F.softmax(t, 1), "batchmean"), [(3, 4), (3, 4)]),
    "kthvalue": (lambda x: minidl.kthvalue(x, 2)[0], [(2, 4)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (5,), w, b), [(4, 5), (5,), (5,)]),
    "linear": (lambda x, w, b: F.linear(x, w, b), [(3, 4), (5, 4), (5,)]),
    "local_response_norm": (lambda x: F.local_response_norm(x, 3, alpha=0.5), [(2, 5, 2, 2)]),
    "logsumexp": (lambda x: minidl.logsumexp(x, 1), [(3, 4)]),
    "masked_fill": (lambda x: minidl.masked_fill(x, _mask(), 0.5), [(2, 3)]),
    "masked_select": (lambda x: minidl.masked_select(x, _mask()), [(2, 3)]),
    "matmul": (lambda a, b: minidl.matmul(a, b), [(3, 4), (4, 2)]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [(2, 2, 4, 6)]),
    "meshgrid": (lambda x, y: minidl.meshgrid(x, y), [(3,), (2,)]),
    "mm": (lambda a, b: minidl.mm(a, b), [(3, 4), (4, 2)]),
    "movedim": (lambda x: minidl.movedim(x, 0, 2), [(2, 3, 2)]),
    "multi_head_attention": (
        lambda x, w, b, v, c: F.multi_head_attention(x, x, x, 2, w, b, v, c), [(2, 3, 4), (12, 4), (12,), (4, 4), (4,)]),
    "multi_margin_loss": (lambda x: F.multi_margin_loss(x, _labels(1, 0, 4, 2)), [(4, 5)]),
    "narrow": (lambda x: minidl.narrow(x, 1, 1, 2), [(2, 4)]),
    "nll_loss": (lambda x: F.nll_loss(x, _labels(1, 0, 4, 2)), [(4, 5)]),
    "one_hot": (lambda: F.one_hot(_labels(1, 0, 2), 3), []),
    "outer": (lambda a, b: minidl.outer(a, b), [(3,), (4,)]),
    "pad": (lambda x: F.pad(x, (1, 2)), [(2, 3)]),
    "permute": (lambda x: minidl.permute(x, (2, 0, 1)), [(2, 3, 2)]),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), [(2, 4, 2, 3)]),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), [(2, 1, 4, 6)]),
    "pow": (lambda x: x.abs() ** 2.5, [(2, 3)]),
    "prelu": (lambda x, w: F.prelu(x, w), [(4, 3), (3,)]),
    "repeat": (lambda x: x.repeat(2, 2), [(2, 3)]),
    "repeat_interleave": (lambda x: minidl.repeat_interleave(x, _labels(2, 0, 3), 1), [(2, 3)]),
    "reshape": (lambda x: minidl.reshape(x, (3, 2)), [(2, 3)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (5,), w), [(4, 5), (5,)]),
    "roll": (lambda x: minidl.roll(x, 1, 1), [(2, 3)]),
    "scatter": (lambda x, y: minidl.scatter(x, 1, _labels([0, 2], [1, 0]), y), [(2, 3), (2, 2)]),
    "scatter_add": (lambda x, y: minidl.scatter_add(x, 1, _labels([0, 2, 2], [1, 0, 1]), y), [(2, 3), (2, 3)]),
    "scaled_dot_product_attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(2, 3, 4), (2, 5, 4), (2, 5, 4)]),
    "softmax": (lambda x: F.softmax(x, dim=-1), [(3, 4)]),
    "split": (lambda x: minidl.split(x, 2, 1), [(2, 3)]),
    "swapaxes": (lambda x: minidl.swapaxes(x, 0, 1), [(2, 3)]),
    "tile": (lambda x: minidl.tile(x, (2, 2)), [(2, 3)]),
    "topk": (lambda x: minidl.topk(x, 2)[0], [(2, 4)]),
    "transpose": (lambda x: minidl.transpose(x, 0, 1), [(2, 3)]),
    "unfold": (lambda x: F.unfold(x, 2), [(2, 2, 3, 4)]),
    "unsqueeze": (lambda x: minidl.unsqueeze(x, 1), [(2, 3)]),
    "where": (lambda a, b: minidl.where(_mask(), a, b), [(2, 3), (2, 3)]),
}  # fmt: skip
