"""The CPU against the GPU, layer by layer of AlexNet at batch 64: the lectures' "50 times", measured.

minidl on both sides, the same weights and inputs, float32.  The clock is the host's, with the device waited for on both ends, so
the GPU's times contain what it costs to start its kernels.  First calls, which compile, are kept apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

import minidl
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, Unfinished, in_a_line, timing
from benchmarks.nets.contenders import VECTOR, Contender, build
from benchmarks.nets.table import NETS
from minidl import kernels
from minidl.inspect import table
from minidl.inspect.trace import Call, trace

GPU, NUMBA = "GPU", "Numba"
COMPILING = 30.0  # seconds that Numba may need for the first call of a layer
BATCH = 64
TINY_LAYERS = 3
ROUNDS, SECONDS = 11, 4.0  # of a contender in a case: the slow ones get fewer rounds
# Two float32 sums of up to 9,216 products in different orders, relative to the largest output.
ALLOWED = 1e-3


def tasks(suite: Suite) -> Iterator[Task]:
    net = next(net for net in NETS if net.name == ("lenet5" if suite.tiny else "alexnet"))
    net = dataclasses.replace(net, batch=2 if suite.tiny else BATCH)
    contender = build(VECTOR, net, 1)
    names = {row.path: row.name for row in table(contender.model.eval(), net.shape).rows}
    layers = 0
    for call in trace(contender.model, net.shape).calls:
        if not call.children and call.in_shape:
            shape = net.batch, *call.in_shape[1:]
            layers += 1
            if suite.tiny and layers > TINY_LAYERS:
                break
            for backward in (False, True):
                what = "forward and backward" if backward else "forward"
                name = f"{names.get(call.path, call.path)}, {what}"
                yield Task(name, layer_of(suite, call, shape, backward), 8.0)
    yield Task("whole step", lambda deadline: whole(suite, deadline, contender), 30.0)


def contenders(suite: Suite) -> Iterator[tuple[str, str, Callable[[], AbstractContextManager[None]]]]:
    """(name, device, the block in which it computes)."""
    yield GPU, suite.device.name, contextlib.nullcontext
    yield "vector", "cpu", contextlib.nullcontext
    yield "NumPy", "cpu", lambda: kernels.use("numpy")
    if importlib.util.find_spec("numba") and not suite.tiny:
        yield NUMBA, "cpu", lambda: kernels.use("numba")


def layer_of(suite: Suite, call: Call, shape: tuple[int, ...], backward: bool) -> Callable[[Deadline], dict[str, Any]]:
    def run(deadline: Deadline) -> dict[str, Any]:
        values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

        def prepare(device: str) -> Callable[[], Any]:
            module = call.module.to(device).train()
            x = minidl.tensor(values, device=device, requires_grad=backward)
            return lambda: once(module, x, backward)

        return compare(suite, deadline, prepare, f"{call.path}, {type(call.module).__name__}, {'x'.join(map(str, shape))}")

    return run


def once(module: Any, x: Any, backward: bool) -> Any:
    """The layer's output; with ``backward`` also all gradients of its sum, which are as much work as any."""
    if not backward:
        with minidl.no_grad():
            return module(x)
    x.grad = None
    for parameter in module.parameters():
        parameter.grad = None
    y = module(x)
    y.backward(minidl.ones_like(y))
    return y.detach()


def whole(suite: Suite, deadline: Deadline, contender: Contender) -> dict[str, Any]:
    """A training step of the whole net."""

    def prepare(device: str) -> Callable[[], Any]:
        found = build(VECTOR, contender.net, 1, device)
        found.mode("step")
        return lambda: found.step().detach()

    return compare(suite, deadline, prepare, f"{contender.net.model}, {contender.net.what}")


def compare(suite: Suite, deadline: Deadline, prepare: Callable[[str], Callable[[], Any]], what: str) -> dict[str, Any]:
    """The times of all contenders, and how many times the GPU's the others' are.

    Raises:
        Unfinished: there is no time for Numba to compile.
    """
    entry: dict[str, Any] = {"what": what, "threads": minidl.get_num_threads(), "timings": {}, "first": {}, "differences": {},
                             "missing": {}}  # fmt: skip
    expected = None
    for name, device, block in contenders(suite):
        if name == NUMBA and deadline.left() < COMPILING:
            raise Unfinished(entry)
        try:
            with block():
                call = prepare(device)
                minidl.manual_seed(0)  # for dropout, whose masks are the same on every device
                begin = time.perf_counter()
                result = call()
                suite.device.synchronize()
                entry["first"][name] = time.perf_counter() - begin
                value = np.asarray(result.numpy(), np.float64)
                expected = value if expected is None else expected
                entry["differences"][name] = difference = distance(value, expected)
                if not difference <= ALLOWED:
                    raise Missing(f"WRONG: it differs from the GPU by {difference:.3g} of the largest output")
                entry["timings"][name] = timing(rounds(suite, call))
        except Exception as error:
            entry["missing"][name] = str(error) if isinstance(error, Missing) else in_a_line(error)
            if not suite.device.alive():
                raise
    if GPU in entry["timings"]:
        gpu = entry["timings"][GPU]["median"]
        entry["ratios"] = {name: found["median"] / gpu for name, found in entry["timings"].items() if name != GPU}
    return entry


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.shape == b.shape else np.inf


def rounds(suite: Suite, call: Callable[[], Any]) -> list[float]:
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < 2 or (not suite.tiny and len(taken) < ROUNDS and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        call()
        suite.device.synchronize()
        taken.append(time.perf_counter() - start)
    return taken
