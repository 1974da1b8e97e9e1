"""Launching a kernel: the same checks and the same code, on a GPU or on the emulator.

A raw kernel takes whatever bytes it is given: one array of another dtype, with strides or of another device, and it is
silently wrong or writes elsewhere.  So nothing is launched but through ``launch``, which compares every argument with the
kernel's own text.
"""
import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from minidl.errors import DeviceError, DTypeError, ShapeError
from minidl.kernels.cuda import source
from minidl.kernels.registry import next_best, register, variants

Array = Any
BLOCK = 256                                          # threads of a block where nothing asks for another number
BLOCKS_PER_PROCESSOR = 16                            # of 256 threads: twice what fits at once, so that none idles at the end

FREE_SHARED = 48 << 10                               # bytes; a kernel that wants more has to say so before it is launched


class Gpu(Protocol):
    """Where kernels run.  ``xp`` makes its arrays; ``function`` gives a kernel that is called as CuPy's are."""

    name: str
    xp: Any
    threads: int                                     # of a block, where a grid-stride kernel asks for no number

    @property
    def multiprocessors(self) -> int:
        """How many blocks run at the same time, or more."""

    @property
    def capability(self) -> int:
        """Its compute capability: 90 for sm_90."""

    def function(self, file: str, entry: str, defines: tuple[str, ...]) -> Callable[..., None]:
        """The kernel, compiled: ``f(grid, block, arguments, shared_mem=bytes)``."""

    def address(self, array: Array) -> int:
        """Where an array begins, for tables of pointers."""

    @property
    def device(self) -> int:
        """The number of the current device."""

    @property
    def stream(self) -> int:
        """The address of the current stream."""

    @property
    def blas(self) -> Any:
        """cuBLAS, as ``cublas.declare`` makes it."""

    def scratch(self, size: int) -> Array:
        """So many bytes that stay, whether or not a graph is being captured."""


class CupyGpu:
    """The GPU that CuPy has as its current device."""

    name = "cuda"
    threads = BLOCK

    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    @property
    def multiprocessors(self) -> int:
        return int(self.xp.cuda.Device().attributes["MultiProcessorCount"])

    @property
    def capability(self) -> int:
        return int(self.xp.cuda.Device().compute_capability)

    def function(self, file: str, entry: str, defines: tuple[str, ...]) -> Callable[..., None]:
        return self._function(file, entry, f"sm_{self.capability}", defines)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    @property
    def device(self) -> int:
        return int(self.xp.cuda.runtime.getDevice())

    @property
    def stream(self) -> int:
        return int(self.xp.cuda.get_current_stream().ptr)

    @property
    def blas(self) -> Any:
        from minidl.kernels.cuda import cublas

        return cublas.load()

    def scratch(self, size: int) -> Array:
        from minidl.kernels.cuda import capture

        with capture.outside(self.xp):
            return self.xp.empty(size, self.xp.uint8)

    @functools.cache  # noqa: B019 - there is one, for the whole process
    def _function(self, file: str, entry: str, arch: str, defines: tuple[str, ...]) -> Any:
        """The kernel, which loads itself on each device of that architecture."""
        return self._module(file, arch, defines).get_function(entry)

    @functools.cache  # noqa: B019 - see above
    def _module(self, file: str, arch: str, defines: tuple[str, ...]) -> Any:
        from minidl.kernels.cuda.loader import compile_cubin

        return self.xp.RawModule(path=str(compile_cubin(file, arch, defines).path))


_gpus: dict[str, Gpu] = {}


def attach(gpu: Gpu) -> None:
    """Let kernels for the device ``gpu.name`` run on ``gpu``; the tests attach the emulator so."""
    _gpus[gpu.name] = gpu


