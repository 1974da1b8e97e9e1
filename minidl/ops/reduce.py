"""Reductions: sum, mean, extrema, and what is built from them."""
from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from minidl.autograd.autocast import in_float32
from minidl.autograd.function import Function, composite, plain, tensors
from minidl.errors import ShapeError
from minidl.ops.axes import DimError, axes, axis, inverse
from minidl.ops.checks import expect_tensors, floating
from minidl.tensor import Tensor


class _Reduction(Function, abstract=True):
    """Keeps the shapes, so that the gradient can be stretched over the axes that were reduced."""

    def remember(self, x, axis):
        self.shape = x.shape
        reduced = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        self.kept_shape = tuple(1 if i in reduced else n for i, n in enumerate(x.shape))

    def stretch(self, F, gy):
        return F.broadcast_to(F.reshape(gy, shape=self.kept_shape), shape=self.shape)


class Sum(_Reduction, verb="sum"):
    """The sum over axes."""

    def forward(self, F, x, *, axis=None, keepdims=False):
        self.remember(x, axis)
        return F.sum(x, axis=axis, keepdims=keepdims)

    def backward(self, F, gy):
        return (self.stretch(F, gy),)


@composite("channel_sum")
def channel_sum(F, x):
    return F.sum(x, axis=(0, *range(2, x.ndim)))


class Mean(_Reduction, verb="mean"):
    """The mean over axes."""

    def forward(self, F, x, *, axis=None, keepdims=False):
        self.remember(x, axis)
        y = F.mean(x, axis=axis, keepdims=keepdims)
        self.scale = y.size / x.size if x.size else 0.0
        return y

    def backward(self, F, gy):
        return (self.stretch(F, F.mul(gy, self.scale)),)


class _Extremum(_Reduction, abstract=True):
    """Where several elements are the extremum, they share the gradient equally, as in PyTorch's amax and amin."""

    axis: Any

    def backward(self, F, gy, x, y):
        winners = F.astype(F.eq(x, F.reshape(y, shape=self.kept_shape)), dtype=gy.dtype)
        share = F.div(winners, F.sum(winners, axis=self.axis, keepdims=True))
        return (F.mul(self.stretch(F, gy), share),)


class Amax(_Extremum, verb="amax"):
    """The largest element over axes."""

    def forward(self, F, x, *, axis=None, keepdims=False):
        self.remember(x, axis)
        self.axis = axis
        return F.amax(x, axis=axis, keepdims=keepdims)


class Amin(_Extremum, verb="amin"):
    """The smallest element over axes."""

    def forward(self, F, x, *, axis=None, keepdims=False):
        self.remember(x, axis)
        self.axis = axis
        return F.amin(x, axis=axis, keepdims=keepdims)


class Prod(_Reduction, verb="prod"):
    """The product over one axis, or over all."""

    def forward(self, F, x, *, axis=None, keepdims=False):
        self.remember(x, axis)
        self.axis = axis
        return F.prod(x, axis=axis, keepdims=keepdims)

    def backward(self, F, gy, x):
        # Products of the others, from the left and from the right: right where a factor is zero, too.
        order = tuple(i for i in range(x.ndim) if i != self.axis) + (() if self.axis is None else (self.axis,))
        last = F.transpose(x, axes=order)
        length = math.prod(x.shape) if self.axis is None else last.shape[-1]
        rows = F.reshape(last, shape=(1 if self.axis is None else math.prod(last.shape[:-1]), length))
        columns = [F.getitem(rows, index=(slice(None), slice(i, i + 1))) for i in range(rows.shape[1])]
        one = F.add(F.zeros_like(F.sum(rows, axis=1, keepdims=True)), 1.0)
        left, right = [one], [one]
        for a, b in zip(columns[:-1], columns[:0:-1], strict=True):
            left.append(F.mul(left[-1], a))
            right.append(F.mul(right[-1], b))
        others = [F.mul(a, b) for a, b in zip(left, right[::-1], strict=True)]
        g = F.concatenate(*others, axis=1) if columns else rows
        g = F.transpose(F.reshape(g, shape=last.shape), axes=inverse(order))
        return (F.mul(self.stretch(F, gy), g),)


class CumSum(Function, verb="cumsum"):
    """The running sum along an axis."""

    def forward(self, F, x, *, axis):
        self.axis = axis
        return F.cumsum(x, axis=axis)

    def backward(self, F, gy):
        back = (self.axis,)
        return (F.flip(F.cumsum(F.flip(gy, axes=back), axis=self.axis), axes=back),)


argmax_, argmin_, any_, all_, argsort_ = (plain(v) for v in ("argmax", "argmin", "any", "all", "argsort"))


class Extremum(NamedTuple):
    """What ``max``, ``min``, ``sort`` and ``topk`` along a dim return."""

    values: Tensor
    indices: Tensor


