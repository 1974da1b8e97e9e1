"""What starting costs: a kernel that does next to nothing, and operations on four numbers, a thousand of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import minidl
from benchmarks.device_suite.devices import Cuda, find_torch
from benchmarks.device_suite.features import minidl_graph, torch_graph
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, timing
from benchmarks.ops.engine_overhead import chain
from minidl.kernels.cuda.launch import gpu_of, launch

COUNT, ROUNDS = 1000, 21
TINY_COUNT, TINY_ROUNDS = 5, 2


def tasks(suite: Suite) -> Iterator[Task]:
    count = TINY_COUNT if suite.tiny else COUNT
    for name, build in {
        "launch, minidl": minidl_launches, "launch, CuPy": cupy_launches, "launch, torch": torch_launches,
        "launch, minidl graph": minidl_graph_launches, "launch, torch graph": torch_graph_launches,
    }.items():  # fmt: skip
        yield Task(name, rounds_of(suite, build, count, f"{count} ReLUs of 4 numbers, with the wait for the last one"))
    for name, library in {"operations, minidl": ours, "operations, torch": theirs}.items():
        for shape in ((), (4,)):
            yield Task(f"{name} {shape}", rounds_of(suite, adds(library, shape, count), count,
                                                    f"{count} additions of shape {shape}, forward and backward"))  # fmt: skip
    yield Task("events", lambda _: empty_span(suite))


Build = Callable[[Suite, int], Callable[[], Any]]


def rounds_of(suite: Suite, build: Build, count: int, what: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(_: Deadline) -> dict[str, Any]:
        call = build(suite, count)
        call()
        taken: list[float] = []
        while len(taken) < (TINY_ROUNDS if suite.tiny else ROUNDS):
            suite.device.synchronize()
            begin = time.perf_counter()
            call()
            suite.device.synchronize()
            taken.append((time.perf_counter() - begin) / count)
        return {"what": what, "timings": {"one": timing(taken)}, "microseconds": statistics.median(taken) * 1e6}

    return run


def minidl_launches(suite: Suite, count: int) -> Callable[[], Any]:
    gpu, x = gpu_of(suite.device.name), suite.device.xp.ones(4, suite.device.xp.float32)
    y = suite.device.xp.empty_like(x)

    def call() -> None:
        for _ in range(count):
            launch(gpu, "elementwise.cu", "relu_naive", (x, y, 4), dtype="float32", work=4)

    return call


def cupy_launches(suite: Suite, count: int) -> Callable[[], Any]:
    """CuPy alone, the least that a launch from Python costs."""
    if not isinstance(suite.device, Cuda):
        raise Missing("needs CuPy and a GPU")
    xp, kernel = suite.device.xp, suite.device.kernels.get_function("multiply_add")
    arguments = xp.empty(32, xp.float32), xp.float32(1), xp.int32(0)

    def call() -> None:
        for _ in range(count):
            kernel((1,), (32,), arguments)

    return call


def torch_launches(suite: Suite, count: int) -> Callable[[], Any]:
    torch = torch_or_missing()
    x = torch.ones(4, device=suite.device.torch)

    def call() -> None:
        with torch.inference_mode():
            for _ in range(count):
                torch.relu(x)

    return call


def minidl_graph_launches(suite: Suite, count: int) -> Callable[[], Any]:
    def chain_of_relus(x: minidl.Tensor) -> minidl.Tensor:
        with minidl.no_grad():
            for _ in range(count):
                x = minidl.nn.functional.relu(x)
        return x

    return minidl_graph(chain_of_relus, (minidl.ones(4, device=suite.device.name),))


def torch_graph_launches(suite: Suite, count: int) -> Callable[[], Any]:
    return torch_graph(torch_or_missing(), torch_launches(suite, count))


def torch_or_missing() -> Any:
    torch = find_torch()
    if torch is None:
        raise Missing("PyTorch is not installed")
    return torch


def ours(suite: Suite) -> tuple[Any, str]:
    return minidl, suite.device.name


def theirs(suite: Suite) -> tuple[Any, str]:
    return torch_or_missing(), suite.device.torch


def adds(library: Callable[[Suite], tuple[Any, str]], shape: tuple[int, ...], count: int) -> Build:
    def build(suite: Suite, _: int) -> Callable[[], Any]:
        module, device = library(suite)
        return chain(module, shape, lambda y, x: y + x, count, device=device)

    return build


def empty_span(suite: Suite) -> dict[str, Any]:
    """What two events with nothing between them measure: every time on the device contains it."""
    found = timing(suite.device.spans(lambda: None, flush=False))
    return {"what": "two events and nothing between", "timings": {"one": found}, "microseconds": found["median"] * 1e6}
