"""The parent of the workers: starts one for each contender, checks that they compute the same, and times them in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.bench import ROOT, Result, Timing, clean_environment, enough
from benchmarks.nets.contenders import EAGER, NUMPY, VECTOR
from benchmarks.nets.table import INFERENCE_TARGET, Net

FEW = 3  # rounds of a contender that is slow by design
# Rounding differs between the contenders, and a ReLU near zero turns that into another gradient; a missing bias, another
# padding or another mean changes these by far more.
LOGITS, LOSS, GRADIENT = 2e-3, 1e-3, 3e-2


class WorkerFailed(RuntimeError):
    """A contender that cannot take part; the message says why."""


class Worker:
    """A contender's process."""

    def __init__(self, name: str, net: Net, threads: int) -> None:
        environment = clean_environment(threads)
        if name == NUMPY:
            environment["MINIDL_KERNELS"] = "numpy"
        command = [sys.executable, "-m", "benchmarks.nets.worker", name, net.name, str(threads)]
        self.name = name
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, question: str, **options: Any) -> None:
        """Put a question without waiting for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ask": question, "with": options}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the last question.

        Raises:
            WorkerFailed: it raised an exception, or its process is gone.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerFailed(f"its process ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def asked(self, question: str, **options: Any) -> Any:
        self.ask(question, **options)
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def race(
    net: Net, threads: int, contenders: list[str], rounds: int, seconds: float, clock: str = "wall", only: str = ""
) -> Iterator[Result]:
    """The cases "NAME step" and "NAME batch 1" of a net whose names contain ``only``.

    Contenders that fail are named in the results; without ours there is none.
    """
    cases = {what: f"{net.name} {what}" for what in ("step", "batch 1")}
    if not any(only in case for case in cases.values()):
        return
    workers = {name: Worker(name, net, threads) for name in contenders}
    missing: dict[str, str] = {}
    try:
        facts = {}
        for worker in workers.values():              # building and compiling go on side by side
            worker.ask("facts")
        for name, worker in workers.items():
            try:
                facts[name] = worker.answer()
            except WorkerFailed as error:
                missing[name] = str(error)
        if VECTOR in missing:
            raise SystemExit(f"{net.name}: {VECTOR} failed: {missing[VECTOR]}")
        running = {name: worker for name, worker in workers.items() if name not in missing}
        for name in running:
            same(net, name, facts[VECTOR], facts[name])
        operations = workers[VECTOR].asked("operations")
        for what, case in cases.items():
            if only in case:
                target = net.target if what == "step" else INFERENCE_TARGET
                description = net.what if what == "step" else net.what.replace(f"batch {net.batch}", "batch 1, inference")
                taken = measure(running, what, rounds, seconds, clock)
                memory = {name: worker.asked("memory") for name, worker in running.items()} if what == "step" else {}
                yield result(case, description, threads, taken, target, operations[what], memory, missing)
    finally:
        for worker in workers.values():
            worker.close()


def measure(workers: dict[str, Worker], what: str, rounds: int, seconds: float, clock: str) -> dict[str, list[float]]:
    """Seconds of each contender, round by round."""
    for worker in workers.values():
        worker.asked("ready", what=what)
    taken: dict[str, list[float]] = {name: [] for name in workers}
    rival = next((name for name in EAGER if name in workers), VECTOR)
    ratios: list[float] = []
    start = time.perf_counter()
    while not enough(ratios, time.perf_counter() - start, rounds, seconds):
        names = [name for name in workers if name != NUMPY or len(ratios) < FEW]
        for name in names if len(ratios) % 2 == 0 else names[::-1]:
            taken[name].append(workers[name].asked("time", what=what)[clock])
        ratios.append(taken[VECTOR][-1] / taken[rival][-1])
    return taken


def result(
    case: str, what: str, threads: int, taken: dict[str, list[float]], target: float, gflop: float,
    memory: dict[str, dict[str, int]], missing: dict[str, str],
) -> Result:  # fmt: skip
    """The figures of a case; its ratio is to the better of PyTorch's eager forms."""
    timings = {name: Timing.of(seconds) for name, seconds in taken.items()}
    eager = [name for name in EAGER if name in taken]
    reference = min(eager, key=lambda name: timings[name].median) if eager else None
    ratio = None
    if reference:
        ratio = Timing.of([ours / theirs for ours, theirs in zip(taken[VECTOR], taken[reference], strict=True)])
    rounds = len(taken[VECTOR])
    return Result(case, what, threads, rounds, timings, ratio, target, reference, gflop, memory, missing)


def same(net: Net, name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """That two contenders computed the same logits, loss and gradients.

    Raises:
        ValueError: they did not; the message names the first difference.
    """
    largest = max(map(abs, ours["logits"]))
    pairs = [("logits", max(abs(a - b) for a, b in zip(ours["logits"], theirs["logits"], strict=True)), LOGITS * largest),
             ("loss", abs(ours["loss"] - theirs["loss"]), LOSS * abs(ours["loss"]))]
    if ours["gradients"].keys() != theirs["gradients"].keys():
        raise ValueError(f"{net.name}: {VECTOR} and {name} have different parameters")
    most = max(ours["gradients"].values())
    pairs += [(f"gradient of {key}", abs(norm - theirs["gradients"][key]), GRADIENT * norm + 1e-4 * most)
              for key, norm in ours["gradients"].items()]
    for what, difference, allowed in pairs:
        if not difference <= allowed:
            raise ValueError(f"{net.name}: {VECTOR} and {name} differ in the {what} by {difference:.3g}, allowed is "
                             f"{allowed:.3g}; timing them means nothing")
