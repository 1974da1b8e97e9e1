"""Whole training steps and single images, beside PyTorch's ways to run them.

All contenders of a case have the same weights and the same batch.  Each one's first loss and gradients are compared with ours
before anything is timed, and whoever computes something else is named, not timed.  Then they take turns, A B C C B A ...; a
sample is many steps between two moments at which the GPU has nothing left to do, so the time is what a user waits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.bench import Timing, enough
from benchmarks.device_suite import features
from benchmarks.device_suite.devices import find_torch
from benchmarks.device_suite.features import BFLOAT16, FLOAT32, PRECISIONS, TF32
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, in_a_line, timing
from benchmarks.nets.contenders import CHANNELS_LAST, COMPILED, NCHW, VECTOR, Contender, build
from benchmarks.nets.table import NETS, Net

OURS, OURS_GRAPH = VECTOR, f"{VECTOR} graph"
TORCH_GRAPH, COMPILED_GRAPH = "torch graph", "torch compiled graph"  # both channels_last
PLAIN = (OURS, OURS_GRAPH, NCHW, CHANNELS_LAST, TORCH_GRAPH)
COMPILERS = (OURS, OURS_GRAPH, CHANNELS_LAST, COMPILED, COMPILED_GRAPH)

# (net, images in a step): batches that fill a large GPU, and the two of the papers' CIFAR nets.
CASES = (("resnet20", 128), ("lenet5", 128), ("alexnet", 128), ("resnet18", 128), ("resnet20", 512), ("resnet50", 64))
TINY_CASES = (("lenet5", 2),)
STEP, IMAGE = "step", "batch 1"
COMPILING = 60.0  # seconds that must be left to begin a case with torch.compile
SAMPLE_SECONDS, ROUNDS, CASE_SECONDS = 0.05, 31, 8.0

# (loss, norm of all gradients), relative.  float32: sums in another order, through fifty layers.  TF32 keeps 11 bits of each
# factor and bfloat16 8 (4e-3): their errors are of both signs and mostly cancel in a mean loss, less so in a gradient.
CLOSE = {FLOAT32: (1e-3, 1e-2), TF32: (1e-2, 5e-2), BFLOAT16: (3e-2, 2e-1)}


def tasks(suite: Suite) -> Iterator[Task]:
    nets, precisions = (TINY_CASES, (FLOAT32,)) if suite.tiny else (CASES, PRECISIONS)
    cases = [(name, batch, precision) for precision in precisions for name, batch in nets]
    for name, batch, precision in cases:
        yield Task(f"{name} {batch} {precision} step", case_of(suite, name, batch, precision, STEP, PLAIN), 15.0)
    for name, precision in dict.fromkeys((name, precision) for name, _, precision in cases):
        yield Task(f"{name} {precision} {IMAGE}", case_of(suite, name, 1, precision, IMAGE, PLAIN), 10.0)
    for name, batch, precision in cases:
        run = case_of(suite, name, batch, precision, STEP, COMPILERS)
        yield Task(f"{name} {batch} {precision} step, compiled", run, COMPILING)


def case_of(
    suite: Suite, name: str, batch: int, precision: str, what: str, contenders: tuple[str, ...]
) -> Callable[[Deadline], dict[str, Any]]:
    net = dataclasses.replace(next(net for net in NETS if net.name == name), batch=batch)
    return lambda deadline: race(suite, net, precision, what, contenders, deadline)


class Runner:
    """A contender on the device, in one precision.

    Args:
        name: as in ``PLAIN`` and ``COMPILERS``.
        what: ``STEP`` or ``IMAGE``.

    Raises:
        Missing: it cannot take part; the message says why.
    """

    def __init__(self, suite: Suite, net: Net, name: str, precision: str, what: str) -> None:
        self.ours = name in (OURS, OURS_GRAPH)
        torch: Any = None if self.ours else find_torch()
        if not self.ours and torch is None:
            raise Missing("PyTorch is not installed")
        kind = VECTOR if self.ours else NCHW if name == NCHW else CHANNELS_LAST
        place = suite.device.name if self.ours else suite.device.torch
        self.contender: Contender = build(kind, net, 1 if suite.tiny else torch_threads(torch), place)
        if name in (COMPILED, COMPILED_GRAPH):
            torch.compiler.reset()  # or else the ninth net with the same code would quietly run uncompiled
            backend = "eager" if suite.tiny else "inductor"
            self.contender.run = torch.compile(self.contender.model, backend=backend, dynamic=False)
        self.precision: Callable[[], Any] = (
            functools.partial(features.minidl_precision, precision)
            if self.ours
            else functools.partial(features.torch_precision, torch, place, precision)
        )
        self.what, self.graph = what, name in (OURS_GRAPH, TORCH_GRAPH, COMPILED_GRAPH)
        self.inputs = (self.contender.images, self.contender.labels) if what == STEP else (self.contender.image,)
        self.capture: Callable[[], Callable[[], Any]] = (
            (lambda: features.minidl_graph(self.compute, self.inputs))
            if self.ours
            else (lambda: features.torch_graph(torch, self.once))
        )
        with self.precision():  # whether there is such a thing
            pass

    def compute(self, images: Any, *labels: Any) -> Any:
        """A step, which gives its loss, or one image, which gives its logits."""
        contender = self.contender
        if self.what != STEP:
            with contender.quiet(), self.precision():
                return contender.run(images)
        contender.optimizer.zero_grad()
        with self.precision():
            loss = contender.loss(contender.run(images), *labels)
        loss.backward()
        contender.optimizer.step()
        return loss

    def once(self) -> Any:
        return self.compute(*self.inputs)

    def facts(self) -> tuple[float, float]:
        """What all contenders must agree on: (loss, norm of all gradients) without dropout, or the logits' (sum, norm)."""
        contender = self.contender
        contender.mode(self.what)
        if self.what != STEP:
            logits = self.once()
            return float(abs(logits).sum().item()), math.sqrt(float((logits * logits).sum().item()))
        for module in contender.dropouts:
            module.p = 0.0
        loss = float(self.once().item())
        squares = [float((p.grad * p.grad).sum().item()) for p in contender.model.parameters()]
        for module, p in zip(contender.dropouts, contender.chances, strict=True):
            module.p = p
        return loss, math.sqrt(sum(squares))

    def ready(self, loss: float, allowed: float) -> Callable[[], Any]:
        """What is timed: the call itself, or a replay of the graph that it was captured in, which must compute the same.

        Raises:
            Missing: the graph cannot be made, or its first replay gives another loss (sum of logits).
        """
        if not self.graph:
            return self.once
        replay = self.capture()
        again = float(abs(replay()).sum().item())
        random = self.what == STEP and self.contender.dropouts
        if not random and not abs(again - loss) <= allowed * max(abs(loss), 1e-3):
            raise Missing(f"WRONG: the graph's replay gives {again:.6g}, the call itself {loss:.6g}")
        return replay


