"""A GPU's memory, counted where CuPy allocates it; and what is said when there is no more.

CuPy's pool can tell what is in use now by adding up all its pieces, which takes longer the more there are.  So it is not asked
at every allocation: what was in use when it was last asked, and everything allocated since, is a bound, and only when the
bound passes the highest number so far can there be a new one.
"""
from __future__ import annotations

from typing import Any

from minidl.errors import OutOfMemoryError

UNIT = 512                                           # bytes that the pool rounds to


class Account:
    """One device: ``peak`` bytes at most were in use, ``bound`` may be now."""

    __slots__ = ("peak", "bound")

    def __init__(self) -> None:
        self.peak = self.bound = 0

    def note(self, size: int, pool: Any) -> None:
        self.bound += -(-size // UNIT) * UNIT
        if self.bound > self.peak:
            self.bound = pool.used_bytes()
            self.peak = max(self.peak, self.bound)

    def reset(self, used: int) -> None:
        self.peak = self.bound = used


class Watch:
    """CuPy's allocator with a count of what it gives, one account for each device."""

    def __init__(self, cupy: Any):
        self.cupy, self.allocator = cupy, cupy.cuda.get_allocator()
        self.accounts: dict[int, Account] = {}

    def account(self, device: int) -> Account:
        return self.accounts.setdefault(device, Account())

    def __call__(self, size: int) -> Any:
        try:
            memory = self.allocator(size)
        except self.cupy.cuda.memory.OutOfMemoryError:
            raise out_of_memory(self.cupy, size) from None
        self.account(self.cupy.cuda.runtime.getDevice()).note(size, self.cupy.get_default_memory_pool())
        return memory


_watches: dict[int, Watch] = {}                      # by module: tests put another one in CuPy's place


def watch(cupy: Any) -> Watch:
    """The watch over CuPy's allocations, which begins with the first call."""
    found = _watches.get(id(cupy))
    if found is None or found.cupy is not cupy:
        found = _watches[id(cupy)] = Watch(cupy)
        cupy.cuda.set_allocator(found)
    return found


def out_of_memory(cupy: Any, asked: int) -> OutOfMemoryError:
    """The error for ``asked`` bytes that the current device does not have."""
    pool = cupy.get_default_memory_pool()
    used, held = pool.used_bytes(), pool.total_bytes()
    free, total = cupy.cuda.runtime.memGetInfo()
    limit = pool.get_limit()
    others = max(total - free - held, 0)
    limited = f"; CuPy's pool is limited to {readable(limit)}" if limit else ""
    return OutOfMemoryError(
        f"out of memory on cuda:{cupy.cuda.runtime.getDevice()}: {readable(asked)} more were asked for; of {readable(total)}, "
        f"tensors use {readable(used)}, {readable(held - used)} are kept to be used again, and others have {readable(others)}"
        f"{limited}. A smaller batch needs less",
        asked=asked, used=used, available=min(total - others, limit or total),
    )


def readable(size: int) -> str:
    """Bytes for people: 512 B, 1.5 MiB, 79.2 GiB."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} B"
