"""Sums over everything but the channels."""
from typing import Any

from minidl.kernels.plain.arrays import Array, wide
from minidl.kernels.registry import plain


@plain("channel_sum")
def channel_sum(xp: Any, x: Array) -> Array:
    axes = (0, *range(2, x.ndim))
    return xp.sum(x, axis=axes, dtype=wide(xp, x.dtype)).astype(x.dtype, copy=False)
