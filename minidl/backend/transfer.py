"""Arrays on the host or on a GPU, before they are tensors: whose they are, page-locked memory, windows of images."""
from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

Array = Any


def array_module(x: Array) -> Any:
    """NumPy, or CuPy: the module whose array ``x`` is."""
    return sys.modules[type(x).__module__.partition(".")[0]]


def pinned(x: np.ndarray) -> np.ndarray:
    """A copy of ``x`` in page-locked host memory, C-contiguous: a GPU copies it without the processor's help.

    The memory comes from CuPy's pool and goes back to it when nothing refers to the array; whoever copies from it asynchronously
    keeps the array until the copy has been made.  Where the system has no such memory left, ``x`` itself: copies of it
    are slower, and no less right.
    """
    import cupy
    size = math.prod(x.shape) * x.itemsize
    if size == 0:
        return x
    try:
        memory = cupy.cuda.alloc_pinned_memory(size)
    except cupy.cuda.runtime.CUDARuntimeError:
        return x
    copy: np.ndarray = np.ndarray(x.shape, x.dtype, memory)
    copy[...] = x
    return copy


def windows(images: Array, size: tuple[int, int], top: Array, left: Array) -> Array:
    """The window of each image (first axis) whose upper left corner is at (top, left)."""
    xp, n = array_module(images), len(images)
    if xp is not np:
        # CuPy would copy the view of all windows; it gathers the pixels of one by their indices.
        flat = images.reshape(n, -1, *images.shape[-2:])
        rows = xp.asarray(top[:, None] + np.arange(size[0]))[:, None, :, None]
        columns = xp.asarray(left[:, None] + np.arange(size[1]))[:, None, None, :]
        image, channel = xp.arange(n)[:, None, None, None], xp.arange(flat.shape[1])[:, None, None]
        return flat[image, channel, rows, columns].reshape(*images.shape[:-2], *size)
    views = np.lib.stride_tricks.sliding_window_view(images, size, axis=(-2, -1))
    # The view is (N, ..., places down, places right, h, w); pick one place per image.
    views = np.moveaxis(views, (-4, -3), (1, 2))
    return views[np.arange(n), top, left]
