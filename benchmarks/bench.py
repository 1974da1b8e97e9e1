"""The harness: contenders timed in turn, A B A B ..., and summed up by medians.

Two programs timed one after the other mostly compare the machine's two moods. So each round times every contender once,
in an order that alternates, and the ratio is the median over the rounds of the ratio within a round: a slow second hits
both sides of it. Absolute times are printed with their quartiles, for what they are worth on a shared machine.

A module of cases defines ``cases() -> list[Case]``. Contenders must compute the same thing, and that is checked: every one
returns its result, and the results are compared before anything is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Variables that change the speed of a contender behind the benchmark's back. OpenBLAS halves its speed on a new processor
# that is told to pretend to be an older one.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "MINIDL_NUM_THREADS")

SAMPLE_SECONDS = 0.02  # a sample repeats its contender until it lasts about this long
# PyTorch's OpenMP threads spin for a while after a call, and would take a core from whoever is timed next.
SETTLE = 0.02
LEAST_ROUNDS = 5  # before a case may end
SURE_ROUNDS, SURE = 11, 0.02  # a case ends early when its ratios' quartiles lie this close together
Contender = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: ``contenders()`` builds the callables by name, the first of them ours."""

    name: str
    what: str
    contenders: Callable[[bool], dict[str, Contender]]  # the argument: whether PyTorch takes part
    target: float | None = None  # the ratio to PyTorch that we promise to stay under
    rtol: float = 1e-4  # float32 sums taken in another order
    gflop: float | None = None  # operations of one call, in billions


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds for one call: the median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    best: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        return cls(median, low, high, min(seconds))


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out of a case.

    Args:
        ratio: the first contender's time over ``reference``'s, round by round.
        gflop: operations of one call, in billions.
        memory: bytes of each contender's process: after its imports, and at its peak.
        missing: contenders that did not take part, and why.
    """

    case: str
    what: str
    threads: int
    rounds: int
    timings: dict[str, Timing]
    ratio: Timing | None
    target: float | None
    reference: str | None = None
    gflop: float | None = None
    memory: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        timings = {name: Timing(**timing) for name, timing in data["timings"].items()}
        ratio = Timing(**data["ratio"]) if data["ratio"] else None
        return cls(**{**data, "timings": timings, "ratio": ratio})


def enough(ratios: list[float], spent: float, most: int, seconds: float) -> bool:
    """Whether a case has had its rounds: ``most`` of them, or its ``seconds``, or as many as make its ratio sure."""
    if len(ratios) >= most:
        return True
    if len(ratios) < LEAST_ROUNDS:
        return False
    if spent >= seconds:
        return True
    timing = Timing.of(ratios)
    return len(ratios) >= SURE_ROUNDS and timing.high - timing.low <= SURE * timing.median


def measure(
    case: Case, contenders: dict[str, Contender], rounds: int, threads: int, seconds_for_it: float = math.inf
) -> Result:
    """Times the contenders in turn. The collector stays on, as in a training run, but starts every sample clean."""
    same_results(case, contenders)
    repeats = {name: calls_per_sample(call) for name, call in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    reference = names[1] if len(names) > 1 else None
    ratios: list[float] = []
    start = time.perf_counter()
    while not enough(ratios, time.perf_counter() - start, rounds, seconds_for_it):
        for name in names if len(ratios) % 2 == 0 else names[::-1]:
            seconds[name].append(sample(contenders[name], repeats[name]))
        ratios.append(seconds[names[0]][-1] / seconds[reference][-1] if reference else 1.0)
    timings = {name: Timing.of(taken) for name, taken in seconds.items()}
    return Result(
        case.name, case.what, threads, len(ratios), timings, Timing.of(ratios) if reference else None, case.target,
        reference, case.gflop,
    )  # fmt: skip


def sample(call: Contender, repeats: int) -> float:
    time.sleep(SETTLE)
    gc.collect()
    call()  # wakes this contender's threads
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def calls_per_sample(call: Contender) -> int:
    once = min(sample(call, 1) for _ in range(3))
    return max(1, round(SAMPLE_SECONDS / max(once, 1e-7)))


def same_results(case: Case, contenders: dict[str, Contender]) -> None:
    import numpy as np

    results = {name: np.asarray(call()) for name, call in contenders.items()}
    ours, *others = results
    for name in others:
        if not np.allclose(results[ours], results[name], rtol=case.rtol, atol=case.rtol):
            raise ValueError(f"{case.name}: {ours} and {name} do not compute the same thing; timing them means nothing")


def clean_environment(threads: int) -> dict[str, str]:
    """This process's environment for a worker: every library gets the same number of threads, nothing is slowed down."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**kept, **{name: str(threads) for name in THREADS}}


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, load, versions, and the variables that were taken out of the way."""
    import numpy as np

    import minidl

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "minidl": minidl.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["torch"] = importlib.metadata.version("torch")  # not imported: that takes seconds, and threads
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "blas": f"{blas['name']} {blas['version']}",
        "versions": versions,
        "commit": commit(),
        "unset": [name for name in UNSET if name in os.environ],
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that is measured, with '+' if the checkout has changes on top."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + ("+" if changes.stdout.strip() else "")
