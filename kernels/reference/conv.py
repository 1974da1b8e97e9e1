"""Convolution as its definition: one loop per index, one dot product per output.

The other operations are read off the same definition, y = sum w * x: each product w[.] * x[.] that goes into an output
sends gy * w back to that x and gy * x back to that w.
"""
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


def _products(geom: Any) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(i, j, u, v, row, column): output pixel i, j meets input pixel row, column through kernel position u, v."""
    (sh, sw), (dh, dw), (top, _, left, _) = geom.stride, geom.dilation, geom.padding
    for i in range(geom.out_h):
        for j in range(geom.out_w):
            for u in range(geom.kh):
                for v in range(geom.kw):
                    row, column = i * sh - top + u * dh, j * sw - left + v * dw
                    if 0 <= row < geom.H and 0 <= column < geom.W:  # outside is padding: zeros
                        yield i, j, u, v, row, column


def _channels(geom: Any) -> Iterator[tuple[int, slice]]:
    """Each output channel with the input channels of its group."""
    c, o = geom.C // geom.groups, geom.O // geom.groups
    for channel in range(geom.O):
        yield channel, slice(channel // o * c, (channel // o + 1) * c)


def _wide(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.float16 else np.dtype(dtype)


@reference("conv2d")
def conv2d(x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    y = np.zeros((x.shape[0], geom.O, geom.out_h, geom.out_w), _wide(x.dtype))
    for o, inputs in _channels(geom):
        for i, j, u, v, row, column in _products(geom):
            y[:, o, i, j] += x[:, inputs, row, column].astype(y.dtype) @ w[o, :, u, v].astype(y.dtype)
        if b is not None:
            y[:, o] += b[o].astype(y.dtype)
    return (np.maximum(y, 0) if relu else y).astype(x.dtype)


@reference("conv2d_input_grad")
def conv2d_input_grad(gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    gx = np.zeros((gy.shape[0], geom.C, geom.H, geom.W), _wide(gy.dtype))
    for o, inputs in _channels(geom):
        for i, j, u, v, row, column in _products(geom):
            gx[:, inputs, row, column] += gy[:, o, i, j, None].astype(gx.dtype) * w[o, :, u, v].astype(gx.dtype)
    return gx.astype(gy.dtype)


@reference("conv2d_weight_grad")
def conv2d_weight_grad(gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    gw = np.zeros((geom.O, geom.C // geom.groups, geom.kh, geom.kw), _wide(gy.dtype))
    for o, inputs in _channels(geom):
        for i, j, u, v, row, column in _products(geom):
            gw[o, :, u, v] += gy[:, o, i, j].astype(gw.dtype) @ x[:, inputs, row, column].astype(gw.dtype)
    return gw.astype(gy.dtype)


@reference("im2col")
def im2col(x: Array, geom: Any) -> Array:
    cols = np.zeros((x.shape[0], geom.C, geom.kh, geom.kw, geom.out_h, geom.out_w), x.dtype)
    for i, j, u, v, row, column in _products(geom):
        cols[:, :, u, v, i, j] = x[:, :, row, column]
    return cols.reshape(x.shape[0], geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w)


@reference("col2im")
def col2im(cols: Array, geom: Any) -> Array:
    n = cols.shape[0]
    windows = cols.reshape(n, geom.C, geom.kh, geom.kw, geom.out_h, geom.out_w)
    x = np.zeros((n, geom.C, geom.H, geom.W), _wide(cols.dtype))
    for i, j, u, v, row, column in _products(geom):
        x[:, :, row, column] += windows[:, :, u, v, i, j]
    return x.astype(cols.dtype)
