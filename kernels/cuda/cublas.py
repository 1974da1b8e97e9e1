"""Matrix products by cuBLAS, called through ctypes.

CuPy has cuBLAS too, but refuses to call it while a CUDA graph is captured.  Here each thread has a handle of its own for each
device, which is told CuPy's current stream and given its workspace beforehand: nothing is left that a capture forbids.

cuBLAS counts along columns first, our arrays along rows.  A row-major array read by columns is its transpose, so for
C = A B it is asked for C' = B' A': the operands change places, and nothing is copied.
"""
import ctypes
import functools
import itertools
import math
import sys
import threading
import weakref
from typing import Any, NamedTuple

import numpy as np

from minidl.errors import DeviceError

Array = Any

INT, LONG, POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
LIMIT = 2**31 - 1                                    # sizes and leading dimensions are ints
# The arguments of the calls that are made; each returns a status, 0 when all is well.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (POINTER,),
    "cublasDestroy_v2": (POINTER,),
    "cublasSetStream_v2": (POINTER, POINTER),
    "cublasSetWorkspace_v2": (POINTER, POINTER, ctypes.c_size_t),
    # handle, op(A), op(B), m, n, k, alpha, A, type, lda, B, type, ldb, beta, C, type, ldc, compute type, algorithm
    "cublasGemmEx": (POINTER, *[INT] * 5, POINTER, POINTER, INT, INT, POINTER, INT, INT, POINTER, POINTER, INT, INT, INT, INT),
    # the same with the distance between the matrices of a batch after each leading dimension, and their number
    "cublasGemmStridedBatchedEx": (
        POINTER, *[INT] * 5, POINTER, POINTER, INT, INT, LONG, POINTER, INT, INT, LONG, POINTER, POINTER, INT, INT, LONG, INT,
        INT, INT),
}  # fmt: skip


class Kind(NamedTuple):
    """How arrays of a dtype are multiplied: cudaDataType_t, cublasComputeType_t, and the type of alpha and beta."""

    values: int
    compute: int
    factors: Any


FLOAT32 = Kind(0, 69, ctypes.c_float)                # CUBLAS_COMPUTE_32F_PEDANTIC: float32 throughout
TF32 = Kind(0, 77, ctypes.c_float)                   # CUBLAS_COMPUTE_32F_FAST_TF32: factors rounded to 10 bits
KINDS = {
    "float32": FLOAT32,
    "float64": Kind(1, 70, ctypes.c_double),         # CUBLAS_COMPUTE_64F
    "float16": Kind(2, 68, ctypes.c_float),          # CUBLAS_COMPUTE_32F: products are added in float32
    "bfloat16": Kind(14, 68, ctypes.c_float),
}
ALGORITHM = -1                                       # CUBLAS_GEMM_DEFAULT


class Operand(NamedTuple):
    """A matrix, or a batch of them, as cuBLAS is told of it."""

    array: Array
    transposed: bool
    leading: int                                     # elements from a row to the next (from a column, when transposed)
    step: int                                        # elements from a matrix to the next


# ------------------------------------------------------------------------------------------------------------- arguments
def takes(a: Array, b: Array) -> bool:
    """Whether a @ b is a product for cuBLAS: a floating-point dtype that both have, matching shapes of less than 2^31 rows."""
    if a.dtype != b.dtype or a.dtype.name not in KINDS or not a.ndim or not b.ndim:
        return False
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        return False
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        return False
    return max(*a.shape, *b.shape, math.prod(batch), math.prod(a.shape[:-1])) <= LIMIT


def matmul(gpu: Any, a: Array, b: Array, tf32: bool = False) -> Array:
    """a @ b as NumPy defines it: vectors, matrices, and batches of them, whose leading axes broadcast.  See ``takes``.

    ``tf32``: factors of float32 may be rounded to 10 bits.
    """
    left, right = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    batch, (m, k), n = np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), left.shape[-2:], right.shape[-1]
    c = gpu.xp.empty((*batch, m, n), a.dtype)
    if c.size and k:
        _multiply(gpu, left, right, c, TF32 if tf32 and a.dtype.name == "float32" else KINDS[a.dtype.name])
    elif c.size:
        c.fill(0)                                    # sums of nothing
    return c.reshape((*batch, *((m,) if a.ndim > 1 else ()), *((n,) if b.ndim > 1 else ())))


