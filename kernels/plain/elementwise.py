"""The elementwise operations that training spends its time on, where arrays are large; the rest are ufuncs of the backend."""
from typing import Any

from minidl.kernels.plain.arrays import Array, widen
from minidl.kernels.registry import plain


@plain("relu")
def relu(xp: Any, x: Array) -> Array:
    return xp.maximum(x, x.dtype.type(0))


@plain("relu_grad")
def relu_grad(xp: Any, gy: Array, y: Array) -> Array:
    return xp.multiply(gy, y > 0)


@plain("tanh_grad")
def tanh_grad(xp: Any, gy: Array, y: Array) -> Array:
    values, g = widen(xp, y, gy)
    slope = xp.asarray(xp.multiply(values, values))
    xp.subtract(1, slope, out=slope)
    xp.multiply(slope, g, out=slope)
    return slope.astype(gy.dtype, copy=False)


@plain("add_bias_")
def add_bias_(xp: Any, y: Array, b: Array) -> None:
    y += b


@plain("add")
def add(xp: Any, a: Array, b: Array) -> Array:
    return xp.add(a, b)