def gpu_of(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        DeviceError: it is the emulator, and nobody attached it.
    """
    if name not in _gpus:
        if name != "cuda":
            raise DeviceError(f"device {name!r}: no emulator is attached; it comes with minidl's tests, not with the package")
        _gpus[name] = CupyGpu()
    return _gpus[name]


def cuda(verb: str, variant: str, takes: Callable[..., bool] | None = None,
         since: int = 0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # fmt: skip
    """Decorator: ``f(gpu, *arguments)`` is a variant of ``verb`` on the devices "cuda" and "emu".

    Calls that ``takes(*arguments)`` refuses, and all on a GPU below compute capability ``since`` (80: sm_80), run the next
    best variant of the device instead; array-module code ("cupy", "numpy" for the emulator) is the last and takes everything.
    """

    def decorate(kernel: Callable[..., Any]) -> Callable[..., Any]:
        for device in ("cuda", "emu"):
            register(verb, device, variant)(functools.partial(_run, kernel, takes, since, verb, device, variant))
        return kernel

    return decorate


def _run(kernel: Any, takes: Any, since: int, verb: str, device: str, variant: str, *arguments: Any, **options: Any) -> Any:
    if takes is not None and not takes(*arguments, **options) or since and gpu_of(device).capability < since:
        return next_best(verb, device, variant)(*arguments, **options)
    return kernel(gpu_of(device), *arguments, **options)


def computes(verb: str, device: str, variant: str, *arguments: Any, **options: Any) -> bool:
    """Whether a variant computes these arguments itself; False: it hands them to the next best variant."""
    kernel: Any = variants(verb, device)[variant]
    if getattr(kernel, "func", None) is not _run:
        return True
    _, takes, since, *_ = kernel.args
    return (takes is None or takes(*arguments, **options)) and not (since and gpu_of(device).capability < since)


def same_dtype(*arrays: Any) -> bool:
    """Whether there is a kernel for the dtype of the arrays that are there, and they all have it."""
    found = {a.dtype.name for a in arrays if a is not None}
    return len(found) == 1 and found <= source.DTYPES.keys()


def launch(gpu: Gpu, file: str, entry: str, arguments: tuple[Any, ...], *, dtype: Any, work: int = 0,
           grid: tuple[int, ...] | None = None, block: tuple[int, ...] | None = None, shared: int = 0) -> None:  # fmt: skip
    """Runs kernel ``entry`` of ``file``, compiled for arrays of ``dtype``.

    Args:
        arguments: in the kernel's order; arrays C-contiguous, numbers as Python has them, None for a null pointer.
        work: elements of a grid-stride kernel: as many blocks are made as are useful.  0: ``grid`` is given.
        shared: bytes of dynamic shared memory of a block.

    Raises:
        DeviceError: the GPU is too old for this kernel.
        DTypeError, ShapeError: an argument is not what the kernel's text says, or a number is too large for its type.
    """
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name   # np.dtype may not know "bfloat16"
    if grid is None:
        if work == 0:
            return                                   # a grid without blocks is an error to CUDA; there is nothing to do
        block = block or (gpu.threads,)
        threads = block[0]
        grid = (min(-(-work // threads), gpu.multiprocessors * BLOCKS_PER_PROCESSOR * BLOCK // threads),)
    defines = source.defines(name)
    if not source.made_for(file, name, gpu.capability):
        raise DeviceError(f"{entry}: there is no {file} for {name} on sm_{gpu.capability}; choose another variant, as \"cuda\"")
    parameters = source.entries(file)[entry]
    if len(parameters) != len(arguments):
        raise ShapeError(f"{file}: {entry} takes {len(parameters)} arguments, got {len(arguments)}")
    values = tuple(_convert(gpu, entry, p, name, a) for p, a in zip(parameters, arguments, strict=True))
    kernel: Any = gpu.function(file, entry, defines)
    if shared > FREE_SHARED:
        kernel.max_dynamic_shared_size_bytes = shared
    kernel(grid, block or (BLOCK,), values, shared_mem=shared)


def _convert(gpu: Gpu, entry: str, parameter: source.Parameter, name: str, value: Any) -> Any:
    dtype = parameter.dtype(name)
    if not parameter.pointer:
        kind = np.dtype(dtype).type
        if kind is not np.bool_ and np.dtype(dtype).kind in "iu":
            limits = np.iinfo(dtype)
            if not limits.min <= value <= limits.max:
                raise ShapeError(
                    f"{entry}: {parameter.name}={value} does not fit {parameter.type}; split the array into smaller ones"
                )
        return kind(value)
    if value is None:
        return np.uintp(0)
    if not isinstance(value, gpu.xp.ndarray):
        raise DTypeError(f"{entry}: {parameter.name} is a {type(value).__name__}, expected an array on {gpu.name}")
    if value.dtype.name != (dtype if isinstance(dtype, str) else dtype.name):
        raise DTypeError(f"{entry}: {parameter.name} has dtype {value.dtype}, the kernel takes {dtype}")
    if not value.flags.c_contiguous:
        raise ShapeError(f"{entry}: {parameter.name} of shape {value.shape} is not contiguous: strides {value.strides}")
    return value