def _multiply(gpu: Any, left: Array, right: Array, c: Array, kind: Kind) -> None:
    batch, (m, k), n = c.shape[:-2], left.shape[-2:], c.shape[-1]
    count = math.prod(batch)
    if math.prod(right.shape[:-2]) == 1 and left.shape[:-2] == batch:
        *down, across = _elements(left)
        together = _step(left.shape[:-1], tuple(down))
        tall = None if together is None else _orientation(count * m, k, together, across)
        if tall is not None:                         # the rows of all matrices lie at one distance: they are one tall matrix
            right = right.reshape(right.shape[-2:])
            _call(gpu, (count * m, n, k, 1), Operand(left, *tall, 0), _operand(gpu, right, ()), c, kind)
            return
    _call(gpu, (m, n, k, count), _operand(gpu, left, batch), _operand(gpu, right, batch), c, kind)


def _elements(x: Array) -> tuple[int, ...]:
    """Strides, in elements."""
    return tuple(s // x.itemsize for s in x.strides)


def _step(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """The distance between neighbours where several axes are counted through as one; None where it is not the same."""
    axes = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    if any(outer != size * inner for (_, outer), (size, inner) in itertools.pairwise(axes)):
        return None
    return axes[-1][1] if axes else 0


def _orientation(rows: int, columns: int, down: int, across: int) -> tuple[bool, int] | None:
    """(transposed, leading dimension) of a matrix with these strides; None for one that cuBLAS cannot read in place."""
    if (across == 1 or columns == 1) and (rows == 1 or columns <= down <= LIMIT):
        return False, max(columns, down if rows > 1 else 1)
    if (down == 1 or rows == 1) and (columns == 1 or rows <= across <= LIMIT):
        return True, max(rows, across if columns > 1 else 1)
    return None


def _operand(gpu: Any, x: Array, batch: tuple[int, ...]) -> Operand:
    """x for products of a batch of this shape: in place where its strides allow it, else a copy."""
    whole = all(s % x.itemsize == 0 for s in x.strides)      # a field of a record may lie between
    shape = (*(1,) * (len(batch) + 2 - x.ndim), *x.shape)
    strides = (*(0,) * (len(shape) - x.ndim), *_elements(x))
    seen = _orientation(*shape[-2:], *strides[-2:]) if whole else None
    step = _step(batch, tuple(0 if size == 1 else stride for size, stride in zip(shape[:-2], strides[:-2], strict=True)))
    if seen is None:
        return _operand(gpu, gpu.xp.array(x, order="C"), batch)
    if step is None or step < 0:
        return _operand(gpu, gpu.xp.array(gpu.xp.broadcast_to(x, (*batch, *x.shape[-2:])), order="C"), batch)
    return Operand(x, *seen, step)


def _call(gpu: Any, sizes: tuple[int, int, int, int], left: Operand, right: Operand, c: Array, kind: Kind) -> None:
    """c = left @ right: to cuBLAS, c' = right' left'."""
    m, n, k, count = sizes
    one, zero = kind.factors(1), kind.factors(0)
    head = (int(right.transposed), int(left.transposed), n, m, k, ctypes.byref(one))
    library, handle = gpu.blas, _handle(gpu)
    target = (ctypes.byref(zero), gpu.address(c), kind.values, n)
    if count == 1:
        first, second = ((gpu.address(o.array), kind.values, o.leading) for o in (right, left))
        found = library.cublasGemmEx(handle, *head, *first, *second, *target, kind.compute, ALGORITHM)
    else:
        firsts, seconds = ((gpu.address(o.array), kind.values, o.leading, o.step) for o in (right, left))
        batches = (*firsts, *seconds, *target, m * n, count)
        found = library.cublasGemmStridedBatchedEx(handle, *head, *batches, kind.compute, ALGORITHM)
    _check(library, "matmul", found)


# --------------------------------------------------------------------------------------------------------------- handles
class _Handle:
    """cuBLAS's state of one thread and device: the stream that it works on, and memory to work in for each stream."""

    def __init__(self, gpu: Any) -> None:
        self.pointer, self.library = POINTER(), weakref.ref(gpu.blas)
        self.stream: int | None = None
        self.workspaces: dict[int, Array] = {}
        _check(gpu.blas, "cublasCreate", gpu.blas.cublasCreate_v2(ctypes.byref(self.pointer)))
        self.size = (32 if gpu.capability >= 90 else 8) << 20        # what NVIDIA recommends

    def use(self, gpu: Any, stream: int) -> None:
        """Work on ``stream`` from now on."""
        if stream == self.stream:
            return
        _check(gpu.blas, "cublasSetStream", gpu.blas.cublasSetStream_v2(self.pointer, stream))
        # Setting the stream forgets the workspace.  Two streams may work at the same time, so each has its own.
        if stream not in self.workspaces:
            self.workspaces[stream] = gpu.scratch(self.size)
        address = gpu.address(self.workspaces[stream])
        _check(gpu.blas, "cublasSetWorkspace", gpu.blas.cublasSetWorkspace_v2(self.pointer, address, self.size))
        self.stream = stream

    def __del__(self) -> None:
        library = self.library()
        if library is not None and not sys.is_finalizing():      # at the end the driver may be gone already
            library.cublasDestroy_v2(self.pointer)


class _Handles(threading.local):
    """The handles of one thread, by library and device; they go when it ends."""

    def __init__(self) -> None:
        self.made: weakref.WeakKeyDictionary[Any, dict[int, _Handle]] = weakref.WeakKeyDictionary()


_handles = _Handles()


def _handle(gpu: Any) -> Any:
    """This thread's handle for the current device, on the current stream."""
    of_library = _handles.made.setdefault(gpu.blas, {})
    device = gpu.device
    if device not in of_library:
        of_library[device] = _Handle(gpu)
    of_library[device].use(gpu, gpu.stream)
    return of_library[device].pointer


def _check(library: Any, call: str, status: int) -> None:
    if status:
        words = library.cublasGetStatusString(status)
        raise DeviceError(f"{call}: cuBLAS reports {words.decode() if words else 'an error'} (status {status})")


# --------------------------------------------------------------------------------------------------------------- library
@functools.cache
def load() -> Any:
    """cuBLAS: the one that CuPy has loaded, that of the CUDA wheels or of ``CUDA_PATH``, or the system's.

    Raises:
        DeviceError: there is none.
    """
    tried: list[str] = []
    try:
        from cupy_backends.cuda.libs import cublas  # noqa: F401 - loads CuPy's own into the process, where there is one
    except Exception as e:                           # an ImportError, or CuPy's own error for a library that is not there
        tried.append(str(e))
    try:
        from cuda import pathfinder
        return declare(ctypes.CDLL(str(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)))
    except (ImportError, AttributeError, RuntimeError, OSError) as e:
        tried.append(str(e))
    for name in ("libcublas.so.13", "libcublas.so.12", "libcublas.so"):
        try:
            return declare(ctypes.CDLL(name))
        except OSError as e:
            tried.append(str(e))
    raise DeviceError(
        f"matmul: cuBLAS is not found ({tried[-1]}); pip install 'minidl[cuda13]', or set CUDA_PATH to an installed toolkit"
    )


def declare(library: Any) -> Any:
    """The library with the types of its functions; without them ctypes would cut pointers to 32 bits."""
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, INT
    library.cublasGetStatusString.argtypes, library.cublasGetStatusString.restype = (INT,), ctypes.c_char_p
    return library
