"""The kernels' own tests on this device, a process for each file, and what became of every test."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT
from benchmarks.device_suite import reporter
from benchmarks.device_suite.work import Deadline, Suite, Task, Unfinished

FOLDER = "tests/kernels"
ELSEWHERE = ("test_numba.py", "test_registry.py")  # they know no device
TINY_FILES = ("test_elementwise.py",)
PROCESSES = 10  # for one file
AT_A_TIME = 6  # files
# Without the options of pyproject.toml, which ask for a plugin that may not be there.
PYTEST = ("-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-q",
          "-p", "benchmarks.device_suite.reporter")  # fmt: skip
NO_TESTS = 5  # pytest's exit status when everything was left out: the file is done


def tasks(suite: Suite) -> Iterator[Task]:
    files = Files(suite)
    for name in files.names:
        yield Task(name, functools.partial(files.run, name))


class Files:
    """The files that are still to be done, some at a time: most of their time is the host's, which compiles and compares."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        found = [path.name for path in sorted((ROOT / FOLDER).glob("test_*.py")) if path.name not in ELSEWHERE]
        self.names = [name for name in found if suite.only in name and (name in TINY_FILES or not suite.tiny)]
        self._pool = ThreadPoolExecutor(max(1, min(AT_A_TIME, (os.cpu_count() or 1) // 2)))
        self._running: dict[str, Future[dict[str, Any]]] = {}

    def run(self, name: str, deadline: Deadline) -> dict[str, Any]:
        """A file's result; with the first one that is asked for, all that are missing begin."""
        if not self._running:
            wanted = [name for name in self.names if self.suite.store.wants("tests", name)]
            self._running = {name: self._pool.submit(tests_of(self.suite, f"{FOLDER}/{name}"), deadline) for name in wanted}
        return self._running[name].result()


def tests_of(suite: Suite, file: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(deadline: Deadline) -> dict[str, Any]:
        log = suite.store.folder / f"{Path(file).stem}.jsonl"  # until the file is done
        for _ in range(PROCESSES):
            known = len(reporter.read(log))
            status, said = pytest(suite, file, log, deadline.left())
            found = summary(reporter.read(log))
            if status is None:
                raise Unfinished(found)
            if status in (0, NO_TESTS) or (status == 1 and not broken(said)):
                break
            if len(reporter.read(log)) == known:  # nothing was run: it cannot even be collected
                raise RuntimeError(f"{file}: pytest ended with status {status}: {said[-1500:]}")
        else:
            found["note"] = f"{PROCESSES} processes ended before the file did"
        log.unlink(missing_ok=True)
        return found

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


def summary(known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many tests passed, failed, were skipped or crashed, and what the bad ones said."""
    mine = known.values()
    counts = Counter(entry["outcome"] for entry in mine)
    bad = [{"id": entry["id"], "outcome": entry["outcome"], "lines": entry.get("lines", [])}
           for entry in mine if entry["outcome"] in ("failed", reporter.CRASHED)]  # fmt: skip
    names = ("passed", "failed", "skipped", reporter.CRASHED)
    return {**{name: counts[name] for name in names}, "bad": bad, "seconds": round(sum(e.get("seconds", 0) for e in mine), 1)}
