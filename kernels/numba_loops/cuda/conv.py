"""im2col and col2im on a GPU; convolution is im2col and a matrix product, which is cuBLAS's.

x is (N, C, H, W), the columns of an image (C*kh*kw, P) with P = out_h * out_w; ``s`` holds the other sizes.
"""
from __future__ import annotations

from typing import Any

from numba import cuda

from minidl.kernels.numba_loops import conv as loops
from minidl.kernels.numba_loops.cuda.launch import array_module, device_function, launch_over, position
from minidl.kernels.numba_loops.sizes import sizes

column_entry, pixel_sum = device_function(loops.column_entry), device_function(loops.pixel_sum)


# ---------------------------------------------------------------------------------------------------------------- kernels
@cuda.jit
def im2col_kernel(x, s, cols):
    """Each thread copies one entry of the columns at a time.

    Entries are counted along a row of the columns, which follows a row of the image: the 32 threads of a warp write, and at
    stride 1 read, numbers that lie side by side, and the memory sends all of them at once.
    """
    for index in range(cuda.grid(1), cols.size, cuda.gridsize(1)):
        plane, tap, i, j = position(index, s.kh * s.kw, s.out_h, s.out_w)
        n, c, u, v = plane // s.channels, plane % s.channels, tap // s.kw, tap % s.kw
        cols[n, c * s.kh * s.kw + tap, i * s.out_w + j] = column_entry(x, n, c, u, v, i, j, s)


@cuda.jit
def col2im_kernel(cols, s, x):
    """Each thread makes one pixel at a time: it gathers the entries that im2col copied the pixel to.

    A thread for each entry would be the mirror image of im2col, but several would add to one pixel at a time.  That takes atomic
    additions, whose order, and with it the last bits of the sum, is another one in every run.
    """
    for index in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        n, c, h, w = position(index, s.channels, s.height, s.width)
        x[n, c, h, w] = pixel_sum(cols, n, c, h, w, s)


# --------------------------------------------------------------------------------------------------------------- launches
def im2col(x: Any, geom: Any) -> Any:
    cols = array_module().empty((len(x), geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w), x.dtype)
    launch_over(im2col_kernel, cols.size, x, sizes(geom), cols)
    return cols


def col2im(cols: Any, geom: Any) -> Any:
    x = array_module().empty((len(cols), geom.C, geom.H, geom.W), cols.dtype)
    launch_over(col2im_kernel, x.size, cols, sizes(geom), x)
    return x


def conv2d(x: Any, w: Any, b: Any, geom: Any, precision: str = "fast", relu: bool = False) -> Any:
    cols = _in_groups(im2col(x, geom), geom)
    y = _filters(w, geom) @ cols                                       # (N, groups, O/groups, P)
    y = y.reshape(len(x), geom.O, geom.out_h, geom.out_w)
    if b is not None:
        y += b[:, None, None]
    return y.clip(0, None) if relu else y


def conv2d_input_grad(gy: Any, w: Any, geom: Any, precision: str = "fast") -> Any:
    cols = _filters(w, geom).swapaxes(1, 2) @ _in_groups(gy, geom)     # (N, groups, K, P)
    return col2im(cols.reshape(len(gy), geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w), geom)


def conv2d_weight_grad(gy: Any, x: Any, geom: Any, precision: str = "fast") -> Any:
    gw = _in_groups(gy, geom) @ _in_groups(im2col(x, geom), geom).swapaxes(2, 3)
    return gw.sum(axis=0).reshape(geom.O, -1, geom.kh, geom.kw)


def _filters(w: Any, geom: Any) -> Any:
    return w.reshape(geom.groups, geom.O // geom.groups, -1)


def _in_groups(maps: Any, geom: Any) -> Any:
    """Channels, or rows of the columns, as (N, groups, per group, P)."""
    return maps.reshape(len(maps), geom.groups, maps.shape[1] // geom.groups, geom.out_h * geom.out_w)
