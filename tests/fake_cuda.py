"""The machine behind the stand-in for CuPy: devices, streams that work as late as they may, memory that is counted."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

UNIT = 512  # bytes that the memory pools round to
ERRORS = {
    2: "cudaErrorMemoryAllocation: out of memory",
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    209: "cudaErrorNoKernelImageForDevice: no kernel image is available for execution on the device",
}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(ERRORS[status])
        self.status = status


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class World:
    """The machine: its devices, what each thread has as its current device and stream, and what happened."""

    def __init__(self, count: int, limit: int, driver_error: Exception | None) -> None:
        self.count, self.limit, self.driver_error = count, limit, driver_error
        self.log: list[tuple[Any, ...]] = []
        self.local = threading.local()
        self.used, self.total, self.cap = [0] * count, [0] * count, [0] * count
        self.pinned_free: dict[int, list[bytearray]] = {}
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.null = Stream(self, null=True)
        self.allocator: Any = self.pool_malloc

    @property
    def device(self) -> int:
        return getattr(self.local, "device", 0)

    @property
    def stream(self) -> Stream:
        return getattr(self.local, "streams", {}).get(self.device, self.null)

    def pool_malloc(self, size: int) -> Memory:
        size, device = -(-size // UNIT) * UNIT, self.device
        if self.cap[device] and self.used[device] + size > self.cap[device]:
            raise OutOfMemoryError(size, self.total[device], self.cap[device])
        if self.used[device] + size > self.limit:
            raise OutOfMemoryError(size, self.total[device])
        self.used[device] += size
        self.total[device] = max(self.total[device], self.used[device])
        return Memory(self, device, size)


class Memory:
    """A piece of a device's memory, counted while it is referred to."""

    def __init__(self, world: World, device: int, size: int) -> None:
        self.world, self.device_id, self.size = world, device, size

    def __del__(self) -> None:
        self.world.used[self.device_id] -= self.size


class Stream:
    """The null stream works at once, every other one only when it must."""

    def __init__(self, world: World, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        self.world, self.device_id, self.non_blocking = world, (-1 if null else world.device), non_blocking
        self.ptr = 0 if null else id(self)
        self.queue: list[Any] = []
        world.streams.add(self)

    def __repr__(self) -> str:
        return "null" if not self.ptr else "side"

    def __enter__(self) -> Stream:
        streams = self.world.local.__dict__.setdefault("streams", {})
        self.world.local.__dict__.setdefault("stack", []).append((self.world.device, streams.get(self.world.device)))
        streams[self.world.device] = self
        return self

    def __exit__(self, *exc: Any) -> None:
        device, before = self.world.local.stack.pop()
        self.world.local.streams[device] = before or self.world.null

    def use(self) -> Stream:
        self.world.local.__dict__.setdefault("streams", {})[self.world.device] = self
        return self

    def submit(self, task: Any) -> None:
        """To be run in order: at once on the null stream."""
        self.queue.append(task)
        if not self.ptr:
            self.run()

    def run(self, until: Any = None) -> None:
        """Do what is queued, up to the event ``until``."""
        while self.queue:
            task = self.queue.pop(0)
            if isinstance(task, Event):
                task.pending = None
                if task is until:
                    return
            else:
                task()

    @property
    def done(self) -> bool:
        return not self.queue

    def synchronize(self) -> None:
        self.world.log.append(("synchronize", self))
        self.run()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event(self.world)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.world.log.append(("wait", self, event))
        self.submit(event.run)


class Event:
    def __init__(self, world: World, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.world, self.pending = world, None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.world.stream
        self.world.log.append(("record", stream, self))
        self.pending = stream if stream.ptr else None
        if stream.ptr:
            stream.queue.append(self)

    def run(self) -> None:
        if self.pending is not None:
            self.pending.run(self)

    @property
    def done(self) -> bool:
        return self.pending is None

    def synchronize(self) -> None:
        self.world.log.append(("event synchronize", self))
        self.run()


class PinnedMemoryPointer(np.ndarray):
    """Page-locked host memory.  It goes back to its pool when nothing refers to it, whoever still copies from it."""

    def __del__(self) -> None:
        block = getattr(self, "block", None)
        if block is not None:
            block[:] = b"\xff" * len(block)
            self.free.setdefault(len(block), []).append(block)


def pinned_block(array: Any) -> bytearray | None:
    """The pinned block that a host array lies in."""
    while array is not None:
        if isinstance(array, PinnedMemoryPointer) and getattr(array, "block", None) is not None:
            return array.block
        array = getattr(array, "base", None)
    return None


class Device:
    """A context manager, as cupy.cuda.Device."""

    def __init__(self, world: World, device: Any = None) -> None:
        self.world, self.id = world, world.device if device is None else int(device)

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        self.world.local.__dict__.setdefault("devices", []).append(self.world.device)
        self.use()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.world.local.device = self.world.local.devices.pop()

    def use(self) -> Device:
        if self.id >= self.world.count:
            raise CUDARuntimeError(101)
        self.world.local.device = self.id
        return self

    def synchronize(self) -> None:
        self.world.log.append(("synchronize", self))
        for stream in list(self.world.streams):
            if stream.device_id in (-1, self.id):
                stream.run()

    @property
    def attributes(self) -> dict[str, int]:
        return {"MultiProcessorCount": 2, "MaxSharedMemoryPerBlockOptin": 232448, "L2CacheSize": 1 << 20}

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return self.world.limit - self.world.total[self.id], self.world.limit


class MemoryPool:
    def __init__(self, world: World) -> None:
        self.world = world

    def malloc(self, size: int) -> Memory:
        return self.world.pool_malloc(size)

    def used_bytes(self) -> int:
        return self.world.used[self.world.device]

    def total_bytes(self) -> int:
        return self.world.total[self.world.device]

    def free_bytes(self) -> int:
        return self.total_bytes() - self.used_bytes()

    def n_free_blocks(self) -> int:
        return int(self.free_bytes() > 0)

    def free_all_blocks(self, stream: Any = None) -> None:
        self.world.total[self.world.device] = self.world.used[self.world.device]

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.world.cap[self.world.device] = int(size if size is not None else (fraction or 0) * self.world.limit)

    def get_limit(self) -> int:
        return self.world.cap[self.world.device]


class PinnedMemoryPool:
    def __init__(self, world: World) -> None:
        self.world = world

    def malloc(self, size: int) -> PinnedMemoryPointer:
        size = -(-size // UNIT) * UNIT
        free = self.world.pinned_free.setdefault(size, [])
        block = free.pop() if free else bytearray(b"\xff" * size)
        # Its base is no array: NumPy would otherwise let arrays made of it refer past it, to that base.
        pointer = PinnedMemoryPointer(size, np.uint8, block)
        pointer.block, pointer.free, pointer.ptr = block, self.world.pinned_free, pointer.ctypes.data
        return pointer

    def n_free_blocks(self) -> int:
        return sum(map(len, self.world.pinned_free.values()))

    def free_all_blocks(self) -> None:
        self.world.pinned_free.clear()
