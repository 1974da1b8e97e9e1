"""A stand-in for cuBLAS: the same C functions, reached through the same ctypes signatures, computed with NumPy from pointers.

It refuses what cuBLAS refuses (status 7, "an unsupported value or parameter"), and multiplies nothing before a stream and then
a workspace were set.
"""
import ctypes

import numpy as np

from minidl.kernels.cuda import cublas

INVALID = 7
TYPES = {0: "float32", 1: "float64", 2: "float16", 14: "bfloat16"}


class Blas:
    """``calls`` lists (function, arguments) of every product; ``workspaces`` what was set for each stream.

    ``submit(task)`` is given what is to be computed on the stream, when the call was found to be in order.
    """

    def __init__(self, submit=lambda task: task()):
        self.submit = submit
        self.calls, self.workspaces, self.stream, self.ready = [], {}, None, False
        for name, arguments in cublas.SIGNATURES.items():
            function = getattr(self, f"_{name.removesuffix('_v2')}")
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(function))

    @staticmethod
    def cublasGetStatusString(status):
        return {INVALID: b"an unsupported value or parameter was passed to the function"}.get(status)

    def _cublasCreate(self, handle):
        ctypes.c_void_p.from_address(handle).value = 4711
        return 0

    def _cublasDestroy(self, handle):
        return 0

    def _cublasSetStream(self, handle, stream):
        self.stream, self.ready = stream, False      # cuBLAS forgets the workspace with it
        return 0 if handle == 4711 else 1

    def _cublasSetWorkspace(self, handle, address, size):
        self.workspaces[self.stream], self.ready = (address, size), True
        return 0 if address and address % 256 == 0 or size == 0 else INVALID

    def _cublasGemmEx(self, handle, opa, opb, m, n, k, alpha, a, ta, lda, b, tb, ldb, beta, c, tc, ldc, compute, algorithm):
        self.calls.append(("cublasGemmEx", (opa, opb, m, n, k, lda, ldb, ldc)))
        return self._multiply(opa, opb, m, n, k, alpha, (a, ta, lda, 0), (b, tb, ldb, 0), beta, (c, tc, ldc, 0), 1, compute)

    def _cublasGemmStridedBatchedEx(self, handle, opa, opb, m, n, k, alpha, a, ta, lda, sa, b, tb, ldb, sb, beta, c, tc, ldc, sc,
                                    count, compute, algorithm):  # fmt: skip
        self.calls.append(("cublasGemmStridedBatchedEx", (opa, opb, m, n, k, lda, sa, ldb, sb, ldc, sc, count)))
        operands = (a, ta, lda, sa), (b, tb, ldb, sb), beta, (c, tc, ldc, sc)
        return self._multiply(opa, opb, m, n, k, alpha, *operands, count, compute)

    def _multiply(self, opa, opb, m, n, k, alpha, a, b, beta, c, count, compute):
        rows = (k if opa else m, n if not opb else k)
        rows_b = n if opb else k
        if min(m, n, k, count) < 0 or a[2] < max(1, rows[0]) or b[2] < max(1, rows_b) or c[2] < max(1, m) or not self.ready:
            return INVALID
        if len({a[1], b[1], c[1]}) != 1 or opa not in (0, 1) or opb not in (0, 1) or (count > 1 and c[3] < m * n):
            return INVALID
        name = TYPES[c[1]]
        if compute not in {"float32": (68, 69, 77), "float64": (70, 71), "float16": (68,), "bfloat16": (68,)}[name]:
            return INVALID
        factor = ctypes.c_double if name == "float64" else ctypes.c_float
        alpha, beta = (factor.from_address(address).value for address in (alpha, beta))
        self.submit(lambda: self._compute(name, opa, opb, m, n, k, alpha, a, b, beta, c, count, compute == 77))
        return 0

    @staticmethod
    def _compute(name, opa, opb, m, n, k, alpha, a, b, beta, c, count, tf32):
        left = _matrices(a, (k, m) if opa else (m, k), count)
        right = _matrices(b, (n, k) if opb else (k, n), count)
        target = _matrices(c, (m, n), count)
        left, right = (x.swapaxes(1, 2) if op else x for x, op in ((left, opa), (right, opb)))
        wide = np.float64 if name == "float64" else np.float32
        left, right = left.astype(wide), right.astype(wide)
        if tf32:
            left, right = _tf32(left), _tf32(right)
        product = wide(alpha) * np.matmul(left, right)
        target[...] = (product + wide(beta) * target if beta else product).astype(target.dtype)


def _matrices(operand, shape, count):
    """(count, rows, columns) at an address, counted along columns first."""
    address, kind, leading, step = operand
    if TYPES[kind] == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(TYPES[kind])
    rows, columns = shape
    last = (count - 1) * step + (columns - 1) * leading + rows if rows and columns else 0
    memory = (ctypes.c_char * (max(last, 0) * dtype.itemsize)).from_address(address)
    flat = np.frombuffer(memory, dtype) if last > 0 else np.empty(0, dtype)
    strides = tuple(s * dtype.itemsize for s in (step, 1, leading))
    return np.lib.stride_tricks.as_strided(flat, (count, *shape), strides)


def _tf32(x):
    """float32 with 10 bits of fraction, rounded to nearest."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
