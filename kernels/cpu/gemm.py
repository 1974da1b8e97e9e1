"""Matrix products on the pool: each thread multiplies its part of the rows or columns with OpenBLAS, one thread a call.

OpenBLAS's kernels are as fast as the machine; its threads are the trouble (blas.py).  So it gets one, and is called from ours.
Where NumPy has another BLAS, or there is one thread, NumPy multiplies.
"""
from __future__ import annotations

import ctypes
import functools
from importlib import resources

import numpy as np

from minidl.kernels.cpu import blas, engine, memory, threads

STEP = 16                                            # rows or columns: a part ends where BLAS's own blocks may
_PLAIN, _TRANSPOSED = 111, 112                       # CBLAS's codes
_NUMBERS = 11                                        # of a job in the table, see gemm.ll
_LETTERS = {np.dtype(np.float32): ("s", "float"), np.dtype(np.float64): ("d", "double")}


@functools.cache
def _kernel(dtype: np.dtype) -> tuple[int, int] | None:
    """The addresses of gemm_jobs and of OpenBLAS's product of this dtype; None where there is none."""
    letter, name = _LETTERS[dtype]
    product = blas.product(letter)
    if product is None:
        return None
    text = resources.files(__package__ or "minidl.kernels.cpu").joinpath("gemm.ll").read_text(encoding="utf-8")
    try:
        return engine.load(text.replace("FLOAT", name), "gemm_jobs")[0], product
    except engine.Unavailable:
        return None


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out = a @ b, and returns out.  ``out`` is C-contiguous and overlaps neither."""
    if a.ndim == b.ndim == 2 and a.dtype in _LETTERS and a.dtype == b.dtype == out.dtype:
        m, n, count = len(a), b.shape[1], threads.get_num_threads()
        if count > 1 and min(m, n) > 1:          # a vector is NumPy's: its product with a matrix is gemv
            left, right, found = _operand(a), _operand(b), _kernel(a.dtype)
            if left and right and found:
                _run(*found, a, left, b, right, out, count)
                return out
    return np.matmul(a, b, out=out)


def _operand(x: np.ndarray) -> tuple[int, int] | None:
    """CBLAS's code and leading dimension of a matrix whose rows, or columns, lie dense; None for another."""
    down, along = x.strides
    if along == x.itemsize and down >= x.shape[1] * x.itemsize and down % x.itemsize == 0:
        return _PLAIN, down // x.itemsize
    if down == x.itemsize and along >= x.shape[0] * x.itemsize and along % x.itemsize == 0:
        return _TRANSPOSED, along // x.itemsize
    return None


def _run(kernel: int, call: int, a: np.ndarray, left: tuple[int, int], b: np.ndarray, right: tuple[int, int], out: np.ndarray,
         count: int) -> None:  # fmt: skip
    (m, k), n = a.shape, b.shape[1]
    by_rows = m >= n
    size = m if by_rows else n
    part = -(-size // count)
    part += -part % STEP
    at_a, at_b, at_c = a.ctypes.data, b.ctypes.data, memory.address(out)
    jobs: list[int] = []
    for begin in range(0, size, part):
        length = min(part, size - begin)
        if by_rows:
            here = length, n, k, at_a + begin * a.strides[0], left[1], at_b, right[1], at_c + begin * n * a.itemsize, n
        else:
            here = m, length, k, at_a, left[1], at_b + begin * b.strides[1], right[1], at_c + begin * a.itemsize, n
        jobs += (left[0], right[0], *here)
    table = (ctypes.c_int64 * (2 + len(jobs)))(call, len(jobs) // _NUMBERS, *jobs)
    threads.run(kernel, ctypes.addressof(table))

