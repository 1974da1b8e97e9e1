"""The same operations as kernels for a GPU, written in Python with Numba-CUDA: variant "numba" on device "cuda".

A kernel is a function that says what *one thread* does.  A launch starts thousands of threads, in *blocks* of THREADS
(128), and each runs the same function; what tells them apart is where they are:

    cuda.threadIdx.x     number of the thread in its block
    cuda.blockIdx.x      number of its block in the grid of blocks
    cuda.grid(1)         number of the thread among all: blockIdx.x * blockDim.x + threadIdx.x
    cuda.gridsize(1)     how many threads there are

There are two ways of dealing the work out.  Where each number of a result can be made by itself, a thread starts with the
number that has its own number and goes on by as many as there are threads::

    for index in range(cuda.grid(1), y.size, cuda.gridsize(1)):

What it makes is said by the scalar functions of the CPU's loops, one directory up, which are compiled once more for the
GPU.  Where a result needs many numbers, as the mean of a channel does, the threads of a block work on it together
(``blocks.py``).  No two threads add to one number, so that two runs give the same bits.

``kernels.use("numba")`` or ``MINIDL_KERNELS=numba`` chooses these kernels, and nothing chooses them by itself.  They take
CuPy arrays and run on CuPy's current stream.  Without a GPU they run in Numba's simulator, on NumPy arrays: set
NUMBA_ENABLE_CUDASIM=1 before Numba is imported.
"""
from __future__ import annotations

import functools

from minidl.errors import ConfigError
from minidl.kernels.numba_loops import NAME, VERBS, Variant
from minidl.kernels.registry import register

FAMILIES = ("conv", "pool", "norm", "dropout", "softmax")


class GpuVariant(Variant):
    """A kernel of one of the modules here, imported at the first call."""

    package, device, install = __name__, "cuda", "pip install 'minidl[numba-cuda]'"

    def _prepare(self) -> None:
        reason = why_not()
        if reason is not None:
            raise ConfigError(
                f"kernel {self.verb!r}: variant {NAME!r} finds no GPU that Numba can use: {reason}; {self.install}, or set "
                "NUMBA_ENABLE_CUDASIM=1 to run it in Numba's simulator, on NumPy arrays"
            )


@functools.cache
def why_not() -> str | None:
    """Why Numba cannot use a GPU here, in its words; None if it can."""
    from numba import cuda

    if cuda.is_available():
        return None
    return " ".join(str(cuda.cuda_error() or "there is none, or NVVM, its compiler, is missing").split())


def register_family(family: str) -> None:
    """Register the kernels of a family, if there are any."""
    for verb in VERBS[family] if family in FAMILIES else ():
        register(verb, "cuda", NAME)(GpuVariant(family, verb))
