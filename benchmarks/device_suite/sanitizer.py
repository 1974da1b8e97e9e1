"""compute-sanitizer over every kernel on small arrays: wild and misaligned accesses, races in shared memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task

TOOLS = ("memcheck", "racecheck")
REPORTED = 60  # lines of its report that are kept
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
_EXERCISED = re.compile(r"^exercised .*", re.MULTILINE)
EMULATED = 2.0  # seconds on the emulator, where there is no sanitizer to run
ENDING = 20.0  # seconds that the sanitizer gets to write its report


def tasks(suite: Suite) -> Iterator[Task]:
    for tool in TOOLS[:1] if suite.tiny else TOOLS:
        yield Task(tool, run_of(suite, tool), least=60.0)


def find() -> str | None:
    """compute-sanitizer on the path or in a toolkit."""
    toolkits = [os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME")] + ["/usr/local/cuda"]
    folders = [str(Path(toolkit) / part) for toolkit in toolkits if toolkit for part in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def run_of(suite: Suite, tool: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(deadline: Deadline) -> dict[str, Any]:
        # The second tool gets what the first one leaves.
        seconds = deadline.left() / (len(TOOLS) - TOOLS.index(tool))
        exercising = EMULATED if suite.device.name == "emu" else max(1.0, seconds - ENDING)
        exercise = [sys.executable, "-m", "benchmarks.device_suite.exercise", suite.device.name, str(exercising)]
        program = find()
        if suite.device.name == "emu":
            done = subprocess.run(exercise, cwd=ROOT, capture_output=True, text=True)
            raise Missing(f"compute-sanitizer needs a GPU; without it: {exercised(done.stdout) or done.stderr[-500:]}")
        if program is None:
            raise Missing("compute-sanitizer is not found on the path, in CUDA_PATH or in /usr/local/cuda")
        command = [program, "--tool", tool, "--print-limit", "20", *exercise]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            lines = (said if isinstance(said, str) else said.decode(errors="replace")).splitlines()
            raise RuntimeError(f"{tool} did not end in {seconds:.0f} s; its last lines: {' / '.join(lines[-5:])}") from None
        return report(done.stdout + done.stderr, done.returncode)

    return run


def exercised(said: str) -> str:
    found = _EXERCISED.search(said)
    return found[0] if found else ""


def report(said: str, status: int) -> dict[str, Any]:
    """What a sanitizer's report says.

    Raises:
        RuntimeError: it has no summary: the tool did not work.
    """
    found = _SUMMARY.search(said)
    lines = said.splitlines()
    if found is None:
        raise RuntimeError(f"it ended with status {status} and no summary: {' / '.join(lines[-8:])}"[:1500])
    notes = [line for line in lines if line.startswith("=========")][:REPORTED]
    raised = lines[next((i + 1 for i, line in enumerate(lines) if line.startswith("exercised")), len(lines)):]
    raised = [line for line in raised if line and not line.startswith("=========")]
    return {"errors": int(found[1]), "what": exercised(said), "raised": raised[:20], "report": notes if int(found[1]) else []}
