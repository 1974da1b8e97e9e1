"""Thousands of random launches leave the heap and the guard bands whole."""
import os
import subprocess
import sys

import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.contract import _SPECS
from minidl.kernels.cpu import launch, memory
from tests.kernels.cpu import launches
from tests.sources import ROOT

CHECKER = "libc_malloc_debug.so.0"                   # glibc's: it looks at a block's borders whenever it is freed
EVERY_BYTE = "165"                                   # what glibc fills fresh and freed memory with (its complement)


def on_a_checked_heap(count, seed):
    """Random launches in a process whose C library watches its heap; where it cannot, only the guard bands do."""
    environment = {**os.environ, "MALLOC_PERTURB_": EVERY_BYTE, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernels.cpu.launches", str(count), str(seed)]
    preload = {"LD_PRELOAD": CHECKER, "MALLOC_CHECK_": "3"}
    probe = subprocess.run([sys.executable, "-c", ""], env={**environment, **preload}, capture_output=True)
    if probe.returncode == 0 and not probe.stderr:
        environment |= preload
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_some_launches():
    """Every verb that has a vector kernel is among them."""
    seen, verbs = launches.launches(250, 0)
    assert seen.total() >= 250
    assert verbs == {spec.verb for spec in _SPECS if "vector" in variants(spec.verb)}


@pytest.mark.slow
def test_ten_thousand_launches():
    done = on_a_checked_heap(10_000, 1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("100")             # a family may end a few launches beyond


def test_a_kernel_that_writes_too_far_is_found(monkeypatch):
    """A step over the end of a result, planted into the launch itself."""
    right = launch.Launch.__call__

    def wrong(self, **arrays):
        right(self, **arrays)
        if "y" in arrays:
            beyond = np.lib.stride_tricks.as_strided(arrays["y"].reshape(-1)[-1:], (2,), (4,))
            beyond[1] = 1.0

    monkeypatch.setattr(launch.Launch, "__call__", wrong)
    with pytest.raises(AssertionError, match="seed 3, call 0, elementwise between_bands: .*outside its array"):
        launches.launches(50, 3, (launches.elementwise,))


def test_a_kernel_that_leaves_a_hole_is_found(monkeypatch):
    right = launch.Launch.__call__

    def wrong(self, **arrays):
        right(self, **arrays)
        if "y" in arrays:
            arrays["y"].reshape(-1)[-1] = memory.empty((1,))[0]

    monkeypatch.setattr(launch.Launch, "__call__", wrong)
    with pytest.raises(AssertionError, match="not finite"):
        launches.launches(50, 3, (launches.elementwise,))
