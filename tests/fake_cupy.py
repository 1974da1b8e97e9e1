"""A stand-in for CuPy 14.2 that computes with NumPy, and runs kernels on the CUDA emulator: the CUDA backend without a GPU.

Names, signatures and refusals are those of the installed package, as far as minidl uses them; ``log`` lists what was asked
of the device, in order.  It is stricter than a GPU where a mistake would go unseen there:

- A stream other than the null stream works as late as it may: what is queued runs when something waits for it.  A consumer
  that does not wait reads what was there before, and a pinned block that was given back too early is copied with the
  numbers of its next owner.
- Fresh device memory and freed pinned memory hold 0xff bytes: NaN or -1.
- Host and device arrays do not mix, nor do two devices'.  (``numpy.asarray`` of a device array cannot be refused here.)
- ``limit`` bytes are there per device: more is an ``OutOfMemoryError``.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np

ABSENT = frozenset(  # names of NumPy's that CuPy 14.2 does not have
    "False_ True_ ScalarType asmatrix block bmat char core ctypeslib datetime64 einsum_path errstate frompyfunc geomspace "
    "getbufsize geterr histogram_bin_edges info longdouble ma matrix matvec memmap nanpercentile nanquantile ndenumerate "
    "nditer nested_iters object_ rec recarray record seterr spacing str_ strings test timedelta64 unstack vecdot vecmat "
    "void".split()
)
CREATORS = frozenset("array asarray ascontiguousarray asfortranarray asanyarray".split())  # these take host arrays
REDUCTIONS = ("sum", "prod", "mean", "max", "min", "argmax", "argmin", "all", "any", "std", "var", "ptp", "trace", "dot")
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
        self.pinned_free: dict[int, list[np.ndarray]] = {}
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
            block.fill(0xFF)
            self.free.setdefault(block.size, []).append(block)


def pinned_block(array: Any) -> np.ndarray | None:
    """The pinned block that a host array lies in."""
    while array is not None:
        if isinstance(array, PinnedMemoryPointer) and getattr(array, "block", None) is not None:
            return array.block
        array = getattr(array, "base", None) if not isinstance(array, memoryview) else array.obj
    return None


def make_ndarray(world: World) -> type:
    """CuPy's array class; one for each stand-in, since an array knows its machine."""

    class ndarray(np.ndarray):
        _memory: Any = None

        def __array_finalize__(self, parent: Any) -> None:
            if self.flags.owndata:
                self._memory = world.allocator(self.nbytes)
            else:
                self._memory = getattr(parent, "_memory", None)

        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
            world.stream.run()
            plain = [host(x) for x in (*inputs, *out)]
            inputs, targets = tuple(plain[: len(inputs)]), tuple(plain[len(inputs) :])
            if targets:
                options["out"] = targets
            if "where" in options:
                options["where"] = host(options["where"])
            result = getattr(ufunc, method)(*inputs, **options)
            if method == "at":
                return None
            return out[0] if len(out) == 1 else out if out else own(result)

        def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            world.stream.run()
            args, kwargs = tree(host, args), tree(host, kwargs)
            return own(function(*args, **kwargs))

        def __getitem__(self, index: Any) -> Any:
            index = tree(lambda i: i.view(np.ndarray) if isinstance(i, ndarray) else i, index)
            found = super().__getitem__(index)
            if not isinstance(found, ndarray):  # a 0-d view, never a scalar
                found = super().__getitem__((*index, ...) if isinstance(index, tuple) else (index, ...))
            return found

        def __setitem__(self, index: Any, value: Any) -> None:
            world.stream.run()
            index = tree(lambda i: i.view(np.ndarray) if isinstance(i, ndarray) else i, index)
            super().__setitem__(index, host(value))

        @property
        def data(self) -> Any:
            return types.SimpleNamespace(ptr=self.ctypes.data, device_id=self.device.id, mem=self._memory, device=self.device)

        @property
        def device(self) -> Device:
            return Device(world, self._memory.device_id if self._memory is not None else 0)

        def get(self, stream: Stream | None = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
            stream = stream or world.stream
            world.log.append(("get", stream))
            stream.run()
            result = np.array(self.view(np.ndarray), order=order)
            if out is not None:
                out[...] = result
            return result if out is None else out

        def set(self, array: Any, stream: Stream | None = None) -> None:
            if type(array) is ndarray or not isinstance(array, np.ndarray):
                raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
            if self.dtype != array.dtype:
                raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
            if self.shape != array.shape:
                raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
            if not self.flags.c_contiguous:
                raise RuntimeError("Cannot set to non-contiguous array")
            stream = stream or world.stream
            block = pinned_block(array)
            world.log.append(("copy to device", stream, "pinned" if block is not None else "pageable"))
            if block is None:
                stream.run()  # a copy from pageable memory has read it before it returns
                self.view(np.ndarray)[...] = array
                return
            source = np.ndarray(array.shape, array.dtype, block, array.ctypes.data - block.ctypes.data, array.strides)
            target = self.view(np.ndarray)
            stream.submit(lambda: np.copyto(target, source))

        def copy(self, order: str = "C") -> Any:
            return own(np.array(self.view(np.ndarray), order=order))

        def tolist(self) -> Any:
            return self.get().tolist()

        def item(self, *where: Any) -> Any:
            return self.get().item(*where)

        def __bool__(self) -> bool:
            return bool(self.get())

        def __float__(self) -> float:
            return float(self.get())

        def __int__(self) -> int:
            return int(self.get())

        def scatter_add(self, index: Any, values: Any) -> None:
            np.add.at(host(self), tree(host, index), host(values))

    def host(x: Any) -> Any:
        """An operand as NumPy's; what CuPy refuses is refused."""
        if isinstance(x, ndarray):
            where = x._memory.device_id if x._memory is not None else world.device
            if where != world.device:
                raise ValueError(
                    "Array device must be same as the current device: "
                    f"array device = {where} while current = {world.device}"
                )
            return x.view(np.ndarray)
        if isinstance(x, np.ndarray) and x.ndim:
            raise TypeError(f"Unsupported type {type(x)}")
        return x

    def own(x: Any) -> Any:
        if isinstance(x, (tuple, list)):
            return type(x)(map(own, x)) if type(x) in (tuple, list) else x._replace(**{k: own(v) for k, v in x._asdict().items()})
        if isinstance(x, (np.generic, np.ndarray)) and not isinstance(x, ndarray):
            array = np.asarray(x).view(ndarray)
            array._memory = world.allocator(array.nbytes)
            return array
        return x

    def reduction(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            world.stream.run()
            return own(getattr(host(self), name)(*tree(host, args), **tree(host, kwargs)))

        return method

    for name in REDUCTIONS:
        if hasattr(np.ndarray, name):
            setattr(ndarray, name, reduction(name))
    ndarray.__module__ = "cupy"
    ndarray.host, ndarray.own = staticmethod(host), staticmethod(own)  # type: ignore[attr-defined]
    return ndarray


def tree(function: Any, value: Any) -> Any:
    """``function`` of every leaf of tuples, lists and dictionaries."""
    if type(value) in (tuple, list):
        return type(value)(tree(function, part) for part in value)
    if isinstance(value, dict):
        return {key: tree(function, part) for key, part in value.items()}
    return function(value)


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
        block = free.pop() if free else np.full(size, 0xFF, np.uint8)
        pointer = block.view(PinnedMemoryPointer)
        pointer.block, pointer.free, pointer.ptr = block, self.world.pinned_free, block.ctypes.data
        return pointer

    def n_free_blocks(self) -> int:
        return sum(map(len, self.world.pinned_free.values()))

    def free_all_blocks(self) -> None:
        self.world.pinned_free.clear()


class RawModule:
    """Loads what ``stand_in_cubin`` wrote; its kernels run on the CUDA emulator."""

    def __init__(self, world: World, ndarray: type, *, code: str | None = None, path: str | None = None, **options: Any) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        self.world, self.ndarray = world, ndarray
        self.made_of = json.loads(Path(path).read_text(encoding="utf-8"))  # type: ignore[arg-type]

    def get_function(self, name: str) -> Any:
        from tests.cuda_emulator.emulator import Emulator

        run = Emulator().function(self.made_of["file"], name, tuple(self.made_of["defines"]))

        def kernel(grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
            for argument in args:
                if isinstance(argument, np.ndarray):
                    self.ndarray.host(argument)  # type: ignore[attr-defined]
            self.world.log.append(("launch", self.world.stream, name))
            self.world.stream.submit(functools.partial(run, grid, block, args, shared_mem=shared_mem))

        return kernel


def fake_cupy(count: int = 2, driver_error: Exception | None = None, limit: int = 1 << 30, version: str = "14.2.0",
              driver: int = 13000, runtime: int = 13020) -> Any:  # fmt: skip
    """A module with CuPy's names.

    Args:
        count: of devices.
        driver_error: what every question to the driver raises.
        limit: bytes of a device's memory.
        version: CuPy's; ``driver``, ``runtime``: CUDA's, as 1000 * major + 10 * minor.
    """
    world = World(count, limit, driver_error)
    ndarray = make_ndarray(world)
    module: Any = types.ModuleType("cupy")
    module.__version__, module.log, module.world, module.ndarray = version, world.log, world, ndarray

    def ask(value: Any) -> Any:
        if driver_error:
            raise driver_error
        return value() if callable(value) else value

    def function(name: str, f: Any) -> Any:
        @functools.wraps(f, updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            ask(None)
            world.stream.run()
            if name in CREATORS and args and isinstance(args[0], np.ndarray) and not isinstance(args[0], ndarray):
                return from_host(name, *args, **kwargs)
            if name in ("asarray", "ascontiguousarray", "broadcast_to", "reshape", "transpose", "moveaxis", "swapaxes",
                        "expand_dims", "squeeze", "ravel", "atleast_1d", "rollaxis") and isinstance(args[0], ndarray):  # fmt: skip
                found = f(args[0].view(np.ndarray), *args[1:], **kwargs)  # a view, or a copy where it must be one
                shared = np.may_share_memory(found, args[0].view(np.ndarray))
                view = found.view(ndarray)
                view._memory = args[0]._memory if shared else world.allocator(found.nbytes)
                return args[0] if shared and name in CREATORS and kwargs.get("dtype") in (None, args[0].dtype) else view
            result = ndarray.own(f(*tree(ndarray.host, args), **tree(ndarray.host, kwargs)))
            if name in ("empty", "empty_like") and result.size:
                result.reshape(-1).view(np.ndarray).view(np.uint8).fill(0xFF)
            return result

        if isinstance(f, np.ufunc):
            for method in ("reduce", "accumulate", "outer", "at"):
                setattr(call, method, functools.partial(method_of, f, method))
        return call

    def method_of(f: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return ndarray.own(getattr(f, method)(*tree(ndarray.host, args), **tree(ndarray.host, kwargs)))

    def from_host(name: str, value: Any, dtype: Any = None, **options: Any) -> Any:
        array = np.array(value, dtype, order=options.get("order", "K"))
        world.log.append(("copy to device", world.stream, "blocking"))
        return ndarray.own(array)

    def __getattr__(name: str) -> Any:
        if name in ABSENT or name.startswith("__"):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        made = function(name, found)
        setattr(module, name, made)
        return made

    module.__getattr__ = __getattr__
    module.asnumpy = lambda x, stream=None, order="C", out=None, *, blocking=True: (
        x.get(stream, order, out, blocking) if isinstance(x, ndarray) else np.asarray(x, order=order)
    )
    pool, pinned = MemoryPool(world), PinnedMemoryPool(world)
    module.get_default_memory_pool, module.get_default_pinned_memory_pool = lambda: pool, lambda: pinned
    module.RawModule = functools.partial(RawModule, world, ndarray)

    def set_allocator(allocator: Any = None) -> None:
        world.allocator = allocator or world.pool_malloc

    def properties(index: int) -> dict[str, Any]:
        if index >= count:
            raise CUDARuntimeError(101)
        return {"name": f"Stand-in {index}".encode(), "totalGlobalMem": limit, "major": 9, "minor": 0,
                "multiProcessorCount": 2, "warpSize": 32, "l2CacheSize": 1 << 20}  # fmt: skip

    api = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: ask(count),
        getDevice=lambda: ask(lambda: world.device),
        setDevice=lambda index: ask(lambda: Device(world, index).use() and None),
        memGetInfo=lambda: ask(lambda: Device(world).mem_info),
        getDeviceProperties=lambda index: ask(lambda: properties(index)),
        deviceCanAccessPeer=lambda a, b: ask(lambda: 0 if a == b else 1),
        deviceSynchronize=lambda: ask(lambda: world.log.append(("synchronize", Device(world)))),
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: runtime,
    )
    memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    module.cuda = types.SimpleNamespace(
        Device=functools.partial(Device, world),
        Event=functools.partial(Event, world),
        MemoryPool=lambda *_: MemoryPool(world),
        Stream=types.SimpleNamespace(null=world.null),
        alloc=lambda size: world.allocator(size),
        alloc_pinned_memory=pinned.malloc,
        get_allocator=lambda: world.allocator,
        get_current_stream=lambda device_id=-1: world.stream,
        get_device_id=lambda: world.device,
        memory=memory,
        runtime=api,
        set_allocator=set_allocator,
    )

    class StreamFactory(Stream):
        null = world.null

        def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None) -> None:
            super().__init__(world, null, non_blocking, ptds, priority)

    module.cuda.Stream = StreamFactory
    return module


def stand_in_cubin(folder: Path) -> Any:
    """In place of the loader's ``compile_cubin``: a file that says what would be compiled."""
    from minidl.kernels.cuda.loader import Cubin

    def compile_cubin(name: str, arch: str, defines: tuple[str, ...], into: Path | None = None) -> Cubin:
        path = (into or folder) / f"{abs(hash((name, arch, defines)))}.cubin"
        path.write_text(json.dumps({"file": name, "defines": defines}), encoding="utf-8")
        return Cubin(path, {})

    return compile_cubin


def installer(monkeypatch: Any, folder: Path) -> Any:
    """``put(module)`` puts a stand-in in CuPy's place, and nothing (None) makes importing it fail; the caches are cleared."""
    from minidl.backend import cuda
    from minidl.kernels.cuda import launch, loader

    def put(module: Any) -> Any:
        cuda.cuda_backend.cache_clear()
        monkeypatch.setitem(sys.modules, "cupy", module)
        monkeypatch.setattr(launch, "_gpus", {name: gpu for name, gpu in launch._gpus.items() if name != "cuda"})
        if module is not None:
            cupyx: Any = types.ModuleType("cupyx")
            host = module.ndarray.host
            cupyx.scatter_add = lambda x, i, v: np.add.at(host(x), tree(host, i), host(v))
            monkeypatch.setitem(sys.modules, "cupyx", cupyx)
            monkeypatch.setattr(loader, "compile_cubin", stand_in_cubin(folder))
        return module

    yield put
    cuda.cuda_backend.cache_clear()