def torch_threads(torch: Any) -> int:
    return torch.get_num_threads() if torch is not None else 1


def race(
    suite: Suite, net: Net, precision: str, what: str, contenders: tuple[str, ...], deadline: Deadline
) -> dict[str, Any]:
    """The times of a case, as an entry."""
    facts: dict[str, tuple[float, float]] = {}
    missing: dict[str, str] = {}
    calls: dict[str, Callable[[], Any]] = {}
    operations = 0.0
    for name in contenders:
        try:
            runner = Runner(suite, net, name, precision, what)
            facts[name] = runner.facts()
            if runner.ours and not operations:
                operations = runner.contender.operations()[what != STEP]  # type: ignore[attr-defined]
            differs(facts, name, CLOSE[precision])
            calls[name] = runner.ready(facts[name][0], CLOSE[precision][0])
            calls[name]()
            suite.device.synchronize()
        except Exception as error:
            calls.pop(name, None)
            missing[name] = str(error) if isinstance(error, Missing) else in_a_line(error)
            if not suite.device.alive():
                raise
    if not calls:
        raise Missing("; ".join(f"{name}: {why}" for name, why in missing.items()))
    seconds = min(CASE_SECONDS, max(1.0, deadline.left() - 2.0))
    taken = measure(suite, calls, 2 if suite.tiny else ROUNDS, seconds)
    return entry(net, precision, what, facts, taken, missing, operations)


def differs(facts: dict[str, tuple[float, float]], name: str, close: tuple[float, float]) -> None:
    """That a contender computes what the first one does.

    Raises:
        Missing: it does not; the message has both numbers.
    """
    first = next(iter(facts))
    for what, ours, theirs, allowed in zip(("loss", "gradients' norm"), facts[first], facts[name], close, strict=True):
        if not abs(ours - theirs) <= allowed * max(abs(ours), 1e-3):
            raise Missing(f"WRONG: the {what} is {theirs:.6g}, {first} has {ours:.6g}")


def measure(suite: Suite, calls: dict[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one call of each contender, round by round."""
    repeats = {name: max(1, round(SAMPLE_SECONDS / sample(suite, call, 2))) for name, call in calls.items()}
    if suite.tiny:
        repeats = dict.fromkeys(calls, 1)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    ratios: list[float] = []
    begin = time.perf_counter()
    while not ratios or not (len(ratios) >= rounds or enough(ratios, time.perf_counter() - begin, rounds, seconds)):
        for name in names if len(ratios) % 2 == 0 else names[::-1]:
            taken[name].append(sample(suite, calls[name], repeats[name]))
        ratios.append(taken[names[0]][-1] / taken[names[-1]][-1])
    return taken


def sample(suite: Suite, call: Callable[[], Any], repeats: int) -> float:
    """Seconds of one call, of ``repeats`` that are queued behind each other."""
    suite.device.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    suite.device.synchronize()
    return (time.perf_counter() - begin) / repeats


def entry(
    net: Net, precision: str, what: str, facts: dict[str, tuple[float, float]], taken: dict[str, list[float]],
    missing: dict[str, str], operations: float,
) -> dict[str, Any]:  # fmt: skip
    """The figures of a case; its ratio is of our best form to the best of PyTorch's, round by round."""
    timings = {name: timing(seconds) for name, seconds in taken.items()}
    best = {side: min((n for n in taken if n.startswith(VECTOR) == side), key=lambda n: timings[n]["median"], default=None)
            for side in (True, False)}  # fmt: skip
    ours, theirs = best[True], best[False]
    ratio = None
    if ours and theirs:
        ratio = dataclasses.asdict(Timing.of([a / b for a, b in zip(taken[ours], taken[theirs], strict=True)]))
    images = net.batch if what == STEP else 1
    return {
        "what": f"{net.model}, {images} x {'x'.join(map(str, net.shape))}, {precision}", "images": images,
        "rounds": len(next(iter(taken.values()))), "gflop": operations, "timings": timings, "ratio": ratio, "contender": ours,
        "reference": theirs, "missing": missing,
        "agreed": {name: {"loss" if what == STEP else "sum": a, "norm": b} for name, (a, b) in facts.items()},
    }  # fmt: skip
