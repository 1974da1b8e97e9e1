"""``--device emu`` tests the CUDA kernels on the emulator (``--schedule``), ``--device cuda`` on a GPU, by the same tests."""
import os

import pytest

from minidl.kernels.cuda.launch import attach
from tests.kernels import cases


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "emu", "cuda"), help="whose kernels tests/kernels looks at")
    parser.addoption("--schedule", default="forward", choices=("forward", "reverse", "random"), help="of the CUDA emulator")


def pytest_configure(config: pytest.Config) -> None:
    cases.device = config.getoption("--device")
    if cases.device == "emu":
        from tests.cuda_emulator.emulator import Emulator

        attach(Emulator(config.getoption("--schedule"), os.environ.get("MINIDL_EMULATOR_SANITIZE", "")))
    elif cases.device == "cuda":
        import cupy

        poison(cupy)


def poison(cupy):
    """Fill all memory that CuPy gives out with 0xff, NaN or -1: a number that a kernel forgot to write is then wrong for sure."""
    pool = cupy.cuda.MemoryPool()

    def allocate(size):
        memory = pool.malloc(size)
        if size:
            memory.memset_async(0xFF, size)
        return memory

    cupy.cuda.set_allocator(allocate)
