"""Runs planted kernels, or the kernels' tests, with the emulator built under a sanitizer.

A sanitizer's library has to be in the process from its start, so this starts one: ``run(sanitizers, arguments)``.  As a program,
``python -m tests.cuda_emulator.sanitized address,undefined -m pytest tests/kernels --device emu`` does the same.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
ENVIRONMENT = "MINIDL_EMULATOR_SANITIZE"             # read by races.py


def library(sanitizers: str) -> str | None:
    """The library to preload; None if g++ has none."""
    name = next(LIBRARIES[s] for s in sanitizers.split(",") if s in LIBRARIES)
    if not shutil.which("g++"):
        return None
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    return path if os.path.isabs(path) else None


def run(sanitizers: str, arguments: list[str], **options) -> subprocess.CompletedProcess:
    """Python with ``arguments``, under the sanitizers."""
    preload = library(sanitizers)
    if preload is None:
        raise FileNotFoundError(f"g++ has no library for {sanitizers}")
    environment = {
        **os.environ,
        "LD_PRELOAD": preload, ENVIRONMENT: sanitizers, "PYTHONPATH": str(ROOT), "PYTHONMALLOC": "malloc",
        # Python itself leaks at exit, and has no debug information that a report could use.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0:history_size=4",
        "OPENBLAS_NUM_THREADS": "1",
        # A report ends the process, and with it what pytest holds back of the standard error.
        "PYTEST_ADDOPTS": "--capture=sys",
    }  # fmt: skip
    # GCC 12's TSan finds its shadow memory taken when addresses are randomised over many bits.
    plain = ["setarch", os.uname().machine, "-R"] if "thread" in sanitizers and shutil.which("setarch") else []
    return subprocess.run([*plain, sys.executable, *arguments], cwd=ROOT, env=environment, text=True, **options)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]).returncode)
