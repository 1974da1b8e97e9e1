"""Asking for a GPU: ``device = "cuda" if minidl.cuda.is_available() else "cpu"``."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidl.backend.cuda import device_count, why_not
from minidl.cuda.device import (
    can_device_access_peer,
    current_device,
    get_device_capability,
    get_device_name,
    get_device_properties,
)
from minidl.cuda.memory import (
    empty_cache,
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_summary,
    reset_peak_memory_stats,
)
from minidl.errors import OutOfMemoryError

if TYPE_CHECKING:
    from minidl.cuda.graphs import graph
    from minidl.cuda.prefetch import Prefetcher

__all__ = [
    "OutOfMemoryError", "Prefetcher", "can_device_access_peer", "current_device", "device_count", "empty_cache",
    "get_device_capability", "get_device_name", "get_device_properties", "graph", "is_available", "max_memory_allocated",
    "mem_get_info", "memory_allocated", "memory_reserved", "memory_summary", "reset_peak_memory_stats", "synchronize", "why_not",
]  # fmt: skip


def is_available() -> bool:
    """Whether CuPy is installed and finds a GPU."""
    return why_not() is None


def synchronize(device: str = "cuda") -> None:
    """Wait for everything that was started on ``device``."""
    from minidl.backend import get_backend
    get_backend(device).synchronize()


def __getattr__(name: str) -> Any:
    """What makes tensors is imported when it is asked for: tensors ask this package for their device."""
    if name == "Prefetcher":
        from minidl.cuda.prefetch import Prefetcher
        return Prefetcher
    if name == "graph":
        from minidl.cuda.graphs import graph
        return graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
