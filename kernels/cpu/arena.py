"""The arena: large memory that is handed out in blocks and taken back.

The operating system hands out fresh memory page by page, at the first touch: filling a fresh 64 MB array takes about twice
as long as filling one that was used before.  A training step frees as much as it allocates, so what is freed is kept for
what comes next.

A block that comes back first waits for a request of exactly its size: the next step asks for the same ones.  When a request
finds none, the waiting blocks join with their free neighbours, and the smallest free block that is large enough is cut.  So
the small maps of a net's last layers and the large ones of its first share memory, which waiting blocks alone would not.
(Lea's allocator, dlmalloc, does the same with its fast bins.)
"""
from __future__ import annotations

import ctypes
import threading
from bisect import bisect_left, bisect_right, insort
from typing import Any

import numpy as np

ALIGNMENT = 64                                       # bytes: a cache line
REGION = 64 << 20                                    # bytes asked of the system at once; pages nobody touches cost nothing
Buffer = Any                                         # an array of ctypes.c_char, which begins at a cache line


class Arena:
    """Blocks of a few regions of memory.

    Args:
        limit: bytes that may lie unused; beyond, regions that are wholly free go back to the system.
        region: bytes of a region; a larger request gets one of its own.

    Attributes:
        idle: bytes that lie unused.
    """

    def __init__(self, limit: int, region: int = REGION) -> None:
        self.limit, self.idle, self._region = limit, 0, region
        self._waiting: dict[int, list[Buffer]] = {}      # by size
        self._free: list[tuple[int, int]] = []           # (size, address), sorted
        self._starts: dict[int, int] = {}                # size of the free block that begins at an address
        self._ends: dict[int, int] = {}                  # where the free block begins that ends at an address
        self._regions: list[tuple[int, int, np.ndarray]] = []    # (address, size, memory), sorted by address
        self._trim_at = limit
        self._lock = threading.RLock()                   # reentrant: a lease may be collected while it is held
        self._working = False

    @staticmethod
    def round_up(size: int) -> int:
        """The size of the block for ``size`` bytes: 32 sizes per power of two, so that nearly equal requests get equal ones."""
        grain = max(ALIGNMENT, 1 << max(0, size.bit_length() - 6))
        return -(-size // grain) * grain

    def take(self, size: int) -> Buffer:
        """A block of ``size`` bytes, a result of ``round_up``."""
        with self._lock:
            self.idle -= size
            waiting = self._waiting.get(size)
            if waiting:
                return waiting.pop()
            working, self._working = self._working, True
            try:
                self._gather()
                return self._cut(size)
            finally:
                self._working = working

    def give_back(self, buffer: Buffer) -> None:
        """Take back a block that nobody uses any more."""
        size = len(buffer)
        with self._lock:
            self.idle += size
            self._waiting.setdefault(size, []).append(buffer)
            if self.idle > self._trim_at and not self._working:
                self._trim(self.limit)

    def clear(self) -> None:
        """Give every region that is wholly free back to the system."""
        with self._lock:
            self._trim(0)

    def _cut(self, size: int) -> Buffer:
        """A block from the smallest free one that is large enough, or from a new region."""
        at = bisect_left(self._free, (size, 0))
        if at == len(self._free):
            self._grow(max(size, self._region))
            at = bisect_left(self._free, (size, 0))
        whole, address = self._free[at]
        self._remove(address, whole)
        if whole > size:
            self._add(address + size, whole - size)
        memory: Any = self._regions[self._index(address)][2]
        return (ctypes.c_char * size).from_buffer(memory, address - memory.ctypes.data)

    def _grow(self, size: int) -> None:
        memory = np.empty(size + 2 * ALIGNMENT, np.uint8)    # one to align; one so that two regions never touch
        address = memory.ctypes.data + -memory.ctypes.data % ALIGNMENT
        insort(self._regions, (address, size, memory), key=_address)
        self._add(address, size)
        self.idle += size

    def _gather(self) -> None:
        """Join the waiting blocks with their free neighbours."""
        waiting, self._waiting = self._waiting, {}
        for size, buffers in waiting.items():
            for buffer in buffers:
                self._join(ctypes.addressof(buffer), size)

    def _join(self, address: int, size: int) -> None:
        before, after = self._ends.get(address), self._starts.get(address + size)
        if after is not None:
            self._remove(address + size, after)
            size += after
        if before is not None:
            self._remove(before, address - before)
            address, size = before, size + address - before
        self._add(address, size)

    def _trim(self, limit: int) -> None:
        """Give wholly free regions back, until no more than ``limit`` bytes are idle or all regions are in use."""
        working, self._working = self._working, True
        try:
            self._gather()
            for region in list(self._regions):
                address, size, _ = region
                if self.idle > limit and self._starts.get(address) == size:
                    self._remove(address, size)
                    del self._regions[self._index(address)]
                    self.idle -= size
        finally:
            self._working = working
        self._trim_at = max(self.limit, self.idle + self.limit // 8)     # what is left is in use: try again later

    def _add(self, address: int, size: int) -> None:
        insort(self._free, (size, address))
        self._starts[address], self._ends[address + size] = size, address

    def _remove(self, address: int, size: int) -> None:
        del self._free[bisect_left(self._free, (size, address))], self._starts[address], self._ends[address + size]

    def _index(self, address: int) -> int:
        """Which region an address lies in."""
        return bisect_right(self._regions, address, key=_address) - 1


def _address(region: tuple[int, int, np.ndarray]) -> int:
    return region[0]
