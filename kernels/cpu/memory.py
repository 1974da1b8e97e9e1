"""Large buffers, used again.

The operating system hands out fresh memory page by page, at the first touch: filling a fresh 64 MB array takes about twice
as long as filling one that was used before.  A training step frees as much as it allocates, so freed buffers wait here for
the next array of their size.

``empty`` returns an ordinary NumPy array whose base is a :class:`_Lease`; when the array and all its views are gone, so is the
lease, and its buffer comes back.
"""
from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

SMALL = 1 << 16                                      # bytes; below, NumPy's own allocation is as good
LIMIT = 512 << 20                                    # bytes that may wait unused; beyond, the longest unused are freed
_ALIGNMENT = 64
Buffer = Any                                         # an array of ctypes.c_char, which begins at a cache line


class _Arena:
    """Buffers by size class: eight classes per power of two, so that at most an eighth of a buffer is wasted."""

    def __init__(self, limit: int) -> None:
        self.limit, self.idle = limit, 0
        self._free: OrderedDict[int, list[Buffer]] = OrderedDict()   # least recently used size first
        self._lock = threading.RLock()               # reentrant: a lease may be collected while it is held

    @staticmethod
    def round_up(size: int) -> int:
        grain = max(_ALIGNMENT, 1 << max(0, size.bit_length() - 4))
        return -(-size // grain) * grain

    def take(self, size: int) -> Buffer:
        with self._lock:
            waiting = self._free.get(size)
            if waiting:
                self.idle -= size
                self._free.move_to_end(size)
                return waiting.pop()
        memory: Any = np.empty(size + _ALIGNMENT, np.uint8)
        return (ctypes.c_char * size).from_buffer(memory, -memory.ctypes.data % _ALIGNMENT)

    def give_back(self, buffer: Buffer) -> None:
        size = len(buffer)
        with self._lock:
            self._free.setdefault(size, []).append(buffer)
            self._free.move_to_end(size)
            self.idle += size
            while self.idle > self.limit:
                oldest, waiting = next(iter(self._free.items()))
                if waiting:
                    waiting.pop()
                    self.idle -= oldest
                else:
                    del self._free[oldest]

    def clear(self) -> None:
        with self._lock:
            self._free.clear()
            self.idle = 0


arena = _Arena(LIMIT)


class _Lease(np.ndarray):
    """A buffer in use: what the array made of it has as its base.

    As an array it is the buffer's bytes.  NumPy makes the base of a view the array that owns the memory; it stops at an array
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


def owned(shape: tuple[int, ...], dtype: np.dtype = _FLOAT32) -> np.ndarray:
    """As :func:`empty`, for results that their user keeps, such as the gradient of a parameter: its memory is its own."""
    return np.empty(shape, dtype)


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
