"""What an entry of the operation table is made of, and how the tests run one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minidl
from minidl import Tensor

Array = np.ndarray
FLOATS = ("float64", "float32", "float16")

# (rtol, atol) against a reference in float64 that starts from the same rounded inputs.  The samples are of order one and
# their sums have at most a few dozen terms, so an operation is off by a few units in the last place: 2e-16, 1e-7, 1e-3.
TOLERANCE = {"float64": (1e-11, 1e-12), "float32": (2e-5, 2e-6), "float16": (1e-2, 4e-3)}


class Draw:
    """Numbers for samples; the same in every run."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Array:
        """Normal numbers."""
        return np.asarray(self.rng.standard_normal(shape))

    def between(self, low: float, high: float, *shape: int) -> Array:
        return np.asarray(self.rng.uniform(low, high, shape))

    def away(self, *shape: int, kinks: Iterable[float] = (0.0,), by: float = 0.1) -> Array:
        """Normal numbers at least ``by`` away from the kinks: finite differences are taken across 1e-6 only."""
        x = self(*shape)
        for kink in kinks:
            x = np.where(np.abs(x - kink) < by, kink + by + np.abs(x - kink), x)
        return np.asarray(x)

    def distinct(self, *shape: int) -> Array:
        """Shuffled numbers a tenth or more apart, so that no extremum is near a tie."""
        n = int(np.prod(shape))
        return np.asarray(self.rng.permutation(n).reshape(shape) * 0.25 - 1.0 + self.rng.uniform(0, 0.1, shape))

    def integers(self, low: int, high: int, *shape: int) -> Array:
        return np.asarray(self.rng.integers(low, high, shape))

    def mask(self, *shape: int) -> Array:
        return np.asarray(self.rng.random(shape) < 0.5)


def tree_map(f: Callable[[Array], Any], value: Any) -> Any:
    """``f`` of every array in nested lists, tuples and dicts; everything else as it is."""
    if isinstance(value, np.ndarray):
        return f(value)
    if type(value) in (list, tuple):
        return type(value)(tree_map(f, v) for v in value)
    if type(value) is dict:
        return {k: tree_map(f, v) for k, v in value.items()}
    return value


class Sample:
    """Arguments of one call, with arrays for tensors.

    Attributes:
        smooth: whether the function is differentiable here (False at kinks, ties, NaN: values only).
        constants: which arrays, counted from 0, get no gradient although they are floating point.
    """

    def __init__(self, *args: Any, smooth: bool = True, constants: Iterable[int] = (), **kwargs: Any):
        self.args, self.kwargs = args, kwargs
        self.smooth, self.constants = smooth, frozenset(constants)

    def arrays(self) -> list[Array]:
        found: list[Array] = []
        tree_map(found.append, (self.args, self.kwargs))
        return found

    def cast(self, dtype: Any) -> Sample:
        """The same numbers, the floating-point ones rounded to ``dtype``."""
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def map(self, f: Callable[[Array], Array]) -> Sample:
        args, kwargs = tree_map(f, (self.args, self.kwargs))
        return Sample(*args, smooth=self.smooth, constants=self.constants, **kwargs)

    def fill(self, values: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with ``values`` in the arrays' places."""
        rest = iter(values)
        return tree_map(lambda _: next(rest), (self.args, self.kwargs))

    def differentiable(self) -> list[int]:
        """Which of the arrays can have a gradient."""
        return [i for i, a in enumerate(self.arrays()) if a.dtype.kind == "f" and i not in self.constants]

    def __repr__(self) -> str:
        args, kwargs = tree_map(lambda a: f"{a.dtype}{list(a.shape)}", (self.args, self.kwargs))
        return f"{args} {kwargs or ''}"


@dataclass(frozen=True)
class Bad:
    """A call that must be refused.

    Attributes:
        error, match: the exception and a regular expression that its message matches.
        torch: why PyTorch does not refuse it, "" if it does.
    """

    sample: Sample
    error: type[Exception]
    match: str
    torch: str = ""


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: of the public function ("ops.exp", "F.conv2d"), or of the verb that users do not call ("conv2d_input_grad").
        function: takes tensors where the samples have arrays.
        samples: makes them.
        reference: the same in plain NumPy, on float64 arrays.
        torch: PyTorch's counterpart: its name below ``torch``, or a function from the module to it; None if it has none.
        verbs, composites: what it is the entry of; a composite is reached when it is differentiated twice.
        bad: calls that must be refused.
        dtypes: which floating-point types it computes in.
        tolerance: (rtol, atol) that replace the usual ones for a dtype.
        grad, twice: whether it is differentiable once, twice.
        without: properties that it does not have, and why: "empty" (no size-0 sample), "scalar" (no 0-d sample), "half"
            (PyTorch differs in float16), "nan", "dtypes", "int64", "bool", ... (PyTorch differs for such inputs), "devices".
        elementwise: every combination of dtypes is compared with PyTorch.
        aliases: other public names of the same function.
    """

    name: str
    function: Callable[..., Any]
    samples: Callable[[Draw], Iterable[Sample]]
    reference: Callable[..., Any]
    torch: str | Callable[[Any], Callable[..., Any]] | None = None
    verbs: tuple[str, ...] = ()
    composites: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = ()
    dtypes: tuple[str, ...] = FLOATS
    tolerance: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    grad: bool = True
    twice: bool = True
    without: Mapping[str, str] = field(default_factory=dict)
    elementwise: bool = False
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def draw(self) -> list[Sample]:
        """The samples: the same in every run, others for every operation."""
        return list(self.samples(Draw(sum(map(ord, self.name)))))

    def close(self, dtype: Any) -> dict[str, float]:
        rtol, atol = self.tolerance.get(str(dtype), TOLERANCE[str(dtype)])
        return {"rtol": rtol, "atol": atol}

    def in_torch(self, torch: Any) -> Callable[..., Any]:
        assert self.torch is not None
        return operator.attrgetter(self.torch)(torch) if isinstance(self.torch, str) else self.torch(torch)


def wrap(arrays: Iterable[Array], needs: Iterable[int] = (), device: str = "cpu") -> list[Tensor]:
    """Tensors that share the arrays' memory (their strides matter); those numbered in ``needs`` want a gradient."""
    tensors = [minidl.from_numpy(a).to(device) for a in arrays]
    for i in needs:
        tensors[i].requires_grad_()
    return tensors


def run(op: Op, sample: Sample, tensors: list[Tensor]) -> list[Tensor]:
    """The outputs of the operation, as a list."""
    args, kwargs = sample.fill(tensors)
    return flat(op.function(*args, **kwargs))


def flat(out: Any) -> list[Any]:
    return [t for o in out for t in flat(o)] if isinstance(out, (tuple, list)) else [out]


def as_function(op: Op, sample: Sample) -> Callable[..., Any]:
    """The operation as a function of its tensors alone, which is what gradcheck takes."""

    def function(*tensors: Tensor) -> list[Tensor]:
        return run(op, sample, list(tensors))

    return function


def transpose_of(linear: Callable[[Array], Array], shape: tuple[int, ...], gy: Array) -> Array:
    """The gradient with respect to the argument of a linear function, one unit vector at a time: slow and obvious."""
    g = np.zeros(shape)
    for at in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[at] = 1.0
        g[at] = np.sum(linear(unit) * gy)
    return g
