"""From a device's name to its backend."""
from __future__ import annotations

from typing import Any

from minidl.backend.base import Backend
from minidl.backend.bfloat16 import accept_bfloat16
from minidl.backend.cpu import CPU
from minidl.errors import DeviceError

cpu = CPU()
accept_bfloat16(cpu)
_others: dict[str, Backend] = {}                     # backends added by register_backend


def register_backend(backend: Backend) -> None:
    """Make ``backend`` reachable by its device's name."""
    accept_bfloat16(backend)
    _others[backend.device] = backend


def is_device(name: str) -> bool:
    """Whether ``name`` is the name of a kind of device, here or not; everything else is a dtype's."""
    return name in _others or name.partition(":")[0] in ("cpu", "cuda")


def get_backend(device: Any = None) -> Backend:
    """The backend of "cpu" (also None), "cuda", "cuda:1", ...; a backend is passed through.

    Raises:
        DeviceError: the name is not known, or the device is not there.
    """
    if device is None or device == "cpu":
        return cpu
    if isinstance(device, Backend):
        return device
    name = str(device)
    if name in _others:
        return _others[name]
    kind, _, number = name.partition(":")
    if kind == "cpu" and number in ("", "0"):
        return cpu
    if kind != "cuda" or not (number or "0").isdigit():
        raise DeviceError(f"device {name!r}: not known; use 'cpu', 'cuda' or 'cuda:0'")
    from minidl.backend.cuda import cuda_backend
    return cuda_backend(int(number or 0))
