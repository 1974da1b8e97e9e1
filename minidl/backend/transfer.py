"""Arrays between host and GPU: whose they are, and memory that a GPU copies from by itself."""
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
