"""Large arrays in memory that was used before (kernels/cpu/arena.py), and the working memory of launches.

``empty`` returns an ordinary NumPy array whose base is a :class:`_Lease`; when the array and all its views are gone, so is the
lease, and its block goes back to the arena.
"""
from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from minidl.kernels.cpu.arena import Arena

SMALL = 1 << 16                                      # bytes; below, NumPy's own allocation is as good
LIMIT = 1 << 30                                      # bytes that may lie unused

arena = Arena(LIMIT)


class _Lease(np.ndarray):
    """A block in use: what the array made of it has as its base.

    As an array it is the block's bytes.  NumPy makes the base of a view the array that owns the memory; it stops at an array
    of another class, and so here.
    """

    def __del__(self) -> None:
        if arena is not None:                        # modules are emptied when the interpreter goes
            arena.give_back(self.base)


def _lease(shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
    buffer = arena.take(arena.round_up(size))
    return np.ndarray(shape, dtype, _Lease(len(buffer), _BYTE, buffer))


_BYTE = np.dtype(np.uint8)
_FLOAT32 = np.dtype(np.float32)


def empty(shape: tuple[int, ...], dtype: np.dtype = _FLOAT32) -> np.ndarray:
    """An uninitialised, C-contiguous array; a large one begins at a cache line."""
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size < SMALL:
        return np.empty(shape, dtype)
    return _lease(shape, dtype, size)


def owns(array: np.ndarray) -> bool:
    """Whether the array is no view: its memory is its own, from NumPy or leased for it alone."""
    return array.base is None or type(array.base) is _Lease


def address(array: Any) -> int:
    """Where the first element of a C-contiguous array lies: a quarter of the time of ``array.ctypes.data``."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):                  # read-only, or empty
        return array.ctypes.data


class _Scratch(threading.local):
    """Working memory of the launches of one thread, by what it is for."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}


_scratch = _Scratch()


def scratch(name: str, size: int) -> np.ndarray:
    """At least ``size`` floats that nobody needs after the next launch: the same ones for every caller who says ``name``."""
    buffer = _scratch.buffers.get(name)
    if buffer is None or buffer.size < size:
        _scratch.buffers.pop(name, None)
        buffer = _scratch.buffers[name] = _lease((size,), _FLOAT32, 4 * size)
    return buffer
