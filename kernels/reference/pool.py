"""Pooling as its definition: for every output, look at every value of its window."""
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray
Window = list[tuple[int, int]]


def _wide(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.float16 else np.dtype(dtype)


def _windows(geom: Any) -> Iterator[tuple[int, int, Window]]:
    """Each output (i, j) with the pixels of its window, padding included, in row order."""
    (sh, sw), (top, _, left, _), (dh, dw) = geom.stride, geom.padding, geom.dilation
    for i in range(geom.out_h):
        for j in range(geom.out_w):
            yield i, j, [
                (i * sh - top + u * dh, j * sw - left + v * dw) for u in range(geom.kh) for v in range(geom.kw)
            ]


def _inside(pixels: Window, h: int, w: int) -> Window:
    return [(row, column) for row, column in pixels if 0 <= row < h and 0 <= column < w]


def _adaptive_windows(in_hw: tuple[int, int], out_hw: tuple[int, int]) -> Iterator[tuple[int, int, Window]]:
    (h, w), (oh, ow) = in_hw, out_hw
    for i in range(oh):
        for j in range(ow):
            rows = range(math.floor(i * h / oh), math.ceil((i + 1) * h / oh))
            columns = range(math.floor(j * w / ow), math.ceil((j + 1) * w / ow))
            yield i, j, [(row, column) for row in rows for column in columns]


def _maximum(plane: Array, pixels: Window) -> tuple[int, int]:
    """The pixel of the first NaN, else of the first maximum."""
    best = pixels[0]
    for pixel in pixels:
        if np.isnan(plane[best]):
            break
        if plane[pixel] > plane[best] or np.isnan(plane[pixel]):
            best = pixel
    return best


def _pool_max(x: Array, windows: list[tuple[int, int, Window]], out_hw: tuple[int, int]) -> tuple[Array, Array]:
    n, c, h, w = x.shape
    y = np.empty((n, c, *out_hw), x.dtype)
    indices = np.empty(y.shape, np.int64)
    for sample in range(n):
        for channel in range(c):
            plane = x[sample, channel]
            for i, j, pixels in windows:
                row, column = _maximum(plane, _inside(pixels, h, w))
                y[sample, channel, i, j] = plane[row, column]
                indices[sample, channel, i, j] = row * w + column
    return y, indices


def _scatter(gy: Array, indices: Array, in_hw: tuple[int, int]) -> Array:
    n, c = gy.shape[:2]
    gx = np.zeros((n, c, in_hw[0] * in_hw[1]), _wide(gy.dtype))
    for at in np.ndindex(*gy.shape):
        gx[at[0], at[1], indices[at]] += gy[at]
    return gx.reshape(n, c, *in_hw).astype(gy.dtype)


@reference("max_pool2d")
def max_pool2d(x: Array, geom: Any) -> tuple[Array, Array]:
    return _pool_max(x, list(_windows(geom)), (geom.out_h, geom.out_w))


@reference("max_pool2d_grad")
def max_pool2d_grad(gy: Array, indices: Array, geom: Any) -> Array:
    return _scatter(gy, indices, (geom.H, geom.W))


@reference("max_pool2d_take")
def max_pool2d_take(x: Array, indices: Array, geom: Any) -> Array:
    y = np.empty(indices.shape, x.dtype)
    for at in np.ndindex(*indices.shape):
        y[at] = x[at[0], at[1]].reshape(-1)[indices[at]]
    return y


def _averaged(geom: Any, count_include_pad: bool) -> Iterator[tuple[int, int, Window, int]]:
    """Each output with the pixels that it sums and the number that it divides by."""
    _, bottom, _, right = geom.padding
    for i, j, pixels in _windows(geom):
        inside = _inside(pixels, geom.H, geom.W)
        padded = [(r, c) for r, c in pixels if r < geom.H + bottom and c < geom.W + right]
        yield i, j, inside, len(padded if count_include_pad else inside)


@reference("avg_pool2d")
def avg_pool2d(x: Array, geom: Any, count_include_pad: bool = True) -> Array:
    y = np.zeros((*x.shape[:2], geom.out_h, geom.out_w), _wide(x.dtype))
    for i, j, pixels, count in _averaged(geom, count_include_pad):
        for row, column in pixels:
            y[:, :, i, j] += x[:, :, row, column]
        y[:, :, i, j] /= count
    return y.astype(x.dtype)


@reference("avg_pool2d_grad")
def avg_pool2d_grad(gy: Array, geom: Any, count_include_pad: bool = True) -> Array:
    gx = np.zeros((*gy.shape[:2], geom.H, geom.W), _wide(gy.dtype))
    for i, j, pixels, count in _averaged(geom, count_include_pad):
        for row, column in pixels:
            gx[:, :, row, column] += gy[:, :, i, j].astype(gx.dtype) / count
    return gx.astype(gy.dtype)


@reference("adaptive_avg_pool2d")
def adaptive_avg_pool2d(x: Array, out_hw: tuple[int, int]) -> Array:
    y = np.zeros((*x.shape[:2], *out_hw), _wide(x.dtype))
    for i, j, pixels in _adaptive_windows(x.shape[2:], out_hw):
        for row, column in pixels:
            y[:, :, i, j] += x[:, :, row, column]
        y[:, :, i, j] /= len(pixels)
    return y.astype(x.dtype)


@reference("adaptive_avg_pool2d_grad")
def adaptive_avg_pool2d_grad(gy: Array, in_hw: tuple[int, int]) -> Array:
    gx = np.zeros((*gy.shape[:2], *in_hw), _wide(gy.dtype))
    for i, j, pixels in _adaptive_windows(in_hw, gy.shape[2:]):
        for row, column in pixels:
            gx[:, :, row, column] += gy[:, :, i, j].astype(gx.dtype) / len(pixels)
    return gx.astype(gy.dtype)


@reference("adaptive_max_pool2d")
def adaptive_max_pool2d(x: Array, out_hw: tuple[int, int]) -> tuple[Array, Array]:
    return _pool_max(x, list(_adaptive_windows(x.shape[2:], out_hw)), out_hw)


@reference("adaptive_max_pool2d_grad")
def adaptive_max_pool2d_grad(gy: Array, indices: Array, in_hw: tuple[int, int]) -> Array:
    return _scatter(gy, indices, in_hw)
