"""Pooling, as loops over windows; padding neither wins a maximum nor adds to a sum.

x is (N, C, H, W), y (N, C, out_h, out_w); ``s`` holds the sizes.
"""
from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from minidl.kernels.numba_loops.jit import compiled
from minidl.kernels.numba_loops.sizes import sizes


# ------------------------------------------------------------------------------------------------------- scalar functions
@compiled()
def window_max(x, n, c, i, j, s):
    """(largest value, its flat index) of a window: the first maximum wins, and the first NaN beats everything."""
    best, index = x.dtype.type(0), -1
    for u in range(s.kh):
        h = i * s.sh + u * s.dh - s.top
        if 0 <= h < s.height:
            for v in range(s.kw):
                w = j * s.sw + v * s.dw - s.left
                if 0 <= w < s.width:
                    value = x[n, c, h, w]
                    if index < 0 or value > best or (np.isnan(value) and not np.isnan(best)):
                        best, index = value, h * s.width + w
    return best, index


@compiled()
def window_sum(x, n, c, i, j, s):
    """The sum of a window."""
    total = x.dtype.type(0)
    for u in range(s.kh):
        h = i * s.sh + u * s.dh - s.top
        if 0 <= h < s.height:
            for v in range(s.kw):
                w = j * s.sw + v * s.dw - s.left
                if 0 <= w < s.width:
                    total += x[n, c, h, w]
    return total


# ------------------------------------------------------------------------------------------------------------------ loops
@compiled(parallel=True)
def max_pool_loops(x, s, y, indices):
    for n in prange(x.shape[0]):
        for c in range(s.channels):
            for i in range(s.out_h):
                for j in range(s.out_w):
                    y[n, c, i, j], indices[n, c, i, j] = window_max(x, n, c, i, j, s)


@compiled(parallel=True)
def scatter_loops(gy, indices, gx):
    """gx[n, c, indices[n, c, p]] += gy[n, c, p].  An image is one thread's, so no two threads add to the same number."""
    for n in prange(gy.shape[0]):
        for c in range(gy.shape[1]):
            for p in range(gy.shape[2]):
                gx[n, c, indices[n, c, p]] += gy[n, c, p]


@compiled(parallel=True)
def gather_loops(x, indices, y):
    """y[n, c, p] = x[n, c, indices[n, c, p]]."""
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            for p in range(indices.shape[2]):
                y[n, c, p] = x[n, c, indices[n, c, p]]


@compiled(parallel=True)
def avg_pool_loops(x, s, divisors, y):
    for n in prange(x.shape[0]):
        for c in range(s.channels):
            for i in range(s.out_h):
                for j in range(s.out_w):
                    y[n, c, i, j] = window_sum(x, n, c, i, j, s) / divisors[i, j]


@compiled(parallel=True)
def avg_pool_grad_loops(gy, s, divisors, gx):
    """Every pixel of a window gets its share of the window's gradient."""
    for n in prange(gy.shape[0]):
        for c in range(s.channels):
            for i in range(s.out_h):
                for j in range(s.out_w):
                    share = gy[n, c, i, j] / divisors[i, j]
                    for u in range(s.kh):
                        h = i * s.sh + u * s.dh - s.top
                        if 0 <= h < s.height:
                            for v in range(s.kw):
                                w = j * s.sw + v * s.dw - s.left
                                if 0 <= w < s.width:
                                    gx[n, c, h, w] += share


# ---------------------------------------------------------------------------------------------------------------- kernels
def max_pool2d(x: Any, geom: Any) -> Any:
    shape = (len(x), geom.C, geom.out_h, geom.out_w)
    y, indices = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    max_pool_loops(x, sizes(geom), y, indices)
    return y, indices


def max_pool2d_grad(gy: Any, indices: Any, geom: Any) -> Any:
    gx = np.zeros((len(gy), geom.C, geom.H * geom.W), gy.dtype)
    flat = (len(gy), geom.C, geom.out_h * geom.out_w)
    scatter_loops(gy.reshape(flat), indices.reshape(flat), gx)
    return gx.reshape(len(gy), geom.C, geom.H, geom.W)


def max_pool2d_take(x: Any, indices: Any, geom: Any) -> Any:
    n, c, h, w = x.shape
    y = np.empty((n, c, indices.shape[2] * indices.shape[3]), x.dtype)
    gather_loops(x.reshape(n, c, h * w), indices.reshape(y.shape), y)
    return y.reshape(indices.shape)


def avg_pool2d(x: Any, geom: Any, count_include_pad: bool = True) -> Any:
    y = np.empty((len(x), geom.C, geom.out_h, geom.out_w), x.dtype)
    avg_pool_loops(x, sizes(geom), divisors(geom, count_include_pad, x.dtype), y)
    return y


def avg_pool2d_grad(gy: Any, geom: Any, count_include_pad: bool = True) -> Any:
    gx = np.zeros((len(gy), geom.C, geom.H, geom.W), gy.dtype)
    avg_pool_grad_loops(gy, sizes(geom), divisors(geom, count_include_pad, gy.dtype), gx)
    return gx


def divisors(geom: Any, count_include_pad: bool, dtype: Any) -> Any:
    """The size of every window, clipped to the padded image or, without ``count_include_pad``, to the image."""
    top, bottom, left, right = geom.padding if count_include_pad else (0, 0, 0, 0)

    def inside(outputs: int, k: int, stride: int, dilation: int, before: int, low: int, high: int) -> Any:
        positions = np.arange(outputs)[:, None] * stride + np.arange(k) * dilation - before
        return ((positions >= low) & (positions < high)).sum(axis=1)

    rows = inside(geom.out_h, geom.kh, geom.stride[0], geom.dilation[0], geom.padding[0], -top, geom.H + bottom)
    columns = inside(geom.out_w, geom.kw, geom.stride[1], geom.dilation[1], geom.padding[2], -left, geom.W + right)
    return (rows[:, None] * columns).astype(dtype)
