"""Asking for a GPU: ``device = "cuda" if minidl.cuda.is_available() else "cpu"``."""
from __future__ import annotations

from minidl.backend.cuda import device_count, why_not

__all__ = ["device_count", "is_available", "synchronize", "why_not"]


def is_available() -> bool:
    """Whether CuPy is installed and finds a GPU."""
    return why_not() is None


def synchronize(device: str = "cuda") -> None:
    """Wait for everything that was started on ``device``."""
    from minidl.backend import get_backend
    get_backend(device).synchronize()
