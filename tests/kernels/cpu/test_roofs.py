"""The roofs: kernels that do what their name says, and numbers of a machine."""
import re

import numpy as np
import pytest

from minidl.kernels.cpu import engine, roofs, threads
from minidl.kernels.cpu.tiles import accumulators


def test_the_copy_copies():
    x, y = np.random.default_rng(0).random((3, roofs._PIECE), dtype=np.float32), np.zeros((3, roofs._PIECE), np.float32)
    roofs.copy_roof()(x=x, y=y, pieces=3)
    assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_the_multiply_adds_are_computed(turns):
    isa = engine.host_isa()
    out = np.ones((2, accumulators(isa), isa.width), np.float32)
    roofs.fma_roof()(source=np.array([2], np.float32), out=out, tasks=2, turns=turns)
    assert (out == 3.0**turns).all()


def test_the_loop_is_nothing_but_multiply_adds():
    """Every sum stays in a register: inside the loop no vector is loaded or stored."""
    isa = engine.host_isa()
    (loop,) = re.findall(r"^carry\d+:\n(.*?)^  br ", roofs.fma_roof().kernel.text(), re.MULTILINE | re.DOTALL)
    assert loop.count("llvm.fmuladd") == accumulators(isa) and "load" not in loop and "store" not in loop


def test_roofs_are_measured_on_the_threads_asked_for(monkeypatch):
    monkeypatch.setattr(roofs, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(roofs, "ROUNDS", 3)
    before, seen, run = threads.get_num_threads(), set(), threads.run
    monkeypatch.setattr(threads, "run", lambda *arguments: (seen.add(threads.get_num_threads()), run(*arguments)))
    one, moved = roofs.fma_peak(1), roofs.copy_bandwidth(1)
    assert seen == {1} and threads.get_num_threads() == before
    # Any processor since 2013 does more than 1 GFLOP/s and 0.1 GB/s even if it is shared; none does 1 TFLOP/s on one core.
    assert 1 < one < 1000 and 0.1 < moved < 1000
