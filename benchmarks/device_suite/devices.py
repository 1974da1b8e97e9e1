"""What the suite measures on: a GPU by its own events, or the host's clock for the emulator.

An event is a mark in the GPU's queue, and the time between two of them is the GPU's alone as long as the queue does not run
empty between them.  Python needs longer to start a short kernel than the kernel takes.  So a kernel that does nothing but wait
goes first: while it waits, the call that is timed is queued behind it, as in a program that keeps the GPU busy.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.device_suite.store import Refused

Call = Callable[[], Any]

LAUNCHES = 20  # at least, of everything that is timed
SPAN_SECONDS = 0.3  # a call that is short is launched more often, for about this long
MOST_LAUNCHES = 100
SLACK = 50e-6  # seconds that the GPU waits longer than the host seems to need

SOURCE = r"""
extern "C" __global__ void wait(unsigned long long nanoseconds) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while (now - begin < nanoseconds);
}

// 32 chains of multiply-adds in a thread's registers, and nothing else: what the FP32 units can do.
extern "C" __global__ void multiply_add(float* out, float x, int turns) {
    float sums[32];
    for (int i = 0; i < 32; ++i) sums[i] = threadIdx.x + i;
    for (int turn = 0; turn < turns; ++turn)
        #pragma unroll
        for (int i = 0; i < 32; ++i) sums[i] = sums[i] * x + x;
    float total = 0;
    for (int i = 0; i < 32; ++i) total += sums[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
"""
CHAINS = 32


class Device(Protocol):
    """Where minidl's kernels run, and a clock for them."""

    name: str  # minidl's name of it
    torch: str  # PyTorch's name of the same place
    xp: Any

    def facts(self) -> dict[str, Any]:
        """What it is."""

    def synchronize(self) -> None:
        """Wait for everything that was started."""

    def spans(self, call: Call, flush: bool = True) -> list[float]:
        """Seconds on the device of each of some launches, at least ``LAUNCHES``; ``flush``: each with a cold cache."""

    def alive(self) -> bool:
        """Whether it still works: a wild store ends a GPU's context, and with it everything else in the process."""

    def tidy(self) -> None:
        """Give memory back."""


def launches(once: float) -> int:
    """How often to launch what takes ``once`` seconds."""
    return min(max(LAUNCHES, round(SPAN_SECONDS / max(once, 1e-9))), MOST_LAUNCHES)


class Cuda:
    """The current GPU, timed by CUDA events on the stream that CuPy and PyTorch use by default."""

    name = torch = "cuda"

    def __init__(self) -> None:
        import cupy

        self.xp = cupy
        self.kernels = cupy.RawModule(code=SOURCE)
        self._flushed: Any = None

    def facts(self) -> dict[str, Any]:
        runtime, device = self.xp.cuda.runtime, self.xp.cuda.Device()
        properties = runtime.getDeviceProperties(device.id)
        found = {
            "name": properties["name"].decode(),
            "capability": device.compute_capability,
            "multiprocessors": properties["multiProcessorCount"],
            "memory_bytes": properties["totalGlobalMem"],
            "l2_bytes": properties["l2CacheSize"],
            "driver_cuda": runtime.driverGetVersion(),
            "runtime_cuda": runtime.runtimeGetVersion(),
        }
        return {**found, **nvidia_smi()}

    def synchronize(self) -> None:
        self.xp.cuda.runtime.deviceSynchronize()

    def wait(self, seconds: float) -> None:
        """Keep the GPU from going on for so long; the host does not wait."""
        self.kernels.get_function("wait")((1,), (1,), (self.xp.uint64(seconds * 1e9),))

    def flush(self) -> None:
        """Write more than the L2 cache holds."""
        if self._flushed is None:
            size = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)["l2CacheSize"]
            self._flushed = self.xp.empty(max(4 * size, 256 << 20), self.xp.uint8)
        self._flushed.data.memset_async(0, self._flushed.nbytes)

    def spans(self, call: Call, flush: bool = True) -> list[float]:
        stream, event = self.xp.cuda.get_current_stream(), self.xp.cuda.Event
        call()
        self.synchronize()  # compiled, and memory is in the pool
        begin = time.perf_counter()
        call()
        host = time.perf_counter() - begin
        self.synchronize()
        once = time.perf_counter() - begin
        found = []
        for _ in range(launches(once)):
            if flush:
                self.flush()
            self.wait(1.5 * host + SLACK)
            start, end = event(), event()
            start.record(stream)
            call()
            end.record(stream)
            end.synchronize()
            found.append(self.xp.cuda.get_elapsed_time(start, end) * 1e-3)
        return found

    def alive(self) -> bool:
        try:
            self.synchronize()
            return bool((self.xp.ones(1) + 1).get()[0] == 2)
        except Exception:
            return False

    def tidy(self) -> None:
        gc.collect()
        self.xp.get_default_memory_pool().free_all_blocks()
        torch = sys.modules.get("torch")  # imported only by the parts that need it
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


class Emulated:
    """The emulator of the tests: the same launches on the CPU.  Its times are the host's and say nothing of a GPU."""

    name, torch = "emu", "cpu"

    def __init__(self) -> None:
        import numpy

        from minidl.backend.emu import Emu
        from minidl.backend.select import register_backend
        from minidl.kernels.cuda.launch import attach

        self.xp: Any = numpy
        attach(importlib.import_module("tests.cuda_emulator.emulator").Emulator())
        register_backend(Emu())

    def facts(self) -> dict[str, Any]:
        return {"name": "CUDA emulator", "capability": "90"}

    def synchronize(self) -> None:
        pass

    def spans(self, call: Call, flush: bool = True) -> list[float]:
        found = []
        for _ in range(2):
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
        return found

    def alive(self) -> bool:
        return True

    def tidy(self) -> None:
        gc.collect()


def check_device(name: str) -> None:
    """That the device "cuda" or "emu" is there; nothing is started on it.

    Raises:
        Refused: it is not; the message says why.
    """
    if name == "cuda":
        import minidl

        reason = minidl.cuda.why_not()
        if reason is not None:
            raise Refused(f"no GPU: {reason}")
    elif importlib.import_module("tests.cuda_emulator.emulator").COMPILER is None:
        raise Refused("--device emu: the CUDA emulator needs g++, which is not installed")


def open_device(name: str) -> Device:
    """The device "cuda" or "emu", ready to run kernels."""
    check_device(name)
    if name == "cuda":
        return Cuda()
    return Emulated()


def find_torch() -> Any:
    """PyTorch, or None where it is not installed."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("torch")
    return None


SMI = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu",
       "ecc.mode.current")  # fmt: skip


def nvidia_smi() -> dict[str, str]:
    """What nvidia-smi tells of the first GPU; nothing where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(SMI, values, strict=True)) if done.returncode == 0 and len(values) == len(SMI) else {}
