"""Comparing gradients with finite differences."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.autograd import engine
from minidl.autograd.engine import grad
from minidl.autograd.grad_mode import enable_grad
from minidl.errors import DTypeError, MinidlError
from minidl.tensor import Tensor

Array = Any


class GradcheckError(MinidlError, RuntimeError):
    """A gradient that finite differences do not confirm; ``mismatches`` says where."""

    def __init__(self, message: str, mismatches: Sequence[Mismatch] = ()):
        super().__init__(message)
        self.mismatches = list(mismatches)


@dataclass(frozen=True)
class Mismatch:
    """One element of one input's gradient that finite differences do not confirm.

    Attributes:
        input: which argument.  index: which element of it.
        analytic: what backward gave.  numeric: the central difference.
        left, right: the one-sided differences; far apart at a kink.
        kink: whether the function has a kink or a jump there, so that neither value is wrong.
    """

    input: int
    index: tuple[int, ...]
    analytic: float
    numeric: float
    left: float
    right: float
    kink: bool

    def __str__(self) -> str:
        what = (f"input {self.input} at {self.index}: backward gave {self.analytic:.8g}, finite differences {self.numeric:.8g}")
        if self.kink:
            return f"{what} (a kink: {self.left:.6g} from the left, {self.right:.6g} from the right; move the input off it)"
        return what + f" (off by {abs(self.analytic - self.numeric):.3g})"


def gradcheck(function: Callable[..., Any], inputs: Tensor | Sequence[Any], eps: float = 1e-6, atol: float = 1e-6,
              rtol: float = 1e-5, raise_exception: bool = True, seed: int = 0) -> bool:
    """Whether the gradients of ``function(*inputs)`` agree with central differences.

    Each output is weighted by random numbers and summed; the gradient of that sum is compared element by element:
    ``|analytic - numeric| <= atol + rtol * |numeric|``.  The defaults fit float64: with a step of 1e-6, central differences
    are off by about 1e-12 (truncation) and 1e-16 / 1e-6 = 1e-10 (rounding) for functions of order one.

    Args:
        function: takes the inputs, returns a tensor or several.  It must give the same result each time.
        inputs: tensors (the float64 ones that need a gradient are checked) and anything else the function takes.
        raise_exception: raise GradcheckError, which lists the worst elements, instead of returning False.

    Raises:
        GradcheckError: a gradient is wrong, has the wrong shape or number, or the function is not repeatable.
        DTypeError: an input that needs a gradient is not float64.
    """
    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, t in enumerate(arguments) if isinstance(t, Tensor) and t.requires_grad]
    if not checked:
        raise GradcheckError("gradcheck: no input needs a gradient; make one with requires_grad=True")
    for i in checked:
        if arguments[i].dtype != np.float64:
            raise DTypeError(f"gradcheck: input {i} is {arguments[i].dtype}; finite differences need float64, convert with "
                             ".double()")
    try:
        analytic, weights = _analytic(function, arguments, checked, seed)
        mismatches = [m for k, i in enumerate(checked)
                      for m in _compare(function, arguments, i, analytic[k], weights, eps, atol, rtol)]
        wrong = [m for m in mismatches if not m.kink] or mismatches
        if wrong:
            raise GradcheckError(_report(wrong, arguments), mismatches)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(function: Callable[..., Any], inputs: Tensor | Sequence[Any], eps: float = 1e-6, atol: float = 1e-5,
                  rtol: float = 1e-4, raise_exception: bool = True, seed: int = 0) -> bool:
    """Whether the gradients of the gradients agree with central differences.

    :func:`gradcheck` of the function that maps inputs and output gradients to input gradients, which is recorded.
    """
    arguments = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, t in enumerate(arguments) if isinstance(t, Tensor) and t.requires_grad]
    outs = _floating_outputs(function(*arguments))
    rng = np.random.default_rng(seed + 1)
    out_grads = [Tensor(o.F.asarray(rng.standard_normal(o.shape)), o.F).requires_grad_() for o in outs]

    def first(*both: Any) -> Any:
        mine, gys = both[:len(arguments)], both[len(arguments):]
        results = _floating_outputs(function(*mine))
        return [g for g in grad(results, [mine[i] for i in checked], gys, create_graph=True, allow_unused=True) if g is not None
                and g.requires_grad]

    if not first(*arguments, *out_grads):
        return True                                  # the gradient is constant: nothing depends on anything
    return gradcheck(first, [*arguments, *out_grads], eps, atol, rtol, raise_exception, seed)


def _floating_outputs(out: Any) -> list[Tensor]:
    if not isinstance(out, (Tensor, tuple, list)):
        raise GradcheckError(f"gradcheck: the function must return a Tensor or several in a tuple, found {type(out).__name__}")
    outs = [out] if isinstance(out, Tensor) else [o for o in out if isinstance(o, Tensor)]
    return [o for o in outs if o.requires_grad]


@contextmanager
def _counting() -> Iterator[None]:
    """Look at what every backward returns: the engine, in a hurry, pairs gradients with inputs without counting them."""
    before = engine.watch

    def watch(node: Any, gy: Any, grads: Any) -> None:
        if len(grads) != len(node.needs):
            raise GradcheckError(f"gradcheck: {node.name}: backward returned {len(grads)} gradients for {len(node.needs)} inputs")
        if before is not None:
            before(node, gy, grads)

    engine.watch = watch
    try:
        yield
    finally:
        engine.watch = before


def _analytic(function: Callable[..., Any], arguments: list[Any], checked: list[int],
              seed: int) -> tuple[list[Array], list[Array]]:
    with enable_grad():
        outs = _floating_outputs(function(*arguments))
        if not outs:
            raise GradcheckError("gradcheck: no output depends on an input that needs a gradient")
        rng = np.random.default_rng(seed)
        weights = [rng.standard_normal(o.shape) for o in outs]
        xs = [arguments[i] for i in checked]
        seeds = [Tensor(o.F.asarray(w, o.dtype), o.F) for o, w in zip(outs, weights, strict=True)]
        with _counting():
            gradients = grad(outs, xs, seeds, allow_unused=True)
        again = _floating_outputs(function(*arguments))
    for a, b in zip(outs, again, strict=True):
        if not np.array_equal(a.F.to_host(a.data), b.F.to_host(b.data), equal_nan=True):
            raise GradcheckError("gradcheck: the function gives another result each time; fix its random numbers first")
    arrays = []
    for i, x, g in zip(checked, xs, gradients, strict=True):
        if g is not None and g.shape != x.shape:
            raise GradcheckError(f"gradcheck: the gradient of input {i} has shape {g.shape}, the input {x.shape}")
        if g is not None and g.dtype != x.dtype:
            raise GradcheckError(f"gradcheck: the gradient of input {i} is {g.dtype}, the input {x.dtype}")
        arrays.append(np.zeros(x.shape) if g is None else np.array(g.F.to_host(g.data)))
    return arrays, weights


def _compare(function: Callable[..., Any], arguments: list[Any], i: int, analytic: Array, weights: list[Array], eps: float,
             atol: float, rtol: float) -> list[Mismatch]:
    x = arguments[i]
    F, host = x.F, np.array(x.F.to_host(x.data))
    here = None

    def value(at: tuple[int, ...], step: float) -> float:
        moved = host.copy()
        moved[at] += step
        trial = list(arguments)
        trial[i] = Tensor(F.asarray(moved), F).requires_grad_()
        with enable_grad():                          # so that the outputs that need a gradient are the same ones
            outs = _floating_outputs(function(*trial))
        return float(sum(np.sum(o.F.to_host(o.data) * w) for o, w in zip(outs, weights, strict=True)))

    found = []
    for at in itertools.product(*map(range, host.shape)):
        up, down = value(at, eps), value(at, -eps)
        numeric = (up - down) / (2 * eps)
        if abs(analytic[at] - numeric) <= atol + rtol * abs(numeric):
            continue
        here = value(at, 0.0) if here is None else here
        right, left = (up - here) / eps, (here - down) / eps
        # One-sided differences of a smooth function differ by eps * f''; at a kink they differ as much as the error itself.
        closer = (value(at, eps / 8) - here) * 8 / eps - (here - value(at, -eps / 8)) * 8 / eps
        apart = abs(right - left)
        kink = apart > 10 * (atol + rtol * abs(numeric)) and abs(closer) > apart / 2
        found.append(Mismatch(i, at, float(analytic[at]), numeric, left, right, kink))
    return found


def _report(wrong: list[Mismatch], arguments: list[Any]) -> str:
    worst = sorted(wrong, key=lambda m: -abs(m.analytic - m.numeric) if abs(m.analytic - m.numeric) == abs(m.analytic - m.numeric)
                   else -np.inf)
    total = sum(arguments[i].numel() for i in {m.input for m in wrong})
    lines = [f"gradcheck: {len(wrong)} of {total} elements are wrong; the worst:"]
    lines += [f"  {m}" for m in worst[:5]]
    return "\n".join(lines)

