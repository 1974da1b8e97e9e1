"""A stand-in for CuPy 14.2 that computes with NumPy, and runs kernels on the CUDA emulator: the CUDA backend without a GPU.

Names, signatures and refusals are those of the installed package, as far as minidl uses them; ``calls`` lists what was asked
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
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.cuda_emulator.blas import Blas
from tests.fake_cuda import (
    UNIT,
    CUDARuntimeError,
    Device,
    Event,
    MemoryPool,
    OutOfMemoryError,
    PinnedMemoryPool,
    Stream,
    World,
    pinned_block,
)

ABSENT = frozenset(  # names of NumPy's that CuPy 14.2 does not have
    "False_ True_ ScalarType asmatrix block bmat char core ctypeslib datetime64 einsum_path errstate frompyfunc geomspace "
    "getbufsize geterr histogram_bin_edges info longdouble ma matrix matvec memmap nanpercentile nanquantile ndenumerate "
    "nditer nested_iters object_ rec recarray record seterr spacing str_ strings test timedelta64 unstack vecdot vecmat "
    "void".split()
)
CREATORS = frozenset("array asarray ascontiguousarray asfortranarray asanyarray".split())  # these take host arrays
VIEWS = frozenset(  # these share memory where they can
    "asarray ascontiguousarray broadcast_to reshape transpose moveaxis swapaxes expand_dims squeeze ravel atleast_1d".split()
)
REDUCTIONS = ("sum", "prod", "mean", "max", "min", "argmax", "argmin", "all", "any", "std", "var", "ptp", "trace", "dot")


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
        def flags(self) -> Any:  # type: ignore[override]
            """Those that CuPy has; ``writeable`` is not among them."""
            own = np.ndarray.flags.__get__(self)
            names = ("c_contiguous", "f_contiguous", "fnc", "forc", "owndata")
            return types.SimpleNamespace(**{name: getattr(own, name) for name in names})

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
            offset = array.ctypes.data - np.frombuffer(block, np.uint8).ctypes.data
            source = np.ndarray(array.shape, array.dtype, block, offset, array.strides)
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
    module.__version__, module.calls, module.world, module.ndarray = version, world.log, world, ndarray

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
            if name in VIEWS and isinstance(args[0], ndarray):
                found = f(args[0].view(np.ndarray), *args[1:], **kwargs)  # a view, or a copy where it must be one
                shared = np.may_share_memory(found, args[0].view(np.ndarray))
                view = found.view(ndarray)
                view._memory = args[0]._memory if shared else world.allocator(found.nbytes)
                return args[0] if shared and name in CREATORS and kwargs.get("dtype") in (None, args[0].dtype) else view
            result = ndarray.own(f(*tree(ndarray.host, args), **tree(ndarray.host, kwargs)))
            return poisoned(result) if name in ("empty", "empty_like") and result.size else result

        if isinstance(f, np.ufunc):
            for method in ("reduce", "accumulate", "outer", "at", "reduceat"):
                setattr(call, method, functools.partial(method_of, f, method))
        return call

    def poisoned(array: Any) -> Any:
        """The same array in memory of its own that begins where CuPy's would, at a multiple of 512, full of 0xff bytes."""
        room = np.full(array.nbytes + UNIT, 0xFF, np.uint8)
        first = -room.ctypes.data % UNIT
        found = np.ndarray(array.shape, array.dtype, room, first, array.strides).view(ndarray)
        found._memory = array._memory
        return found

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


def stand_in_cublas(world: World) -> Any:
    """In place of cuBLAS: its products are part of the current stream's work, which it must have been told."""

    def submit(task: Any) -> None:
        assert (blas.stream or 0) == world.stream.ptr, "cuBLAS was not told the current stream"
        world.stream.submit(task)

    blas = Blas(submit)
    return blas


def installer(monkeypatch: Any, folder: Path) -> Any:
    """``put(module)`` puts a stand-in in CuPy's place, and nothing (None) makes importing it fail; the caches are cleared."""
    from minidl.backend import cuda
    from minidl.kernels.cuda import cublas, launch, loader

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
            monkeypatch.setattr(cublas, "load", functools.cache(functools.partial(stand_in_cublas, module.world)))
        return module

    yield put
    cuda.cuda_backend.cache_clear()
