"""``--device emu`` tests the CUDA kernels on the emulator (``--schedule``), ``--device cuda`` on a GPU, by the same tests.

``--device numba-cuda`` tests those written with Numba-CUDA: on a GPU, or in Numba's simulator where there is none.
"""
import os
import sys

import pytest

import minidl
from minidl.kernels.cuda.launch import attach
from tests.kernels import cases


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "emu", "cuda", "numba-cuda"),
                     help="whose kernels tests/kernels looks at")
    parser.addoption("--schedule", default="forward", choices=("forward", "reverse", "random"), help="of the CUDA emulator")
    parser.addoption("--every-kernel", action="store_true", help="with --device emu: fail if a CUDA kernel was never launched")


def pytest_configure(config: pytest.Config) -> None:
    cases.device = config.getoption("--device")
    if cases.device == "emu":
        from tests.cuda_emulator.races import emulator

        attach(emulator(config.getoption("--schedule")))
    elif cases.device == "cuda":
        import cupy

        poison(cupy)
    elif cases.device == "numba-cuda" and not minidl.cuda.is_available():
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"     # read by Numba when it is imported, which nothing has done yet
        sys.setswitchinterval(1e-5)                  # the simulator's threads wait for each other all the time


def poison(cupy):
    """Fill all memory that CuPy gives out with 0xff, NaN or -1: a number that a kernel forgot to write is then wrong for sure."""
    pool = cupy.cuda.MemoryPool()

    def allocate(size):
        memory = pool.malloc(size)
        if size:
            memory.memset_async(0xFF, size)
        return memory

    cupy.cuda.set_allocator(allocate)


def unseen(config: pytest.Config) -> str:
    """What ``--every-kernel`` complains of; under TSan, which watches some launches only, that it watched none of a kernel."""
    if not config.getoption("--every-kernel"):
        return ""
    from tests.cuda_emulator.every_kernel import never_launched, never_watched

    watching = "thread" in os.environ.get("MINIDL_EMULATOR_SANITIZE", "")
    what, kernels = ("watched", never_watched()) if watching else ("launched", never_launched())
    return f"CUDA kernels that no test {what}: {', '.join(kernels)}" if kernels else ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    if unseen(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if words := unseen(config):
        terminalreporter.write_line(words, red=True)
