"""How convolutions hold their arrays: channels-last maps behind NCHW shapes, and filters packed in the order they are read.

A warp's lanes then read neighbouring channels.  Packing is one small kernel (layout.cu), which also fills channels up to whole
vectors; nothing waits for the GPU, so a step can be captured.
"""
from typing import Any

from minidl.kernels.cuda.launch import launch

Array = Any
FILE = "layout.cu"


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


def numbers(geom: Any) -> tuple[int, ...]:
    """C, H, W, O, kh, kw, strides, top, left, dilations, groups, oh, ow: what the convolution kernels take."""
    return (geom.C, geom.H, geom.W, geom.O, geom.kh, geom.kw, *geom.stride, geom.padding[0], geom.padding[2], *geom.dilation,
            geom.groups, geom.out_h, geom.out_w)  # fmt: skip


def filled_up(channels: int, vector: int) -> int:
    """The next multiple of ``vector``."""
    return -(-channels // vector) * vector


def maps(gpu: Any, x: Array, groups: int, channels: int) -> Array:
    """x (N, C, H, W) as (N, H, W, groups * channels), C/groups channels of each group and then zeros; at a 16-byte address.

    The same memory where nothing is to be done.
    """
    n, c, h, w = x.shape
    real = c // groups
    if channels == real:
        y = channels_last(gpu, x)
        return y if gpu.address(y) % 16 == 0 else y.copy()
    if x.flags.c_contiguous:
        strides = c * h * w, 1, real * h * w, h * w
    else:
        x, strides = channels_last(gpu, x), (c * h * w, c, real, 1)
    y = gpu.xp.empty((n, h, w, groups * channels), x.dtype)
    _pack(gpu, x, y, (h * w, groups, real, channels), strides)
    return y


def filters_first(gpu: Any, w: Array, channels: int = 0) -> Array:
    """w (O, C/groups, kh, kw) as (O, kh, kw, channels): its own and then zeros."""
    o, c, kh, kw = w.shape
    y = gpu.xp.empty((o, kh, kw, channels or c), w.dtype)
    _pack(gpu, w, y, (1, kh * kw, c, channels or c), (c * kh * kw, 0, 1, kh * kw))
    return y


def inputs_first(gpu: Any, w: Array, groups: int, channels: int = 0) -> Array:
    """w (O, C/groups, kh, kw) as (groups, C/groups, kh, kw, channels): the O/groups filters of a group and then zeros."""
    o, c, kh, kw = w.shape
    real, taps = o // groups, kh * kw
    y = gpu.xp.empty((groups, c, kh, kw, channels or real), w.dtype)
    _pack(gpu, w, y, (c, taps, real, channels or real), (real * c * taps, taps, 1, c * taps))
    return y


def taps_first(gpu: Any, w: Array) -> Array:
    """w (O, C/groups, kh, kw) as (kh, kw, C/groups, O)."""
    o, c, kh, kw = w.shape
    y = gpu.xp.empty((kh, kw, c, o), w.dtype)
    _pack(gpu, w, y, (1, c, o, o), (1, 0, kh * kw, c * kh * kw))
    return y


def _pack(gpu: Any, x: Array, y: Array, sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    launch(gpu, FILE, "pack", (gpu.xp.ascontiguousarray(x), y, y.size, *sizes, *strides), dtype=x.dtype, work=y.size)


def join_parts(gpu: Any, partial: Array, b: Array | None, y: Array, relu: bool) -> None:
    """y (..., C) = the sum of partial (parts, *y.shape), + b (C,), and ReLU."""
    arguments = (partial, b, y, y.size, len(partial), y.shape[-1], int(relu))
    launch(gpu, FILE, "join_parts", arguments, dtype=y.dtype, work=y.size)


def join_filters(gpu: Any, partial: Array, geom: Any, dtype: Any, strides: tuple[int, int, int, int]) -> Array:
    """gw (O, C/groups, kh, kw): the sum of partial (parts, ...), which has ``strides`` along groups, O/groups, C/groups, taps."""
    gw = gpu.xp.empty((geom.O, geom.C // geom.groups, geom.kh, geom.kw), dtype)
    sizes = geom.O // geom.groups, geom.C // geom.groups, geom.kh * geom.kw
    arguments = (partial, gw, gw.size, len(partial), partial[0].size, *sizes, *strides)
    launch(gpu, FILE, "join_filters", arguments, dtype=dtype, work=gw.size)
    return gw


def sums_dtype(gpu: Any, dtype: Any) -> Any:
    """What kernels add in: float32 for 16-bit floats, else the dtype itself."""
    return gpu.xp.float32 if dtype.itemsize == 2 else dtype
