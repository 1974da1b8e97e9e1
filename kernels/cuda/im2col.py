"""Launches of im2col.cu: windows as columns, and back."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import sums_dtype

FILE = "im2col.cu"


def _window(geom: Any) -> tuple[int, ...]:
    """C, H, W, kh, kw, strides, top, left, dilations, oh, ow."""
    return (geom.C, geom.H, geom.W, geom.kh, geom.kw, *geom.stride, geom.padding[0], geom.padding[2], *geom.dilation,
            geom.out_h, geom.out_w)  # fmt: skip


def _im2col(gpu: Any, entry: str, work: int, x: Array, geom: Any) -> Array:
    x = gpu.xp.ascontiguousarray(x)
    cols = gpu.xp.empty((len(x), geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w), x.dtype)
    launch(gpu, FILE, entry, (x, cols, work or cols.size, *_window(geom)), dtype=x.dtype, work=work or cols.size)
    return cols


def _takes_windows(x: Array, geom: Any) -> bool:
    return same_dtype(x) and x.size > 0


@cuda("im2col", "naive", _takes_windows)
def im2col_naive(gpu: Any, x: Array, geom: Any) -> Array:
    return _im2col(gpu, "im2col_naive", 0, x, geom)


@cuda("im2col", "cuda", _takes_windows)
def im2col(gpu: Any, x: Array, geom: Any) -> Array:
    return _im2col(gpu, "im2col", len(x) * geom.C * geom.kh * geom.out_h * geom.out_w, x, geom)


@cuda("col2im", "naive", _takes_windows)
def col2im_naive(gpu: Any, cols: Array, geom: Any) -> Array:
    cols = gpu.xp.ascontiguousarray(cols)
    x = gpu.xp.zeros((len(cols), geom.C, geom.H, geom.W), sums_dtype(gpu, cols.dtype))
    launch(gpu, FILE, "col2im_naive", (cols, x, cols.size, *_window(geom)), dtype=cols.dtype, work=cols.size)
    return x.astype(cols.dtype, copy=False)


@cuda("col2im", "cuda", _takes_windows)
def col2im(gpu: Any, cols: Array, geom: Any) -> Array:
    cols = gpu.xp.ascontiguousarray(cols)
    x = gpu.xp.empty((len(cols), geom.C, geom.H, geom.W), cols.dtype)
    launch(gpu, FILE, "col2im", (cols, x, x.size, *_window(geom)), dtype=cols.dtype, work=x.size)
    return x
