"""A backend: every verb, on arrays.  This one is written in plain array-module code and works for NumPy and CuPy alike.

A verb takes arrays and options and returns fresh arrays (or views, where the name says so: reshape, transpose, getitem,
broadcast_to).  Verbs never see a Tensor.  The heavy ones - convolution, pooling, normalisation, losses, optimiser steps -
are looked up in :mod:`minidl.kernels` at each call, so that the variant can be chosen at run time.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from minidl.backend.dtypes import is_16_bit, widest
from minidl.config import conv_precision
from minidl.kernels import lookup, verbs
from minidl.kernels.plain.special import erf

Array = Any

# verb -> the ufunc that computes it; PyTorch's name on the left, NumPy's and CuPy's on the right
UNARY = {
    "neg": "negative", "exp": "exp", "log": "log", "log1p": "log1p", "expm1": "expm1", "log2": "log2", "log10": "log10",
    "sqrt": "sqrt", "square": "square", "abs": "absolute", "sign": "sign", "sin": "sin", "cos": "cos", "tan": "tan",
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh",
    "floor": "floor", "ceil": "ceil", "trunc": "trunc",
    "isnan": "isnan", "isinf": "isinf", "isfinite": "isfinite", "logical_not": "logical_not", "bitwise_not": "invert",
}
BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "true_divide", "pow": "power", "maximum": "maximum",
    "minimum": "minimum", "atan2": "arctan2", "fmod": "fmod", "remainder": "remainder", "floor_divide": "floor_divide",
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "logical_and": "logical_and", "logical_or": "logical_or", "logical_xor": "logical_xor",
    "bitwise_and": "bitwise_and", "bitwise_or": "bitwise_or", "bitwise_xor": "bitwise_xor",
}


class Backend:
    """The verbs of one device.  ``xp`` is its array module; ``kind`` names its kernels ("cpu", "cuda")."""

    def __init__(self, xp: Any, device: str, kind: str):
        self.xp, self.device, self.kind = xp, device, kind
        self.scalars: dict[Any, Array] = {}          # Python scalars as 0-d arrays, see tensor.as_operand
        self.float32, self.float64, self.int64, self.bool = (xp.dtype(n) for n in ("float32", "float64", "int64", "bool"))
        for verb, name in UNARY.items():
            setattr(self, verb, self._unary(getattr(xp, name)))
        for verb, name in BINARY.items():
            setattr(self, verb, self._binary(getattr(xp, name)))
        for verb in verbs():
            if not hasattr(self, verb):              # what is a ufunc or a method stays one; the method may look up a kernel
                setattr(self, verb, self._kernel(verb))

    def _unary(self, ufunc: Any) -> Callable[..., Array]:
        return ufunc

    def _binary(self, ufunc: Any) -> Callable[..., Array]:
        return ufunc

    def _kernel(self, verb: str) -> Callable[..., Any]:
        kind = self.kind

        def run(*arrays: Any, **options: Any) -> Any:
            return lookup(verb, kind)(*arrays, **options)
        run.__name__ = verb
        return run

    if TYPE_CHECKING:                                # the verbs set in __init__
        def __getattr__(self, name: str) -> Any: ...

    def __repr__(self) -> str:
        return f"<backend {self.device}>"

    # ------------------------------------------------------------------------------------------------ arrays in and out
    def asarray(self, value: Any, dtype: Any = None) -> Array:
        """``value`` as an array of this device; shares memory where it can."""
        return self.xp.asarray(value, dtype=dtype)

    def array(self, value: Any, dtype: Any = None) -> Array:
        """``value`` as a new array of this device."""
        return self.xp.array(value, dtype=dtype)

    def scalar(self, value: float, dtype: Any) -> Array:
        """A Python number as a 0-d array that is never written to."""
        return self.xp.array(value, dtype=dtype)

    def to_host(self, x: Array) -> Any:
        """As a NumPy array."""
        raise NotImplementedError

    def to_device(self, x: Array, *, target: Backend) -> Array:
        return target.asarray(self.to_host(x))

    @staticmethod
    def to_numpy(host: Any, dtype: Any, copy: bool | None) -> Any:
        """What ``__array__`` answers."""
        import numpy
        return numpy.array(host, dtype=dtype, copy=copy)

    def describe(self, x: Array, indent: int) -> str:
        """The elements, for people to read."""
        import numpy
        host = self.to_host(x)
        if host.dtype.kind == "V":
            host = host.astype(numpy.float32)
        return numpy.array2string(host, separator=", ", prefix=" " * indent, threshold=1000,
                                  precision=4, floatmode="maxprec_equal" if host.dtype.kind == "f" else "maxprec")

    def storage(self, x: Array) -> int:
        """An identity that all views of one memory share."""
        base = x.base
        while type(base) is self.xp.ndarray:         # up to the array that owns, or wraps, the memory
            x, base = base, base.base
        return id(x)

    def writeable(self, x: Array) -> bool:
        """Whether each of x's elements has a place of its own, that may be written to."""
        return bool(x.flags.writeable)

    def own(self, x: Array) -> Array:
        """``x`` as an array that nobody else holds."""
        return self.xp.array(x)

    def promote_types(self, a: Any, b: Any) -> Any:
        return self.xp.promote_types(a, b) if "V" not in (a.kind, b.kind) else widest(a, b)

    def synchronize(self) -> None:
        """Wait until the device has finished."""

    def memory_allocated(self) -> int:
        """Bytes that arrays hold on the device; 0 where nobody counts them."""
        return 0

    def each_step(self, owner: Any, run: Callable[[], None]) -> None:
        """Run the host's part of ``owner``'s update; a CUDA graph runs it again before each replay."""
        run()

    def uncaptured(self, what: str) -> None:
        """Refuse to go on where a CUDA graph is being captured, which would not repeat ``what``."""

    # --------------------------------------------------------------------------------------------------------- creation
    def zeros(self, shape: Any, dtype: Any = None) -> Array:
        return self.xp.zeros(shape, dtype or self.float32)

    def ones(self, shape: Any, dtype: Any = None) -> Array:
        return self.xp.ones(shape, dtype or self.float32)

    def empty(self, shape: Any, dtype: Any = None) -> Array:
        return self.xp.empty(shape, dtype or self.float32)

    def full(self, shape: Any, value: Any, dtype: Any = None) -> Array:
        return self.xp.full(shape, value, dtype)

    def arange(self, start: Any, stop: Any, step: Any, dtype: Any) -> Array:
        return self.xp.arange(start, stop, step, dtype=dtype)

    def linspace(self, start: float, stop: float, steps: int, dtype: Any = None) -> Array:
        return self.xp.linspace(start, stop, steps, dtype=dtype or self.float32)

    def eye(self, n: int, m: int | None = None, dtype: Any = None) -> Array:
        return self.xp.eye(n, m, dtype=dtype or self.float32)

    def zeros_like(self, x: Array) -> Array:
        return self.xp.zeros_like(x)

    def ones_like(self, x: Array) -> Array:
        return self.xp.ones_like(x)

    def copy(self, x: Array) -> Array:
        return self.xp.array(x)                      # keeps the order of the axes in memory

    def contiguous(self, x: Array) -> Array:
        return self.xp.ascontiguousarray(x) if x.ndim else self.xp.array(x)

    def astype(self, x: Array, *, dtype: Any) -> Array:
        return x.astype(dtype)

    # ------------------------------------------------------------------------------------------------------ elementwise
    def rsqrt(self, x: Array) -> Array:
        return self.div(self._one(x), self.sqrt(x))

    def reciprocal(self, x: Array) -> Array:
        return self.div(self._one(x), x)

    def _one(self, x: Array) -> Any:
        return 1.0

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows."""
        xp, x = self.xp, self._floating(x)
        e = self.exp(self.neg(self.abs(x)))
        return self.div(xp.where(x >= 0, self._one(e), e), e + self._one(e))

    def erf(self, x: Array) -> Array:
        return erf(self.xp, self._floating(x))

    def round(self, x: Array) -> Array:
        """To the nearest integer, halves to the even one."""
        return self.xp.asarray(self.xp.rint(x)) if x.dtype.kind in "fV" else self.copy(x)

    def _floating(self, x: Array) -> Array:
        """Integers and bool in float32, for functions whose values are no integers."""
        return x if x.dtype.kind in "fV" else x.astype(self.float32)

    def where(self, cond: Array, a: Array, b: Array) -> Array:
        return self.xp.where(cond, a, b)

    def masked_fill(self, x: Array, mask: Array, *, value: float) -> Array:
        return self.xp.where(mask, self.xp.asarray(value, dtype=x.dtype), x)

    def pow_scalar(self, x: Array, *, exponent: float) -> Array:
        """x ** exponent; the usual exponents without a power function."""
        if exponent == 2:
            return self.square(x)
        if exponent == 3:
            return self.mul(self.square(x), x)
        if x.dtype.kind == "f" and exponent in (0.5, -1, -0.5):
            return self.sqrt(x) if exponent == 0.5 else self.reciprocal(x) if exponent == -1 else self.rsqrt(x)
        return self.pow(x, exponent)

    def clip(self, x: Array, *, low: Any, high: Any) -> Array:
        return self.xp.asarray(self.xp.clip(x, low, high))

    def relu(self, x: Array) -> Array:
        return self.maximum(x, self.scalar(0, x.dtype))

    def relu_grad(self, gy: Array, y: Array) -> Array:
        return self.mul(gy, y > 0)

    def leaky_relu(self, x: Array, *, slope: float) -> Array:
        return self.xp.where(x > 0, x, x * slope)

    def elu(self, x: Array, *, alpha: float) -> Array:
        return self.xp.where(x > 0, x, self.mul(self.expm1(self.xp.minimum(x, 0)), alpha))

    def softplus(self, x: Array, *, beta: float, threshold: float) -> Array:
        """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
        bx = x * beta
        soft = self.div(self.add(self.xp.maximum(bx, 0), self.log1p(self.exp(self.neg(self.abs(bx))))), beta)
        return self.xp.where(bx > threshold, x, soft).astype(x.dtype, copy=False)

    # ------------------------------------------------------------------------------------------------------- reductions
    def _accumulator(self, x: Array) -> Any:
        return self.float32 if is_16_bit(x.dtype) else None

    def sum(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        """Sum over axes.  float16 and bfloat16 are summed in float32; integers and bool in int64, as PyTorch."""
        wide = self._accumulator(x)
        y = self.xp.sum(x, axis=axis, keepdims=keepdims, dtype=wide if x.dtype.kind in "fV" else self.int64)
        return y.astype(x.dtype) if wide is not None else y

    def mean(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        y = self.xp.mean(x, axis=axis, keepdims=keepdims, dtype=self._accumulator(x))
        return y.astype(x.dtype, copy=False)

    def sum_to(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        """The transpose of broadcast_to: sum over the axes that broadcasting from ``shape`` would add or stretch."""
        if x.shape == shape:
            return x
        lead = x.ndim - len(shape)
        axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(shape) if n == 1 and x.shape[i + lead] != 1)
        return self.sum(x, axis=axes, keepdims=True).reshape(shape) if axes else x.reshape(shape)

    def amax(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return self.xp.max(x, axis=axis, keepdims=keepdims)

    def amin(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return self.xp.min(x, axis=axis, keepdims=keepdims)

    def prod(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return self.xp.prod(x, axis=axis, keepdims=keepdims, dtype=None if x.dtype.kind in "fV" else self.int64)

    def argmax(self, x: Array, *, axis: int | None = None, keepdims: bool = False) -> Array:
        return self.asarray(self.xp.argmax(x, axis=axis, keepdims=keepdims))

    def argmin(self, x: Array, *, axis: int | None = None, keepdims: bool = False) -> Array:
        return self.asarray(self.xp.argmin(x, axis=axis, keepdims=keepdims))

    def any(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return self.asarray(self.xp.any(x, axis=axis, keepdims=keepdims))

    def all(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return self.asarray(self.xp.all(x, axis=axis, keepdims=keepdims))

    def cumsum(self, x: Array, *, axis: int) -> Array:
        return self.xp.cumsum(x, axis=axis, dtype=None if x.dtype.kind in "fV" else self.int64)

    def argsort(self, x: Array, *, axis: int, descending: bool) -> Array:
        """Stable in both directions: equal elements keep their order."""
        if not descending:
            return self.xp.argsort(x, axis=axis, kind="stable")
        back = self.xp.argsort(self.xp.flip(x, axis), axis=axis, kind="stable")
        return x.shape[axis] - 1 - self.xp.flip(back, axis)

    def first_nonfinite(self, x: Array, infinities: bool = True) -> tuple[int, ...] | None:
        """The index of the first NaN (or infinity), None if there is none."""
        bad = ~self.xp.isfinite(x) if infinities else self.xp.isnan(x)
        if not bad.any():
            return None
        return tuple(int(i) for i in self.xp.argwhere(bad)[0])

    # ---------------------------------------------------------------------------------------------------- linear algebra
    def matmul(self, a: Array, b: Array) -> Array:
        return self.xp.matmul(a, b)

    def eigh(self, x: Array) -> tuple[Array, Array]:
        """Eigenvalues of a symmetric matrix, the smallest first, and its unit eigenvectors as columns."""
        return self.xp.linalg.eigh(x)

    def linear(self, x: Array, w: Array, b: Array | None) -> Array:
        """x @ w.T + b, as one product over all leading axes."""
        y = self.matmul(x if x.ndim == 2 else _rows(x), w.T)
        if b is not None:
            y += b
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], w.shape[0])

    def linear_weight_grad(self, gy: Array, x: Array) -> Array:
        """The gradient of x @ w.T with respect to w: gy.T @ x over all leading axes."""
        return self.matmul(_rows(gy).T, _rows(x))

    def einsum(self, *xs: Array, equation: str) -> Array:
        return self.asarray(self.xp.einsum(equation, *xs, optimize=len(xs) > 2))

    # ------------------------------------------------------------------------------------------------------------- shape
    def reshape(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def transpose(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        return x.transpose(axes)

    def broadcast_to(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        return self.xp.broadcast_to(x, shape)

    def concatenate(self, *xs: Array, axis: int) -> Array:
        return self.xp.concatenate(xs, axis)

    def stack(self, *xs: Array, axis: int) -> Array:
        return self.xp.stack(xs, axis)

    def flip(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        return self.xp.flip(x, axes).copy()

    def roll(self, x: Array, *, shift: Any, axis: Any) -> Array:
        return self.xp.roll(x, shift, axis)

    def pad(self, x: Array, *, widths: Sequence[tuple[int, int]], value: float) -> Array:
        """Put ``value`` around x; negative widths crop."""
        shape = tuple(n + lo + hi for n, (lo, hi) in zip(x.shape, widths, strict=True))
        y = self._ordered_as(x, shape, value)
        inner = tuple(slice(max(lo, 0), n - max(hi, 0)) for n, (lo, hi) in zip(shape, widths, strict=True))
        y[inner] = x[self._cropped(x.shape, widths)]
        return y

    def _ordered_as(self, x: Array, shape: tuple[int, ...], value: float) -> Array:
        """An array of ``shape`` filled with ``value``, channels-last in memory if x is."""
        if len(shape) == 4 and x.ndim == 4 and x.strides[1] == x.dtype.itemsize and not x.flags.c_contiguous:
            n, c, h, w = shape
            return self.xp.full((n, h, w, c), value, x.dtype).transpose(0, 3, 1, 2)
        return self.xp.full(shape, value, x.dtype)

    @staticmethod
    def _cropped(shape: tuple[int, ...], widths: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
        return tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(shape, widths, strict=True))

    def triangle(self, x: Array, *, diagonal: int, lower: bool) -> Array:
        return self.xp.tril(x, diagonal) if lower else self.xp.triu(x, diagonal)

    # ---------------------------------------------------------------------------------------------------------- indexing
    def getitem(self, x: Array, *, index: Any) -> Array:
        y = x[index]
        if not isinstance(y, self.xp.ndarray):       # NumPy gives a scalar; an Ellipsis makes it a 0-d array
            y = x[(*index, ...) if type(index) is tuple else (index, ...)]
        return y

    def getitem_grad(self, gy: Array, *, shape: tuple[int, ...], index: Any) -> Array:
        """gy added into zeros where x[index] was read; an element that was read twice gets both."""
        gx = self._ordered_as(gy, shape, 0)
        if all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in (index if type(index) is tuple else (index,))):
            gx[index] = gy
        else:
            self._add_at(gx, index, gy)
        return gx

    def _add_at(self, x: Array, index: Any, values: Array) -> None:
        self.xp.add.at(x, index, values)

    def setitem(self, x: Array, v: Array, *, index: Any) -> Array:
        """A copy of x with ``copy[index] = v``."""
        y = self.copy(x)
        y[index] = v
        return y

    def zero_at(self, x: Array, *, index: Any) -> Array:
        """A copy of x with zeros at ``index``."""
        y = self.copy(x)
        y[index] = 0
        return y

    def gather(self, x: Array, index: Array, *, axis: int) -> Array:
        """y[i][j] = x[i][index[i][j]]: ``index`` may be shorter than x along the other axes, as in PyTorch."""
        return self.getitem(x, index=self._along(index, axis, x.ndim))

    def scatter_add(self, x: Array, v: Array, index: Array, *, axis: int) -> Array:
        """A copy of x with v added at ``index`` along ``axis``."""
        y = self.copy(x)
        self._add_at(y, self._along(index, axis, x.ndim), v)
        return y

    def scatter(self, x: Array, v: Array, index: Array, *, axis: int) -> Array:
        """A copy of x with v written at ``index`` along ``axis``."""
        y = self.copy(x)
        y[self._along(index, axis, x.ndim)] = v
        return y

    def _along(self, index: Array, axis: int, ndim: int) -> tuple[Array, ...]:
        if not ndim:                                 # a number: its only index is the empty one
            return ()
        grids = [self.xp.arange(n).reshape([-1 if k == d else 1 for k in range(ndim)]) for d, n in enumerate(index.shape)]
        grids[axis] = index
        return tuple(grids)

    def nonzero(self, x: Array) -> Array:
        return self.xp.argwhere(x)

    def repeat(self, x: Array, *, counts: Any) -> Array:
        """The elements of a vector, each as often as ``counts`` says."""
        return self.xp.repeat(x, counts)

    def unique(self, x: Array, *, axis: int | None, inverse: bool, counts: bool) -> Any:
        return self.xp.unique(x, return_inverse=inverse, return_counts=counts, axis=axis, equal_nan=False)

    def bincount(self, x: Array, *, minlength: int) -> Array:
        return self.xp.bincount(x, minlength=minlength)

    def one_hot(self, labels: Array, *, num_classes: int) -> Array:
        y = self.xp.zeros((*labels.shape, num_classes), self.int64)
        if labels.size:
            y.reshape(-1, num_classes)[self.xp.arange(labels.size), labels.reshape(-1)] = 1
        return y

    # ------------------------------------------------------------------------------------------------------------ writes
    def copyto(self, x: Array, value: Array) -> None:
        """Overwrite x with ``value`` (broadcast, cast)."""
        x[...] = value

    def assign(self, x: Array, index: Any, value: Array) -> None:
        """x[index] = value."""
        x[index] = value

    def add_into(self, x: Array, value: Array) -> Array:
        """x + value, in x's own memory where that is quicker."""
        x += value
        return x

    # ------------------------------------------- kernels whose recorded form takes other options than their array form
    def _conv_precision(self) -> str:
        return conv_precision.get()

    def conv2d(self, x: Array, w: Array, b: Array | None, *, geom: Any, relu: bool = False) -> Array:
        return lookup("conv2d", self.kind)(x, w, b, geom, self._conv_precision(), relu)

    def conv2d_input_grad(self, gy: Array, w: Array, *, geom: Any) -> Array:
        return lookup("conv2d_input_grad", self.kind)(gy, w, geom, self._conv_precision())

    def conv2d_weight_grad(self, gy: Array, x: Array, *, geom: Any) -> Array:
        return lookup("conv2d_weight_grad", self.kind)(gy, x, geom, self._conv_precision())

    def batch_norm_grad(self, gy: Array, x: Array, w: Array, mean: Array, invstd: Array, *, eps: float) -> Any:
        return lookup("batch_norm_grad", self.kind)(gy, x, w, mean, invstd)

    def batch_norm_relu_grad(self, gy: Array, x: Array, w: Array, b: Array, y: Array, mean: Array, invstd: Array, *, eps: float,
                             residual: bool) -> Any:
        return lookup("batch_norm_relu_grad", self.kind)(gy, x, w, b, y, mean, invstd, residual)

    def layer_norm_grad(self, gy: Array, x: Array, w: Array, mean: Array, invstd: Array, *, ndim: int, eps: float) -> Any:
        return lookup("layer_norm_grad", self.kind)(gy, x, w, mean, invstd, ndim)

    def group_norm_grad(self, gy: Array, x: Array, w: Array, mean: Array, invstd: Array, *, groups: int, eps: float) -> Any:
        return lookup("group_norm_grad", self.kind)(gy, x, w, mean, invstd, groups)

    def nll_loss_grad(self, g: Array, labels: Array, weight: Array, *, num_classes: int, ignore_index: int) -> Array:
        return lookup("nll_loss_grad", self.kind)(g, labels, num_classes, weight, ignore_index)


def _rows(x: Array) -> Array:
    """All leading axes as one.  (-1 would not say how many rows there are when a row is empty.)"""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
