"""Backends: the verbs of each device, on raw arrays.  With the kernels, the only rooms that touch NumPy and CuPy."""
from minidl.backend.base import Backend
from minidl.backend.select import get_backend, is_device, register_backend

__all__ = ["Backend", "get_backend", "is_device", "register_backend"]
