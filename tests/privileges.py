"""Processes that may not read or write what the permissions of files forbid: root may, unless it gives that up."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

_DROP_FROM_BOUNDING_SET = 24  # PR_CAPBSET_DROP: what is dropped is gone after the next exec
_OVERRIDES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def obey_permissions() -> None:
    """For ``preexec_fn``: the program that starts obeys the permissions of files, even when root starts it."""
    if os.geteuid() == 0 and sys.platform == "linux":
        for capability in _OVERRIDES:
            ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


@functools.cache
def permissions_are_obeyed() -> bool:
    """Whether :func:`obey_permissions` works here."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        result = _run([sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", f"{folder}/file"])
        Path(folder).chmod(0o755)
        return result.returncode != 0


def run_obeying(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, without root's right to pass over permissions; skips the test if that cannot be."""
    if not permissions_are_obeyed():
        pytest.skip("root may read and write everything here")
    return _run([sys.executable, "-B", *arguments], cwd)


def _run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    start: Callable[[], None] = obey_permissions
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=start, cwd=cwd, timeout=60)
