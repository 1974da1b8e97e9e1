"""The machine: versions, and the roofs that kernels are compared with, each measured on this GPU."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.device_suite.devices import CHAINS, Cuda, find_torch
from benchmarks.device_suite.features import BFLOAT16, FLOAT32, TF32, torch_precision
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, timing

COPY_BYTES = 1 << 30
MATRIX = 8192
TURNS, BLOCKS, THREADS = 1 << 14, 8, 256  # of the multiply-add kernel; blocks for each multiprocessor

COPY, FMA, MATMUL = "copy", "multiply-add", "matrix product"
PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "numpy", "numba", "llvmlite", "ml_dtypes", "pytest", "hypothesis",
            "safetensors", "click", "rich", "pillow")  # fmt: skip


def tasks(suite: Suite) -> Iterator[Task]:
    yield Task("versions", versions)
    yield Task(f"roof {COPY}", lambda _: copy(suite))
    yield Task(f"roof {FMA}", lambda _: multiply_add(suite))
    for precision in (FLOAT32, TF32, BFLOAT16):
        yield Task(f"roof {MATMUL} {precision}", matmul_of(suite, precision))


def versions(_: Deadline) -> dict[str, Any]:
    """What is installed; None: it is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return {"versions": found}


def roof(seconds: list[float], work: float, unit: str, what: str) -> dict[str, Any]:
    """The rate at the median; ``work`` bytes or operations in a launch."""
    found = timing(seconds)
    scale = {"GB/s": 1e-9, "TFLOP/s": 1e-12}[unit]
    return {"what": what, "timings": {"roof": found}, "rate": work / found["median"] * scale, "unit": unit}


def copy(suite: Suite) -> dict[str, Any]:
    """One array to another; bytes read and bytes written both count."""
    size = 1 << 16 if suite.tiny else COPY_BYTES
    xp = suite.device.xp
    source, target = xp.ones(size, xp.uint8), xp.empty(size, xp.uint8)
    if isinstance(suite.device, Cuda):
        move: Callable[[], Any] = lambda: target.data.copy_from_device_async(source.data, size)
    else:
        move = lambda: xp.copyto(target, source)
    return roof(suite.device.spans(move), 2 * size, "GB/s", f"{size >> 20} MiB, device to device")


def multiply_add(suite: Suite) -> dict[str, Any]:
    """Multiply-adds in registers, two operations each."""
    if not isinstance(suite.device, Cuda):
        raise Missing("the emulator has no multiply-add units")
    device = suite.device
    blocks = BLOCKS * device.facts()["multiprocessors"]
    turns = 16 if suite.tiny else TURNS
    out, kernel = device.xp.empty(blocks * THREADS, device.xp.float32), device.kernels.get_function("multiply_add")
    arguments = out, device.xp.float32(0.5), device.xp.int32(turns)
    seconds = device.spans(lambda: kernel((blocks,), (THREADS,), arguments), flush=False)
    return roof(seconds, 2.0 * CHAINS * turns * blocks * THREADS, "TFLOP/s", "float32 in registers")


def matmul_of(suite: Suite, precision: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(_: Deadline) -> dict[str, Any]:
        torch = find_torch()
        if torch is None:
            raise Missing("PyTorch, which calls cuBLAS for this, is not installed")
        size = 64 if suite.tiny else MATRIX
        dtype = torch.bfloat16 if precision == BFLOAT16 else torch.float32
        # Random numbers: zeros need less power, and some GPUs then run faster.
        a, b = (torch.randn(size, size, device=suite.device.torch).to(dtype) for _ in range(2))
        with torch_precision(torch, suite.device.torch, FLOAT32 if precision == BFLOAT16 else precision):
            seconds = suite.device.spans(lambda: a @ b, flush=False)
        return roof(seconds, 2.0 * size**3, "TFLOP/s", f"{size} x {size} x {size}, cuBLAS")

    return run
