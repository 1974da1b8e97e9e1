"""A part's cases, one after the other, until they are done or the time is up."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.bench import Timing
from benchmarks.device_suite.devices import Device
from benchmarks.device_suite.store import Store

# name: (module of this package, its share of the time)
PARTS: dict[str, tuple[str, float]] = {
    "environment": ("environment", 2),
    "compile": ("compilation", 1),
    "tests": ("testing", 6),
    "sanitizer": ("sanitizer", 3),
    "kernels": ("kernels", 5),
    "layers": ("layers", 3),
    "steps": ("steps", 10),
    "speedup": ("speedup", 2),
    "overhead": ("overhead", 1),
}

# How a part's process ends.
DONE, OUT_OF_TIME, BROKEN = 0, 3, 4


class Missing(Exception):
    """What a case needs is not on this machine; the message says what."""


class Unfinished(Exception):
    """A case ran out of time; ``entry`` is what it has, and the next call goes on."""

    def __init__(self, entry: dict[str, Any]) -> None:
        super().__init__("out of time")
        self.entry = entry


class Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, clock() + seconds

    def left(self) -> float:
        return self._end - self._clock()


@dataclass(frozen=True)
class Suite:
    """What all cases share.

    Args:
        tiny: sizes that an emulator can run.
        only: cases whose names contain this text.
    """

    device: Device
    store: Store
    tiny: bool
    only: str = ""


class Task(NamedTuple):
    """A case: ``run(deadline)`` returns its result; it begins only if ``least`` seconds are left."""

    case: str
    run: Callable[[Deadline], dict[str, Any]]
    least: float = 2.0


def tasks(part: str, suite: Suite) -> Iterator[Task]:
    """The cases of a part."""
    found: Iterator[Task] = importlib.import_module(f"benchmarks.device_suite.{PARTS[part][0]}").tasks(suite)
    return (task for task in found if suite.only in task.case)


def work(part: str, suite: Suite, deadline: Deadline) -> int:
    """Do what is missing of a part; returns DONE, OUT_OF_TIME or BROKEN (the process must end, the case is recorded)."""
    for task in tasks(part, suite):
        if not suite.store.wants(part, task.case):
            continue
        if deadline.left() < (0.0 if suite.tiny else task.least):
            return OUT_OF_TIME
        suite.store.begin(part, task.case)
        status, entry = attempt(task, deadline)
        suite.store.put(part, task.case, status, entry)
        print(f"{part} {task.case}: {status}{say(entry)}", flush=True)
        suite.device.tidy()
        if status == "failed" and not suite.device.alive():
            return BROKEN
    return DONE


def attempt(task: Task, deadline: Deadline) -> tuple[str, dict[str, Any]]:
    """A case's status and result; whatever it raises is one."""
    begin = time.perf_counter()
    try:
        entry = task.run(deadline)
    except Missing as error:
        return "missing", {"why": str(error)}
    except Unfinished as error:
        return "unfinished", {**error.entry, "why": "out of time"}
    except Exception as error:
        return "failed", {"why": in_a_line(error), "traceback": traceback.format_exc()[-4000:]}
    return "measured", {**entry, "took": round(time.perf_counter() - begin, 2)}


def in_a_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:300]


def say(entry: dict[str, Any]) -> str:
    """An entry in a few words, for the one who waits."""
    if "why" in entry:
        return f": {entry['why']}"
    parts = [f"{name} {timing['median'] * 1e3:.4g} ms" for name, timing in entry.get("timings", {}).items()]
    if "rate" in entry:
        parts.append(f"{entry['rate']:.4g} {entry['unit']}")
    return f": {', '.join(parts)}" if parts else ""


def timing(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and best, and how many there were."""
    found = Timing.of(seconds)
    return {"median": found.median, "low": found.low, "high": found.high, "best": found.best, "count": len(seconds)}
