"""Convolution by im2col, as loops: every window becomes a column, then a matrix product does the rest.

x is (N, C, H, W), w (O, K) with K = C/groups * kh * kw, the columns of an image (C*kh*kw, P) with P = out_h * out_w, y (N, O, P);
``s`` holds the other sizes.
"""
from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from minidl.kernels.numba_loops.jit import compiled
from minidl.kernels.numba_loops.sizes import sizes


# ------------------------------------------------------------------------------------------------------- scalar functions
@compiled()
def pixel(x, n, c, h, w):
    """x[n, c, h, w], or 0 in the padding around the image."""
    if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
        return x[n, c, h, w]
    return x.dtype.type(0)


@compiled()
def column_entry(x, n, c, u, v, i, j, s):
    """What output (i, j) sees of channel c at position (u, v) of the filter."""
    h = i * s.sh + u * s.dh - s.top
    w = j * s.sw + v * s.dw - s.left
    return pixel(x, n, c, h, w)


@compiled()
def pixel_sum(cols, n, c, h, w, s):
    """The transpose: all entries of the columns that pixel (h, w) of channel c was copied to, added up."""
    total = cols.dtype.type(0)
    for u in range(s.kh):
        i, between = divmod(h + s.top - u * s.dh, s.sh)
        if between == 0 and 0 <= i < s.out_h:
            for v in range(s.kw):
                j, between = divmod(w + s.left - v * s.dw, s.sw)
                if between == 0 and 0 <= j < s.out_w:
                    total += cols[n, (c * s.kh + u) * s.kw + v, i * s.out_w + j]
    return total


# ------------------------------------------------------------------------------------------------------------------ loops
@compiled()
def unroll(x, n, s, cols):
    """The columns of image n."""
    for c in range(s.channels):
        for u in range(s.kh):
            for v in range(s.kw):
                row = (c * s.kh + u) * s.kw + v
                for i in range(s.out_h):
                    for j in range(s.out_w):
                        cols[row, i * s.out_w + j] = column_entry(x, n, c, u, v, i, j, s)


@compiled()
def add_product(a, b, y):
    """y += a @ b.  The innermost loop runs along rows of memory, so the compiler makes vectors of it."""
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                y[i, j] += a[i, k] * b[k, j]


@compiled(parallel=True)
def im2col_loops(x, s, cols):
    for n in prange(x.shape[0]):
        unroll(x, n, s, cols[n])


@compiled(parallel=True)
def col2im_loops(cols, s, x):
    for n in prange(x.shape[0]):
        for c in range(s.channels):
            for h in range(s.height):
                for w in range(s.width):
                    x[n, c, h, w] = pixel_sum(cols, n, c, h, w, s)


@compiled(parallel=True)
def forward_loops(x, w, b, s, y):
    outputs, k = s.outputs // s.groups, w.shape[1]
    for n in prange(x.shape[0]):
        cols = np.empty((s.groups * k, y.shape[2]), x.dtype)
        unroll(x, n, s, cols)
        for o in range(s.outputs):
            y[n, o, :] = b[o]
        for g in range(s.groups):
            add_product(w[g * outputs : (g + 1) * outputs], cols[g * k : (g + 1) * k], y[n, g * outputs : (g + 1) * outputs])


@compiled(parallel=True)
def column_grad_loops(gy, w, s, cols):
    """The gradient of the columns, w' @ gy; w is (groups, K, O/groups)."""
    _, k, outputs = w.shape
    for n in prange(gy.shape[0]):
        cols[n] = 0
        for g in range(s.groups):
            add_product(w[g], gy[n, g * outputs : (g + 1) * outputs], cols[n, g * k : (g + 1) * k])


# "reassoc": the sum of a dot product may be taken in another order, without which there are no vectors in it.
@compiled(parallel=True, fastmath={"contract", "reassoc"})
def weight_grad_loops(gy, cols, s, gw):
    outputs, k = s.outputs // s.groups, gw.shape[1]
    for o in prange(s.outputs):
        first = o // outputs * k
        for row in range(k):
            for n in range(gy.shape[0]):
                total = gy.dtype.type(0)
                for p in range(gy.shape[2]):
                    total += gy[n, o, p] * cols[n, first + row, p]
                gw[o, row] += total


# ---------------------------------------------------------------------------------------------------------------- kernels
def conv2d(x: Any, w: Any, b: Any, geom: Any, precision: str = "fast", relu: bool = False) -> Any:
    y = np.empty((len(x), geom.O, geom.out_h * geom.out_w), x.dtype)
    forward_loops(x, w.reshape(geom.O, -1), np.zeros(geom.O, x.dtype) if b is None else b, sizes(geom), y)
    if relu:
        np.maximum(y, 0, out=y)
    return y.reshape(len(x), geom.O, geom.out_h, geom.out_w)


def conv2d_input_grad(gy: Any, w: Any, geom: Any, precision: str = "fast") -> Any:
    filters = w.reshape(geom.groups, geom.O // geom.groups, -1).transpose(0, 2, 1).copy()
    cols = np.empty((len(gy), geom.groups * filters.shape[1], geom.out_h * geom.out_w), gy.dtype)
    column_grad_loops(gy.reshape(len(gy), geom.O, cols.shape[2]), filters, sizes(geom), cols)
    return col2im(cols, geom)


def conv2d_weight_grad(gy: Any, x: Any, geom: Any, precision: str = "fast") -> Any:
    cols = im2col(x, geom)
    gw = np.zeros((geom.O, geom.C // geom.groups * geom.kh * geom.kw), gy.dtype)
    weight_grad_loops(gy.reshape(len(gy), geom.O, cols.shape[2]), cols, sizes(geom), gw)
    return gw.reshape(geom.O, geom.C // geom.groups, geom.kh, geom.kw)


def im2col(x: Any, geom: Any) -> Any:
    cols = np.empty((len(x), geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w), x.dtype)
    im2col_loops(x, sizes(geom), cols)
    return cols


def col2im(cols: Any, geom: Any) -> Any:
    x = np.empty((len(cols), geom.C, geom.H, geom.W), cols.dtype)
    col2im_loops(cols, sizes(geom), x)
    return x
