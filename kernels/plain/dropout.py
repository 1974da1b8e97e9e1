"""Inverted dropout (Srivastava et al. 2014) with a mask that is a function of (seed, offset) and the position.

Nothing is kept for the backward pass: the gradient is the same dropout, with the same key, of the gradient.
"""
import math
from typing import Any

from minidl.kernels.plain.arrays import Array, widen
from minidl.kernels.plain.philox import philox_bits
from minidl.kernels.registry import plain


@plain("dropout_mask")
def dropout_mask(xp: Any, shape: tuple[int, ...], p: float, key: tuple[int, int], dtype: Any) -> Array:
    threshold = round(p * 2**32)
    if threshold >= 2**32:
        return xp.zeros(shape, dtype)
    # Integers are compared, never floats: the same bits give the same mask on every backend.
    kept = philox_bits(xp, *key, math.prod(shape)) >= xp.uint32(threshold)
    return (kept * xp.dtype(dtype).type(1 / (1 - p))).reshape(shape)


@plain("dropout")
def dropout(xp: Any, x: Array, p: float, key: tuple[int, int]) -> Array:
    (values,) = widen(xp, x)
    mask = dropout_mask(xp, x.shape, p, key, values.dtype)
    mask *= values
    return mask.astype(x.dtype, copy=False)
