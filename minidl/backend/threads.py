"""How many threads the fast CPU kernels use."""
from __future__ import annotations


def get_num_threads() -> int:
    """The threads that kernels use: what set_num_threads said, else $MINIDL_NUM_THREADS, else every core."""
    from minidl.kernels.cpu import threads
    return threads.get_num_threads()


def set_num_threads(threads: int) -> None:
    """Let kernels use so many threads, the caller's included.  Their work is divided by shapes alone: no result depends on it.

    NumPy's OpenBLAS, which multiplies matrices, keeps one thread, whatever OPENBLAS_NUM_THREADS said: its own would take
    the cores from the kernels for a while after each product.  Large products are cut into parts for the kernels' threads,
    one each, so their last bits may depend on the number.

    Raises:
        ConfigError: not a positive whole number.
    """
    from minidl.kernels.cpu.threads import set_num_threads
    set_num_threads(threads)


def get_blas_threads() -> int | None:
    """How many threads OpenBLAS uses; None for another library."""
    from minidl.kernels.cpu import blas
    return blas.get_threads()
