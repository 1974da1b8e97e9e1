"""How much of a GPU's memory is used: torch.cuda's functions, over CuPy's memory pool.

The pool keeps what was freed, to give it out again without asking the driver.  "Allocated" is what tensors hold, "reserved"
what the pool holds: the former and what it keeps.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from minidl.backend.cuda_install import why_not
from minidl.backend.cuda_memory import Account, readable, watch
from minidl.cuda.device import Device, backend_of
from minidl.errors import OutOfMemoryError


@contextlib.contextmanager
def _on(device: Device) -> Iterator[tuple[Any, Account]]:
    """Makes ``device`` (a number, "cuda:1", None for the first) current; gives CuPy and the device's account."""
    F = backend_of(device)
    with F.xp.cuda.Device(F.index):
        yield F.xp, watch(F.xp).account(F.index)


def memory_allocated(device: Device = None) -> int:
    """Bytes that tensors hold now; 0 where there is no GPU."""
    return 0 if why_not() is not None else int(backend_of(device).memory_allocated())


def max_memory_allocated(device: Device = None) -> int:
    """The most bytes that tensors held at once, since the start or :func:`reset_peak_memory_stats`; 0 without a GPU."""
    if why_not() is not None:
        return 0
    with _on(device) as (_, account):
        return account.peak


def memory_reserved(device: Device = None) -> int:
    """Bytes that CuPy's pool holds: those of tensors, and freed ones that it keeps; 0 without a GPU."""
    if why_not() is not None:
        return 0
    with _on(device) as (cupy, _):
        return int(cupy.get_default_memory_pool().total_bytes())


def reset_peak_memory_stats(device: Device = None) -> None:
    """Let :func:`max_memory_allocated` begin anew, from what is allocated now."""
    if why_not() is None:
        with _on(device) as (cupy, account):
            account.reset(cupy.get_default_memory_pool().used_bytes())


def mem_get_info(device: Device = None) -> tuple[int, int]:
    """(free, total) bytes of the whole GPU, whoever uses it.

    Raises:
        DeviceError: there is no GPU, or not this one.
    """
    with _on(device) as (cupy, _):
        free, total = cupy.cuda.runtime.memGetInfo()
        return int(free), int(total)


def empty_cache() -> None:
    """Give freed memory that the pools keep, on the GPU and page-locked on the host, back to the system."""
    if why_not() is None:
        with _on(None) as (cupy, _):
            cupy.get_default_memory_pool().free_all_blocks()
            cupy.get_default_pinned_memory_pool().free_all_blocks()


def memory_summary(device: Device = None) -> str:
    """A small table of the memory of ``device``, to print.

    Raises:
        DeviceError: there is no GPU, or not this one.
    """
    free, total = mem_get_info(device)
    held, allocated = memory_reserved(device), memory_allocated(device)
    rows = {
        "tensors": allocated, "tensors, at most": max_memory_allocated(device), "kept by the pool": held - allocated,
        "other programs and CUDA": max(total - free - held, 0), "free": free, "GPU": total,
    }
    return "\n".join(f"{name:<24}{readable(size):>12}" for name, size in rows.items())


def likely_batch(error: OutOfMemoryError, batch: int, at_rest: int) -> int:
    """The largest power of two that should fit, where a step on ``batch`` images did not; 0: not even one image.

    Args:
        error: its ``used`` and ``asked`` are what the step had reached, so what a whole step needs is at least that.
        at_rest: bytes allocated before the step, which do not depend on the batch: weights, the optimiser's state.
    """
    needed, room = error.used + error.asked - at_rest, error.available - at_rest
    fits = min(batch - 1, batch * room // needed if needed > 0 else batch - 1)
    return 1 << (fits.bit_length() - 1) if fits > 0 else 0
