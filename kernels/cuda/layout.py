"""Channels-last memory behind NCHW shapes, as on the CPU: a warp's lanes then read neighbouring channels."""
from typing import Any

Array = Any


def channels_last(gpu: Any, x: Array) -> Array:
    """x (N, C, ...) as a contiguous (N, ..., C): the same memory if it already is in that order, else a copy."""
    return gpu.xp.ascontiguousarray(gpu.xp.moveaxis(x, 1, -1))


def channels_first(gpu: Any, y: Array) -> Array:
    """The (N, C, ...) view of y (N, ..., C)."""
    return gpu.xp.moveaxis(y, -1, 1)


def contiguous(gpu: Any, *arrays: Array | None) -> list[Array | None]:
    """The arrays with their elements in the order of their indices; None stays None."""
    # The reshape is for numbers: ascontiguousarray makes them one-dimensional.
    return [None if a is None else gpu.xp.ascontiguousarray(a).reshape(a.shape) for a in arrays]
