"""The kernels' own tests on this device, a process for each file, and what became of every test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT
from benchmarks.device_suite import reporter
from benchmarks.device_suite.work import Deadline, Suite, Task, Unfinished

FOLDER = "tests/kernels"
ELSEWHERE = ("test_numba.py", "test_registry.py")  # they know no device
TINY_FILES = ("test_elementwise.py",)
PROCESSES = 10  # for one file
LOG = "device-suite-tests.jsonl"
# Without the options of pyproject.toml, which ask for a plugin that may not be there.
PYTEST = ("-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-q",
          "-p", "benchmarks.device_suite.reporter")  # fmt: skip
NO_TESTS = 5  # pytest's exit status when everything was left out: the file is done


def tasks(suite: Suite) -> Iterator[Task]:
    for path in sorted((ROOT / FOLDER).glob("test_*.py")):
        if path.name in TINY_FILES or (not suite.tiny and path.name not in ELSEWHERE):
            yield Task(path.name, tests_of(suite, f"{FOLDER}/{path.name}"))


def tests_of(suite: Suite, file: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(deadline: Deadline) -> dict[str, Any]:
        log = suite.store.folder / LOG
        for _ in range(PROCESSES):
            known = len(reporter.read(log))
            status, said = pytest(suite, file, log, deadline.left())
            found = summary(file, reporter.read(log))
            if status is None:
                raise Unfinished(found)
            if status in (0, NO_TESTS) or (status == 1 and not broken(said)):
                return found
            if len(reporter.read(log)) == known:  # nothing was run: it cannot even be collected
                raise RuntimeError(f"{file}: pytest ended with status {status}: {said[-1500:]}")
        return {**found, "note": f"{PROCESSES} processes ended before the file did"}

    return run


def pytest(suite: Suite, file: str, log: Path, seconds: float) -> tuple[int | None, str]:
    """pytest's exit status and what it said; None: it was out of time."""
    command = [sys.executable, *PYTEST, "--device", suite.device.name, "-k", "not torch", file]
    environment = {**os.environ, reporter.ENVIRONMENT: str(log)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        reporter.interrupted(log)
        return None, ""
    reporter.settle(log)
    return done.returncode, done.stdout + done.stderr


def broken(said: str) -> bool:
    """Whether pytest stopped before the end of the file."""
    return reporter.STOPPED in said


def summary(file: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many tests of a file passed, failed, were skipped or crashed, and what the bad ones said."""
    mine = [entry for entry in known.values() if entry["id"].startswith(f"{file}::")]
    counts = Counter(entry["outcome"] for entry in mine)
    bad = [{"id": entry["id"], "outcome": entry["outcome"], "lines": entry.get("lines", [])}
           for entry in mine if entry["outcome"] in ("failed", reporter.CRASHED)]  # fmt: skip
    names = ("passed", "failed", "skipped", reporter.CRASHED)
    return {**{name: counts[name] for name in names}, "bad": bad, "seconds": round(sum(e.get("seconds", 0) for e in mine), 1)}
