"""Activations as their definitions, one number at a time in float64."""
import math
from collections.abc import Callable

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


def _each(f: Callable[..., float], *arrays: Array) -> Array:
    """f of the numbers at each position."""
    y = np.empty(arrays[0].shape, arrays[0].dtype)
    for i in np.ndindex(*y.shape):
        y[i] = f(*(float(a[i]) for a in arrays))
    return y


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * x))


def _cubic(x: float) -> float:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _gelu(x: float) -> float:
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def _gelu_slope(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2)) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(_cubic(x)))


def _gelu_tanh_slope(x: float) -> float:
    t = math.tanh(_cubic(x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


@reference("sigmoid")
def sigmoid(x: Array) -> Array:
    return _each(_sigmoid, x)


@reference("sigmoid_grad")
def sigmoid_grad(gy: Array, y: Array) -> Array:
    return _each(lambda g, s: g * s * (1 - s), gy, y)


@reference("tanh")
def tanh(x: Array) -> Array:
    return _each(math.tanh, x)


@reference("silu")
def silu(x: Array) -> Array:
    return _each(lambda v: v * _sigmoid(v), x)


@reference("silu_grad")
def silu_grad(gy: Array, x: Array) -> Array:
    return _each(lambda g, v: g * _sigmoid(v) * (1 + v * (1 - _sigmoid(v))), gy, x)


@reference("gelu")
def gelu(x: Array, approximate: str) -> Array:
    return _each(_gelu_tanh if approximate == "tanh" else _gelu, x)


@reference("gelu_grad")
def gelu_grad(gy: Array, x: Array, approximate: str) -> Array:
    slope = _gelu_tanh_slope if approximate == "tanh" else _gelu_slope
    return _each(lambda g, v: g * slope(v), gy, x)
