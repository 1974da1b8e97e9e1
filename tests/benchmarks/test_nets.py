"""Whole nets against each other: workers answer, contenders that differ are not timed, figures are summed up right."""

import copy
import dataclasses

import numpy as np
import pytest

from benchmarks.__main__ import line, memory_ratio
from benchmarks.bench import LEAST_ROUNDS, SURE_ROUNDS, Result, Timing, enough
from benchmarks.nets import race as racing
from benchmarks.nets.contenders import CHANNELS_LAST, COMPILED, NCHW, VECTOR, numbers
from benchmarks.nets.memory import forget_peak, peak, resident
from benchmarks.nets.race import Worker, WorkerFailed, race, result, same
from benchmarks.nets.table import NETS

LENET = NETS[0]
MEGABYTE = 1 << 20


def test_every_target_has_its_net():
    """The nets of the promise, with its ratios."""
    promised = {"lenet5": 0.60, "mlp3": 0.60, "resnet20": 0.48, "vit": 0.80, "alexnet": 0.50, "resnet18": 0.55, "vgg11": 0.55,
                "resnet50": 0.75}
    assert {net.name: net.target for net in NETS} == promised


def test_a_race_of_one():
    steps, images = race(LENET, 1, [VECTOR], rounds=2, seconds=0)
    assert (steps.case, images.case) == ("lenet5 step", "lenet5 batch 1") and steps.rounds == 2 and steps.ratio is None
    # 5x5 convolutions of 28x28 (in a frame of 32x32) and 10x10 outputs, and three linear layers.
    macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert images.gflop == pytest.approx(2e-9 * macs)
    assert steps.gflop == pytest.approx(2e-9 * 128 * (3 * macs - 28 * 28 * 6 * 25))
    memory = steps.memory[VECTOR]
    assert 0 < memory["imported"] < memory["peak"] and memory["resident"] <= memory["peak"]
    assert steps.timings[VECTOR].median > images.timings[VECTOR].median > 0


def test_a_contender_that_fails_is_missing_not_fatal():
    assert not list(race(LENET, 1, ["nobody"], rounds=2, seconds=0, only="vgg"))
    worker = Worker(VECTOR, dataclasses.replace(LENET, name="no such net"), 1)
    try:
        with pytest.raises(WorkerFailed, match="StopIteration"):
            worker.asked("facts")
        worker.process.kill()
        with pytest.raises(WorkerFailed, match="ended with status"):
            worker.answer()
    finally:
        worker.close()


def test_the_better_of_eager_pytorch_is_the_rival():
    taken = {VECTOR: [1.0, 1.2, 1.1], NCHW: [4.0, 4.0, 4.0], CHANNELS_LAST: [2.0, 2.0, 2.2], COMPILED: [0.5, 0.5, 0.5]}
    found = result("n step", "", 1, taken, 0.55, 3.3, {}, {})
    assert found.reference == CHANNELS_LAST and found.ratio is not None and found.ratio.median == pytest.approx(0.5)
    assert "3.0 GFLOP/s = 6% of peak" in line(found, 50.0) and "MISSED" not in line(found)
    assert Result.from_json(found.to_json()) == found


def test_memory_is_compared_with_the_smaller_rival():
    timing = Timing(1.0, 1.0, 1.0, 1.0)
    sizes = {name: {"imported": 0, "resident": 0, "peak": size * MEGABYTE} for name, size in
             ((VECTOR, 90), (NCHW, 200), (CHANNELS_LAST, 100))}
    found = Result("n step", "", 1, 1, {VECTOR: timing}, None, 0.5, memory=sizes, missing={COMPILED: "no compiler"})
    assert memory_ratio(found) == pytest.approx(0.9)
    assert "peak 94 MB, ratio 0.90  target 0.8 MISSED" in line(found) and "torch compiled: missing, no compiler" in line(found)


FACTS = {"logits": [1.0, -20.0, 3.0], "loss": 2.0, "gradients": {"a.weight": 1.0, "b.bias": 1e-6}}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [("logits", [1.0, -20.0, 3.1], "logits by 0.1"), ("loss", 2.01, "loss"), ("loss", float("nan"), "loss"),
     ("gradients", {"a.weight": 1.1, "b.bias": 0.0}, "gradient of a.weight"), ("gradients", {"a.weight": 1.0}, "parameters")],
)
def test_contenders_that_differ_are_not_timed(path, value, said):
    other = copy.deepcopy(FACTS)
    same(LENET, NCHW, FACTS, other)                  # the tiny gradient is rounding; it may be anything as small
    other[path] = value
    with pytest.raises(ValueError, match=said):
        same(LENET, NCHW, FACTS, other)


def test_a_case_ends_when_it_is_sure_or_out_of_time():
    steady, noisy = [0.5] * SURE_ROUNDS, [0.4, 0.6] * SURE_ROUNDS
    assert enough(steady, 0.0, 99, 9.0) and not enough(steady[:-1], 0.0, 99, 9.0)
    assert not enough(noisy, 8.9, 99, 9.0) and enough(noisy, 9.1, 99, 9.0) and enough(noisy, 0.0, len(noisy), 9.0)
    assert not enough(steady[: LEAST_ROUNDS - 1], 99.0, 99, 9.0)


def test_rounds_alternate_and_slow_ones_stop_early(monkeypatch):
    order = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def asked(self, question, what):
            if question == "time":
                order.append(self.name)
            return {"wall": 1.0, "cpu": 1.0}

    monkeypatch.setattr(racing, "NUMPY", "slow")
    workers = {name: Fake(name) for name in (VECTOR, NCHW, "slow")}
    taken = racing.measure(workers, "step", 5, 99.0, "wall")
    assert [len(seconds) for seconds in taken.values()] == [5, 5, racing.FEW]
    assert order[:6] == [VECTOR, NCHW, "slow", "slow", NCHW, VECTOR] and order[-2:] == [VECTOR, NCHW]


def test_a_peak_can_be_forgotten():
    if not resident():
        pytest.skip("this system does not tell a process's memory")
    block = np.ones(64 * MEGABYTE, np.uint8)
    with_block = peak()
    assert with_block >= 64 * MEGABYTE
    del block
    forget_peak()
    assert peak() < with_block - 32 * MEGABYTE
    assert peak() >= resident() - MEGABYTE


def test_numbers_depend_on_the_name_alone():
    assert np.array_equal(numbers("a.weight", (4, 3)), numbers("a.weight", (4, 3)))
    assert not np.array_equal(numbers("a.weight", (4, 3)), numbers("b.weight", (4, 3)))
    assert numbers("bn.weight", (2,)).tolist() == [1, 1] and numbers("bn.bias", (2,)).tolist() == [0, 0]
    assert numbers("bn.running_var", (2,)).tolist() == [1, 1] and numbers("bn.num_batches_tracked", ()) == 0


@pytest.mark.parity
def test_the_same_net_in_pytorch():
    pytest.importorskip("torch")
    (steps,) = race(LENET, 1, [VECTOR, NCHW], rounds=2, seconds=0, only="step")
    assert steps.reference == NCHW and steps.ratio is not None and not steps.missing
