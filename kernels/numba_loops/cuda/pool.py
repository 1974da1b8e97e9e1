"""Pooling on a GPU: a thread for each window, and for gradients a thread for each pixel.

x is (N, C, H, W), y (N, C, out_h, out_w); ``s`` holds the sizes.
"""
from __future__ import annotations

from typing import Any

from numba import cuda

from minidl.kernels.numba_loops import pool as loops
from minidl.kernels.numba_loops.cuda.launch import array_module, device_function, launch_over, position
from minidl.kernels.numba_loops.sizes import sizes

window_max, window_sum = device_function(loops.window_max), device_function(loops.window_sum)


@device_function
def window_with(pixel, tap, pad, dilation, stride, windows):
    """Which window of an axis has ``pixel`` as its value number ``tap``; -1 if none has."""
    start = pixel + pad - tap * dilation
    return start // stride if 0 <= start < windows * stride and start % stride == 0 else -1


# ---------------------------------------------------------------------------------------------------------------- kernels
@cuda.jit
def max_pool_kernel(x, s, y, indices):
    """Each thread looks at one window at a time: what is its largest value, and where?"""
    for index in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        n, c, i, j = position(index, s.channels, s.out_h, s.out_w)
        y[n, c, i, j], indices[n, c, i, j] = window_max(x, n, c, i, j, s)


@cuda.jit
def max_pool_grad_kernel(gy, indices, s, gx):
    """Each thread asks all windows over its pixel whether that was their largest, and adds up the gradients of those.

    A thread for each window would have less to ask, but two windows with one largest pixel would add to it at the same time.
    """
    for index in range(cuda.grid(1), gx.size, cuda.gridsize(1)):
        n, c, h, w = position(index, s.channels, s.height, s.width)
        total = gy.dtype.type(0)
        for u in range(s.kh):
            i = window_with(h, u, s.top, s.dh, s.sh, s.out_h)
            for v in range(s.kw):
                j = window_with(w, v, s.left, s.dw, s.sw, s.out_w)
                if i >= 0 and j >= 0 and indices[n, c, i, j] == h * s.width + w:
                    total += gy[n, c, i, j]
        gx[n, c, h, w] = total


@cuda.jit
def take_kernel(x, indices, y):
    """y[plane, p] = x[plane, indices[plane, p]], an element of y at a time."""
    for index in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        plane, p = index // y.shape[1], index % y.shape[1]
        y[plane, p] = x[plane, indices[plane, p]]


@cuda.jit
def avg_pool_kernel(x, s, divisors, y):
    """Each thread makes the mean of one window at a time."""
    for index in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        n, c, i, j = position(index, s.channels, s.out_h, s.out_w)
        y[n, c, i, j] = window_sum(x, n, c, i, j, s) / divisors[i, j]


@cuda.jit
def avg_pool_grad_kernel(gy, s, divisors, gx):
    """Each thread adds up its pixel's shares of the gradients of all windows over it."""
    for index in range(cuda.grid(1), gx.size, cuda.gridsize(1)):
        n, c, h, w = position(index, s.channels, s.height, s.width)
        total = gy.dtype.type(0)
        for u in range(s.kh):
            i = window_with(h, u, s.top, s.dh, s.sh, s.out_h)
            for v in range(s.kw):
                j = window_with(w, v, s.left, s.dw, s.sw, s.out_w)
                if i >= 0 and j >= 0:
                    total += gy[n, c, i, j] / divisors[i, j]
        gx[n, c, h, w] = total


# --------------------------------------------------------------------------------------------------------------- launches
def max_pool2d(x: Any, geom: Any) -> Any:
    xp, shape = array_module(), (len(x), geom.C, geom.out_h, geom.out_w)
    y, indices = xp.empty(shape, x.dtype), xp.empty(shape, xp.int64)
    launch_over(max_pool_kernel, y.size, x, sizes(geom), y, indices)
    return y, indices


def max_pool2d_grad(gy: Any, indices: Any, geom: Any) -> Any:
    gx = array_module().empty((len(gy), geom.C, geom.H, geom.W), gy.dtype)
    launch_over(max_pool_grad_kernel, gx.size, gy, indices, sizes(geom), gx)
    return gx


def max_pool2d_take(x: Any, indices: Any, geom: Any) -> Any:
    n, c, h, w = x.shape
    y = array_module().empty((n * c, indices.shape[2] * indices.shape[3]), x.dtype)
    launch_over(take_kernel, y.size, x.reshape(n * c, h * w), indices.reshape(y.shape), y)
    return y.reshape(indices.shape)


def avg_pool2d(x: Any, geom: Any, count_include_pad: bool = True) -> Any:
    y = array_module().empty((len(x), geom.C, geom.out_h, geom.out_w), x.dtype)
    launch_over(avg_pool_kernel, y.size, x, sizes(geom), _divisors(geom, count_include_pad, x.dtype), y)
    return y


def avg_pool2d_grad(gy: Any, geom: Any, count_include_pad: bool = True) -> Any:
    gx = array_module().empty((len(gy), geom.C, geom.H, geom.W), gy.dtype)
    launch_over(avg_pool_grad_kernel, gx.size, gy, sizes(geom), _divisors(geom, count_include_pad, gy.dtype), gx)
    return gx


def _divisors(geom: Any, count_include_pad: bool, dtype: Any) -> Any:
    return array_module().asarray(loops.divisors(geom, count_include_pad, dtype))
