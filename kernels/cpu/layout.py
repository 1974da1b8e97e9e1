"""Channels-last memory behind NCHW shapes.

Vectors run over channels, so the kernels want them adjacent in memory.  An array keeps its shape (N, C, H, W) and holds its
elements in the order of (N, H, W, C): NumPy's elementwise operations keep that order, and a kernel takes such an array
without a copy.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import memory


def channels_last(x: np.ndarray) -> np.ndarray:
    """x (N, C, ...) as a C-contiguous (N, ..., C): the same memory if it already is in that order, else a copy."""
    view = np.moveaxis(x, 1, -1) if x.ndim != 4 else x.transpose(0, 2, 3, 1)
    if view.flags.c_contiguous:
        return view
    copy = memory.empty(view.shape)
    np.copyto(copy, view)
    return copy


def channels_first(y: np.ndarray) -> np.ndarray:
    """The (N, C, ...) view of y (N, ..., C)."""
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else np.moveaxis(y, -1, 1)


def flat(*arrays: Any) -> list[np.ndarray] | None:
    """The arrays as C-contiguous ones, all seen in the same order of axes; None if they are not dense in one order."""
    first = arrays[0]
    if all(a.flags.c_contiguous for a in arrays):
        return list(arrays)
    if first.ndim == 4 and first.strides[1] == first.itemsize:
        views = [a.transpose(0, 2, 3, 1) for a in arrays]
    else:
        order = sorted(range(first.ndim), key=lambda axis: -abs(first.strides[axis]))
        views = [a.transpose(order) for a in arrays]
    return views if all(v.flags.c_contiguous for v in views) else None


def as_ordered(a: np.ndarray, model: np.ndarray) -> np.ndarray:
    """``a`` with its elements in the memory order of ``model``, which has the same shape."""
    if a.strides == model.strides:
        return a
    copy = like(model)
    np.copyto(copy, a)
    return copy


def like(x: np.ndarray) -> np.ndarray:
    """An uninitialised array of x's shape, in x's order of memory where x is dense."""
    if x.flags.c_contiguous:
        return memory.empty(x.shape)
    if x.ndim == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous:
        n, c, h, w = x.shape
        return memory.empty((n, h, w, c)).transpose(0, 3, 1, 2)
    return np.empty_like(x)
