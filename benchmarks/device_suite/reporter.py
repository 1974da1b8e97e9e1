"""A pytest plugin that writes each test's outcome to a file at once, and leaves out the tests that are in it already.

A process that is stopped, or that a kernel breaks, loses nothing then; the next one goes on behind the test that ended it.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

ENVIRONMENT = "MINIDL_SUITE_TESTS"
FIRST_LINES = 12  # of what a failing test says
CRASHED = "crashed"
STOPPED = "the GPU's context is broken"
HANGS = 120  # seconds of one test
# What CUDA says once a context is beyond repair: every later test of the process would fail as well.
FATAL = ("IllegalAddress", "ILLEGAL_ADDRESS", "LAUNCH_FAILED", "LaunchFailure", "MISALIGNED_ADDRESS", "MisalignedAddress",
         "illegal memory access", "misaligned address", "unspecified launch failure", "illegal instruction")  # fmt: skip


def file() -> Path:
    return Path(os.environ[ENVIRONMENT])


def add(line: dict[str, Any]) -> None:
    with file().open("a", encoding="utf-8") as output:
        output.write(json.dumps(line) + "\n")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Test id -> its outcome; one that began and was not heard of again has crashed."""
    found: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the line that was being written
                continue
            found[entry["id"]] = entry
    return found


def interrupted(path: Path) -> None:
    """The process was out of time: the test that it was at is no crash, unless it took so long that it hangs."""
    known = read(path)
    kept = [e for e in known.values() if e["outcome"] != CRASHED or time.time() - e["began"] > HANGS or e.get("ended")]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


def settle(path: Path) -> None:
    """The process has ended by itself: the test that it was at has crashed, for good."""
    entries = [{**entry, "ended": True} for entry in read(path).values()]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    known = read(file())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
    items[:] = [item for item in items if item.nodeid not in known]


def pytest_runtest_logstart(nodeid: str) -> None:
    add({"id": nodeid, "outcome": CRASHED, "began": time.time()})


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        entry = {"id": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        if report.outcome == "failed":
            entry["lines"] = first_lines(str(report.longrepr))
        add(entry)


def pytest_runtest_makereport(item: Any, call: Any) -> None:
    if call.excinfo is not None:
        said = "".join(traceback.format_exception(call.excinfo.value))  # also of a group's members
        if any(word in said for word in FATAL):
            item.session.shouldstop = STOPPED


def first_lines(text: str) -> list[str]:
    """The error itself, where pytest marks it with an E, then where it was."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E ")]
    return [line[:200] for line in [*errors[: FIRST_LINES - 1], lines[-1]]] if lines else []
