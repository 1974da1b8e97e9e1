"""Softmax and its logarithm along one axis, from x - max(x): no exponential overflows, whatever the logits."""
from typing import Any

from minidl.kernels.plain.arrays import Array, widen
from minidl.kernels.registry import plain


def shifted(xp: Any, x: Array, axis: int) -> Array:
    """x - max(x) along the axis, as a fresh array of the dtype to compute in."""
    (values,) = widen(xp, x)
    if not values.size:
        return values.copy()
    return values - values.max(axis=axis, keepdims=True)


@plain("softmax")
def softmax(xp: Any, x: Array, axis: int) -> Array:
    y = shifted(xp, x, axis)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y.astype(x.dtype, copy=False)


@plain("softmax_grad")
def softmax_grad(xp: Any, gy: Array, y: Array, axis: int) -> Array:
    g, probabilities = widen(xp, gy, y)
    gx = g * probabilities
    gx -= probabilities * gx.sum(axis=axis, keepdims=True)
    return gx.astype(gy.dtype, copy=False)


@plain("log_softmax")
def log_softmax(xp: Any, x: Array, axis: int) -> Array:
    y = shifted(xp, x, axis)
    if y.size:
        y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return y.astype(x.dtype, copy=False)


@plain("log_softmax_grad")
def log_softmax_grad(xp: Any, gy: Array, y: Array, axis: int) -> Array:
    g, logarithms = widen(xp, gy, y)
    gx = xp.exp(logarithms)
    gx *= -g.sum(axis=axis, keepdims=True)
    gx += g
    return gx.astype(gy.dtype, copy=False)
