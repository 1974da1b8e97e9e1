"""Activations that need an exponential, and their gradients."""
import math
from typing import Any

from minidl.kernels.plain.arrays import Array, widen
from minidl.kernels.plain.special import erf
from minidl.kernels.registry import plain

CUBIC = 0.044715                                     # of GELU's tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415)


def _narrow(xp: Any, y: Array, like: Array) -> Array:
    """As an array (NumPy makes numbers of arrays without axes) in the dtype of ``like``."""
    return xp.asarray(y).astype(like.dtype, copy=False)


def _sigmoid(xp: Any, x: Array) -> Array:
    """From exp(-|x|), so that nothing overflows."""
    e = xp.exp(-abs(x))
    return xp.where(x >= 0, x.dtype.type(1), e) / (e + x.dtype.type(1))


@plain("sigmoid")
def sigmoid(xp: Any, x: Array) -> Array:
    (values,) = widen(xp, x)
    return _narrow(xp, _sigmoid(xp, values), x)


@plain("sigmoid_grad")
def sigmoid_grad(xp: Any, gy: Array, y: Array) -> Array:
    g, values = widen(xp, gy, y)
    return _narrow(xp, g * values * (1 - values), gy)


@plain("tanh")
def tanh(xp: Any, x: Array) -> Array:
    return xp.asarray(xp.tanh(x))


@plain("silu")
def silu(xp: Any, x: Array) -> Array:
    (values,) = widen(xp, x)
    return _narrow(xp, values * _sigmoid(xp, values), x)


@plain("silu_grad")
def silu_grad(xp: Any, gy: Array, x: Array) -> Array:
    g, values = widen(xp, gy, x)
    s = _sigmoid(xp, values)
    return _narrow(xp, g * (s + values * s * (1 - s)), gy)


@plain("gelu")
def gelu(xp: Any, x: Array, approximate: str) -> Array:
    (values,) = widen(xp, x)
    if approximate == "tanh":
        curve = xp.tanh((values + values * values * values * CUBIC) * math.sqrt(2 / math.pi))
    else:
        curve = erf(xp, values * math.sqrt(0.5))
    return _narrow(xp, values * 0.5 * (curve + 1), x)


@plain("gelu_grad")
def gelu_grad(xp: Any, gy: Array, x: Array, approximate: str) -> Array:
    g, values = widen(xp, gy, x)
    square = values * values
    if approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        t = xp.tanh(values * (square * CUBIC + 1) * c)
        slope = (t + 1) * 0.5 + values * (1 - t * t) * (square * (3 * CUBIC) + 1) * (c / 2)
    else:
        density = xp.exp(square * -0.5) * (1 / math.sqrt(2 * math.pi))
        slope = (erf(xp, values * math.sqrt(0.5)) + 1) * 0.5 + values * density
    return _narrow(xp, g * slope, gy)