def _not_empty(name: str, x: Tensor, over: tuple[int, ...] | None) -> None:
    empty = [i for i in (range(x.ndim) if over is None else over) if x.shape[i] == 0] if x.ndim else []
    if empty:
        raise DimError(f"{name}: has no answer over axis {empty[0]} of length 0, shape {x.shape}")


def sum(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """The sum over the axes ``dim`` (all by default).  Integers and bool are summed in int64."""
    if dtype is not None:
        x = x.to(dtype)
    return tensors.sum(x, axis=axes("sum", dim, x.data.ndim), keepdims=keepdim)


def mean(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """The mean over the axes ``dim`` (all by default); NaN over nothing."""
    expect_tensors("mean", x)
    if dtype is not None:
        x = x.to(dtype)
    floating("mean", x)
    return tensors.mean(x, axis=axes("mean", dim, x.data.ndim), keepdims=keepdim)


def var(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: float | None = None) -> Tensor:
    """The variance: squared distance from the mean, summed, over n - correction (1, Bessel's, by default)."""
    floating("var", x)
    over = axes("var", dim, x.ndim)
    n = 1
    for i in range(x.ndim) if over is None else over:
        n *= x.shape[i]
    less = (1 if unbiased else 0) if correction is None else correction
    centred = x - tensors.mean(x, axis=over, keepdims=True)
    total = tensors.sum(centred * centred, axis=over, keepdims=keepdim)
    return total / (float(n - less) if n > less else 0.0)


def std(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: float | None = None) -> Tensor:
    """The square root of :func:`var`.  Gradient where it is 0: 0."""
    return _root(var(x, dim, unbiased, keepdim, correction), 0.5)


def var_mean(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False,
             correction: float | None = None) -> tuple[Tensor, Tensor]:
    """(:func:`var`, :func:`mean`) over the axes ``dim``."""
    return var(x, dim, unbiased, keepdim, correction), mean(x, dim, keepdim)


def std_mean(x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False,
             correction: float | None = None) -> tuple[Tensor, Tensor]:
    """(:func:`std`, :func:`mean`) over the axes ``dim``."""
    return std(x, dim, unbiased, keepdim, correction), mean(x, dim, keepdim)


def _root(total: Tensor, exponent: float) -> Tensor:
    """A sum of powers to a power below 1.  Where it is 0 the slope is infinite; the gradient there is 0, as in PyTorch."""
    zero = tensors.eq(total, 0.0)
    roots = tensors.pow_scalar(tensors.masked_fill(total, zero, value=1.0), exponent=exponent)
    return tensors.masked_fill(roots, zero, value=0.0)


def amax(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The largest element over axes; equal ones share the gradient."""
    over = axes("amax", dim, x.ndim)
    _not_empty("amax", x, over)
    return tensors.amax(x, axis=over, keepdims=keepdim)


def amin(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The smallest element over axes; equal ones share the gradient."""
    over = axes("amin", dim, x.ndim)
    _not_empty("amin", x, over)
    return tensors.amin(x, axis=over, keepdims=keepdim)


def max(x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """``max(x)``: the largest element.  ``max(x, dim)``: (values, indices) along an axis.  ``max(x, other)``: elementwise."""
    return _extremum("max", x, dim, keepdim)


def min(x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """``min(x)``: the smallest element.  ``min(x, dim)``: (values, indices) along an axis.  ``min(x, other)``: elementwise."""
    return _extremum("min", x, dim, keepdim)


def _extremum(name: str, x: Tensor, dim: Any, keepdim: bool) -> Any:
    if isinstance(dim, Tensor):
        return getattr(tensors, name + "imum")(x, dim)
    if dim is None:
        _not_empty(name, x, None)
        return getattr(tensors, "a" + name)(x, axis=None, keepdims=False)
    indices = _arg(name, x, dim, True)
    values = tensors.gather(x, indices, axis=axis(name, dim, x.ndim)) if x.ndim else x
    return Extremum(*(t if keepdim or not x.ndim else t.squeeze(dim) for t in (values, indices)))


def _arg(name: str, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    over = None if dim is None else axis(name, dim, x.ndim)
    _not_empty(name, x, None if over is None else (over,))
    if not x.ndim:
        over = None
    return getattr(tensors, name if name.startswith("arg") else "arg" + name)(x, axis=over, keepdims=keepdim and over is not None)


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The int64 index of the largest element along ``dim``, of the flattened tensor without one; the first of equals."""
    return _arg("argmax", x, dim, keepdim)


def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The int64 index of the smallest element along ``dim``, of the flattened tensor without one; the first of equals."""
    return _arg("argmin", x, dim, keepdim)


def any(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether any element is true (not zero), over axes."""
    return any_(x, axis=axes("any", dim, x.ndim), keepdims=keepdim)


def all(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are true (not zero), over axes."""
    return all_(x, axis=axes("all", dim, x.ndim), keepdims=keepdim)


def prod(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The product along ``dim`` (of all elements by default)."""
    over = None if dim is None or not x.ndim else axis("prod", dim, x.ndim)
    return tensors.prod(x, axis=over, keepdims=keepdim and dim is not None)


def cumsum(x: Tensor, dim: int) -> Tensor:
    """The running sum along ``dim``."""
    if not x.ndim:
        return (x if x.is_floating_point() else x.to(x.F.int64)).clone()
    return tensors.cumsum(x, axis=axis("cumsum", dim, x.ndim))


@in_float32
def cumprod(x: Tensor, dim: int) -> Tensor:
    """The running product along ``dim``; its gradient is right where factors are 0, too."""
    expect_tensors("cumprod", x)
    d = axis("cumprod", dim, x.ndim)
    x = x if x.data.dtype.kind in "fV" else x.to(x.F.int64)
    if not x.ndim or not x.shape[d]:
        return x.clone()
    lead = (slice(None),) * d
    factors = (tensors.getitem(x, index=(*lead, i)) for i in range(x.shape[d]))
    return tensors.stack(*itertools.accumulate(factors, tensors.mul), axis=d)


def logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over axes, without overflow.  Integers are computed in float32."""
    expect_tensors("logsumexp", x)
    if not x.is_floating_point():
        x = x.to(x.F.float32)
    over = axes("logsumexp", dim, x.ndim)
    top = tensors.amax(x.detach(), axis=over, keepdims=True)
    top = tensors.masked_fill(top, tensors.isinf(top), value=0.0)         # of all -inf the result is -inf, not NaN
    y = tensors.log(tensors.sum(tensors.exp(x - top), axis=over, keepdims=True)) + top
    return y if keepdim else y.reshape(tensors.sum(top, axis=over, keepdims=False).shape)


def norm(x: Tensor, p: float | str = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The p-norm over axes: (sum |x|^p)^(1/p); p may be ``float("inf")`` or ``"fro"`` (2).  Gradient at 0: 0."""
    floating("norm", x)
    over = axes("norm", dim, x.ndim)
    if p in ("fro", 2):
        return _root(tensors.sum(tensors.square(x), axis=over, keepdims=keepdim), 0.5)
    magnitude = tensors.abs(x)
    if p == 1:
        return tensors.sum(magnitude, axis=over, keepdims=keepdim)
    if p == float("inf"):
        return tensors.amax(magnitude, axis=over, keepdims=keepdim)
    if isinstance(p, str) or p <= 0:
        raise ValueError(f"norm: p must be a positive number, 'fro' or inf, found {p!r}")
    return _root(tensors.sum(tensors.pow_scalar(magnitude, exponent=p), axis=over, keepdims=keepdim), 1 / p)


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that sort along ``dim``; equal elements keep their order, whether ``stable`` asks for it or not."""
    d = axis("argsort", dim, x.ndim)
    if not x.ndim:
        return Tensor(x.F.zeros((), x.F.int64), x.F)
    return argsort_(x, axis=d, descending=descending)


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Extremum:
    """(values, indices) sorted along ``dim``; equal elements keep their order, whether ``stable`` asks for it or not."""
    indices = argsort(x, dim, descending)
    return Extremum(tensors.gather(x, indices, axis=axis("sort", dim, x.ndim)), indices)


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Extremum:
    """(values, indices) of the k largest along ``dim``, best first, whether ``sorted`` asks for it or not; the first of equals.

    Raises:
        ShapeError: k is larger than the axis is long.
    """
    d = axis("topk", dim, x.ndim)
    if not x.ndim:
        raise ShapeError("topk: a 0-d tensor has no axis to choose from")
    if not 0 <= k <= x.shape[d]:
        raise ShapeError(f"topk: k={k} of an axis of length {x.shape[d]}; k must be 0 to {x.shape[d]}")
    order = argsort(x, d, largest)
    indices = Tensor(order.data[(slice(None),) * d + (slice(0, k),)], x.F)
    return Extremum(tensors.gather(x, indices, axis=d), indices)


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Extremum:
    """(values, indices) of the k-th smallest along ``dim``, counted from 1.

    Raises:
        ShapeError: k is not between 1 and the length of the axis.
    """
    d = axis("kthvalue", dim, x.ndim)
    n = x.shape[d] if x.ndim else 1
    if not 1 <= k <= n:
        raise ShapeError(f"kthvalue: k={k} of an axis of length {n}; k must be 1 to {n}")
    if not x.ndim:
        return Extremum(x.clone(), argsort(x))
    order = argsort(x, d)
    indices = Tensor(order.data[(slice(None),) * d + (slice(k - 1, k),)], x.F)
    values = tensors.gather(x, indices, axis=d)
    return Extremum(*(t if keepdim else t.squeeze(d) for t in (values, indices)))
