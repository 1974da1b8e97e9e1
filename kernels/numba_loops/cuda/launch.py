"""Launching: how many threads there are, on which stream, and what is different in Numba's simulator.

In the simulator (NUMBA_ENABLE_CUDASIM=1) a thread of the GPU is a thread of Python and arrays are NumPy's: it is slow, but
it needs no GPU, and a debugger can stop in a kernel.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cuda

from minidl.kernels.numba_loops.jit import SIMULATED

THREADS = 4 if SIMULATED else 128       # of a block: a power of two, so that a block can be halved until one thread is left
MAX_BLOCKS = 3 if SIMULATED else 8192   # of a kernel whose threads go round: more than any GPU runs at a time


def array_module() -> Any:
    """CuPy; in the simulator NumPy."""
    if SIMULATED:
        import numpy
        return numpy
    import cupy
    return cupy


def device_function(function: Callable[..., Any]) -> Any:
    """Decorator: a function that kernels call.  A scalar function of the CPU's loops is compiled once more, for the GPU."""
    plain = getattr(function, "py_func", function)
    return plain if SIMULATED else cuda.jit(device=True)(plain)

@device_function
def position(index, channels, height, width):
    """(n, c, h, w) of the element number ``index``, in the order of memory, of an array (N, channels, height, width)."""
    w, index = index % width, index // width
    h, index = index % height, index // height
    return index // channels, index % channels, h, w


def launch(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Start ``blocks`` blocks of THREADS threads on CuPy's current device and stream: after all that CuPy was told before."""
    if blocks == 0:
        return                          # there is nothing to do, and CUDA refuses a grid without blocks
    if SIMULATED:
        kernel[blocks, THREADS](*arguments)
        return
    import cupy

    pointer = cupy.cuda.get_current_stream().ptr
    stream = cuda.external_stream(pointer) if pointer else cuda.default_stream()
    # Numba would wait for the stream that an array comes from. It is the one that the kernel runs on: it need not.
    seen = [cuda.as_cuda_array(a, sync=False) if isinstance(a, cupy.ndarray) else a for a in arguments]
    kernel[blocks, THREADS, stream](*seen)


def launch_over(kernel: Any, work: int, *arguments: Any) -> None:
    """Start as many blocks as ``work`` elements need, or MAX_BLOCKS."""
    launch(kernel, min(-(-work // THREADS), MAX_BLOCKS), *arguments)
