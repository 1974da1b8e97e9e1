"""What GPUs there are: torch.cuda's questions."""
from __future__ import annotations

from typing import Any, NamedTuple

from minidl.backend import get_backend
from minidl.errors import DeviceError

Device = int | str | None


def backend_of(device: Device = None) -> Any:
    """The CUDA backend of a number, "cuda:1", or None: the first GPU.

    Raises:
        DeviceError: it is no GPU's name, or that GPU is not there.
    """
    F: Any = get_backend(f"cuda:{device}" if isinstance(device, int) else device or "cuda")
    if F.kind != "cuda":
        raise DeviceError(f"device {device!r} is no GPU; use a number, 'cuda' or 'cuda:0'")
    return F


class DeviceProperties(NamedTuple):
    """A GPU: its name, compute capability ``major``.``minor``, bytes of memory, multiprocessors."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device: Device = None) -> DeviceProperties:
    """What the driver says of ``device``: a number, "cuda:1", or None for the first.

    Raises:
        DeviceError: there is no GPU, or not this one.
    """
    F = backend_of(device)
    found = F.xp.cuda.runtime.getDeviceProperties(F.index)
    return DeviceProperties(
        found["name"].decode(), found["major"], found["minor"], found["totalGlobalMem"], found["multiProcessorCount"])


def get_device_name(device: Device = None) -> str:
    """The GPU's name, such as "NVIDIA H200"."""
    return get_device_properties(device).name


def get_device_capability(device: Device = None) -> tuple[int, int]:
    """(major, minor): (9, 0) for sm_90."""
    found = get_device_properties(device)
    return found.major, found.minor


def can_device_access_peer(device: Device, peer: Device) -> bool:
    """Whether ``device`` can read the memory of ``peer`` directly, without a copy through the host."""
    first, second = backend_of(device), backend_of(peer)
    return bool(first.xp.cuda.runtime.deviceCanAccessPeer(first.index, second.index))


def current_device() -> int:
    """The number of the GPU that "cuda" without a number means.

    Raises:
        DeviceError: there is no GPU.
    """
    return int(backend_of().index)
