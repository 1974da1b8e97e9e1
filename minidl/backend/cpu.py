"""The CPU backend: NumPy.

``out=...`` (the Ellipsis, NumPy >= 2.3) makes a ufunc return an array for 0-d results too, where it would otherwise return
a scalar; it costs nothing.
"""
from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.backend.base import Array, Backend, _rows
from minidl.kernels import lookup
from minidl.kernels.cpu import memory

# log(0) is -inf and x / 0 is inf without a word, as in PyTorch; detect_anomaly() finds where they come from.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"minidl\.(backend|kernels)")


LARGE = 1 << 16                                      # elements from which looking up a kernel pays for an elementwise operation
FEW = 1 << 10                                        # the same for one that takes an exponential
MANY = 1 << 22                                       # multiplications of a matrix product from which waking the threads pays


class CPU(Backend):
    """Verbs on NumPy arrays."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(np, device, device)
        self.add: Callable[[Array, Array], Array] = _add     # these hide the ufuncs
        self.tanh: Callable[[Array], Array] = _tanh

    def relu(self, x: Array) -> Array:
        return lookup("relu", self.kind)(x) if x.size >= LARGE else super().relu(x)

    def relu_grad(self, gy: Array, y: Array) -> Array:
        return lookup("relu_grad", self.kind)(gy, y) if y.size >= LARGE else super().relu_grad(gy, y)

    def sigmoid(self, x: Array) -> Array:
        return lookup("sigmoid", self.kind)(x) if x.size >= FEW and x.dtype.kind == "f" else super().sigmoid(x)

    def _unary(self, ufunc: Any) -> Callable[..., Array]:
        return lambda x: ufunc(x, out=...)

    def _binary(self, ufunc: Any) -> Callable[..., Array]:
        return lambda a, b: ufunc(a, b, out=...)

    def to_host(self, x: Array) -> Array:
        return x

    def scalar(self, value: float, dtype: Any) -> Array:
        array = np.array(value, dtype)
        array.flags.writeable = False                # it is cached, and shared by all who use that number
        return array

    def own(self, x: Array) -> Array:
        return x if type(x) is np.ndarray and memory.owns(x) and sys.getrefcount(x) <= _SOLE else np.array(x)

    def add_into(self, x: Array, value: Array) -> Array:
        if x.size >= LARGE:
            return _add(x, value)                    # on all threads, which beats saving an array
        # In place on one element takes three times as long as out of place.
        return np.add(x, value, x) if x.size > 1 else np.add(x, value, out=...)

    def sum(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        kind = x.dtype.kind
        if kind == "f" and x.dtype.itemsize > 2:
            return np.add.reduce(x, axis=axis, keepdims=keepdims, out=...)
        wide = self.float32 if kind in "fV" else self.int64
        y = np.add.reduce(x, axis=axis, dtype=wide, keepdims=keepdims, out=...)
        return y.astype(x.dtype) if kind in "fV" else y

    def mean(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        wide = self.float32 if x.dtype.itemsize == 2 else None
        y = np.add.reduce(x, axis=axis, dtype=wide, keepdims=keepdims, out=...)
        np.true_divide(y, x.size / max(y.size, 1) if y.size else 1, y)
        return y if wide is None else y.astype(x.dtype)

    def amax(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return np.maximum.reduce(x, axis=axis, keepdims=keepdims, out=...)

    def amin(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        return np.minimum.reduce(x, axis=axis, keepdims=keepdims, out=...)

    def prod(self, x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
        dtype = None if x.dtype.kind in "fV" else self.int64
        return np.multiply.reduce(x, axis=axis, dtype=dtype, keepdims=keepdims, out=...)

    def matmul(self, a: Array, b: Array) -> Array:
        if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous and a.size:
            # One product; NumPy would make one of each matrix in a.
            return self._product(a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
        return self._product(a, b)

    def _product(self, a: Array, b: Array) -> Array:
        """a @ b, a large one in memory that was used before (kernels/cpu/memory.py)."""
        if a.dtype == b.dtype and a.dtype.kind == "f" and a.shape[:-2] == b.shape[:-2]:
            if a.itemsize == 2:                      # NumPy's own loop for float16 takes a hundred times as long
                return self._product(a.astype(self.float32), b.astype(self.float32)).astype(a.dtype)
            return _multiply(a, b, memory.empty((*a.shape[:-1], b.shape[-1]), a.dtype))
        return np.matmul(a, b, out=...)

    def linear_weight_grad(self, gy: Array, x: Array) -> Array:
        if x.itemsize == 2:
            return self.linear_weight_grad(gy.astype(self.float32), x.astype(self.float32)).astype(x.dtype)
        gw = memory.empty((gy.shape[-1], x.shape[-1]), x.dtype)
        return _multiply(_rows(gy).T, _rows(x), gw)


def _multiply(a: Array, b: Array, out: Array) -> Array:
    """out = a @ b; a large product in parts on the kernels' threads."""
    if a.size * b.shape[-1] >= MANY:
        from minidl.kernels.cpu import gemm  # the pool behind it is not for `import minidl`
        return gemm.product(a, b, out)
    return np.matmul(a, b, out=out)


def _add(a: Array, b: Array) -> Array:
    if a.size >= LARGE and type(b) is np.ndarray and a.shape == b.shape:
        return lookup("add", "cpu")(a, b)
    return np.add(a, b, out=...)


def _tanh(x: Array) -> Array:
    return lookup("tanh", "cpu")(x) if x.size >= LARGE and x.dtype.kind == "f" else np.tanh(x, out=...)


def _count_of_a_sole_owner() -> int:
    """The reference count that ``own`` sees for an array held by its caller's local variable alone (it varies by Python)."""
    def own(x: Array) -> int:
        return sys.getrefcount(x)
    array = np.empty(1)
    return own(array)


_SOLE = _count_of_a_sole_owner()
