"""The benchmark harness: what it times, how it sums up, and that a comparison of results says what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import bench
from benchmarks.__main__ import verdict
from benchmarks.bench import Case, Result, Timing, measure
from benchmarks.compare import compare
from tests.sources import ROOT


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock.advance` moves, so that contenders take exactly as long as they say."""

    class Clock:
        now = 0.0

        def advance(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(bench.gc, "collect", lambda: 0)  # slow in a process that holds the whole suite
    return clock


def case(contenders, **options) -> Case:
    return Case("c", "a case", lambda with_torch: contenders, **options)


def test_medians_and_the_ratio_within_each_round(clock) -> None:
    order: list[str] = []

    def contender(name: str, seconds: float):
        def call() -> float:
            order.append(name)
            clock.advance(seconds)
            return 1.0

        return call

    contenders = {"ours": contender("ours", 0.02), "theirs": contender("theirs", 0.04)}
    result = measure(case(contenders), contenders, rounds=4, threads=1)
    assert result.timings["ours"].median == pytest.approx(0.02)
    assert result.ratio is not None and result.ratio.median == pytest.approx(0.5)
    assert result.ratio.low == pytest.approx(0.5) == result.ratio.high
    # Each sample is one warming and one timed call here; the order turns round every time: A B, B A, A B, B A.
    rounds = order[-16:]
    assert rounds == ["ours"] * 2 + ["theirs"] * 4 + ["ours"] * 4 + ["theirs"] * 4 + ["ours"] * 2


def test_a_slow_machine_does_not_change_the_ratio(clock) -> None:
    """The machine becomes ten times slower half-way through; the times show it, the ratio does not."""
    calls = 0

    def contender(seconds: float):
        def call() -> float:
            nonlocal calls
            calls += 1
            clock.advance(seconds * (10 if calls > 40 else 1))
            return 1.0

        return call

    contenders = {"ours": contender(0.03), "theirs": contender(0.06)}
    result = measure(case(contenders), contenders, rounds=20, threads=1)
    assert result.ratio is not None and result.ratio.median == pytest.approx(0.5)
    assert result.timings["ours"].high > 5 * result.timings["ours"].low


def test_contenders_that_compute_different_things_are_not_timed(clock) -> None:
    contenders = {"ours": lambda: [1.0, 2.0], "theirs": lambda: [1.0, 2.1]}
    with pytest.raises(ValueError, match="do not compute the same thing"):
        measure(case(contenders), contenders, rounds=2, threads=1)


def test_short_calls_are_repeated_until_a_sample_can_be_timed(clock) -> None:
    assert bench.calls_per_sample(lambda: clock.advance(bench.SAMPLE_SECONDS / 50)) == 50
    assert bench.calls_per_sample(lambda: clock.advance(1.0)) == 1


def test_the_workers_environment(monkeypatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    env = bench.clean_environment(threads=2)
    assert "OPENBLAS_CORETYPE" not in env and env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == "2"
    assert "OPENBLAS_CORETYPE" in bench.machine()["unset"]


def write(path, **ratios: tuple[float, float, float]):
    results = []
    for name, (low, median, high) in ratios.items():
        timing = Timing(median, low, high, low)
        results.append(Result(name, "", 1, 3, {"minidl": timing}, timing, None).to_json())
    path.write_text(json.dumps({"machine": {}, "results": results}))
    return path


def test_compare_flags_what_got_worse(tmp_path) -> None:
    at_half = (0.49, 0.50, 0.51)
    old = write(tmp_path / "old.json", a=at_half, b=at_half, c=at_half, d=at_half, e=at_half)
    new = write(
        tmp_path / "new.json",
        a=(0.58, 0.60, 0.62),  # worse
        b=(0.40, 0.42, 0.44),  # better
        c=(0.50, 0.52, 0.53),  # within 5 %
        d=(0.45, 0.56, 0.70),  # larger, but the ranges overlap; e is missing
        f=at_half,
    )
    lines, bad = compare(old, new)
    said = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert said == {"a": "worse", "b": "better", "c": "same", "d": "unsure", "e": "missing", "f": "new"}
    assert bad == 2


@pytest.mark.parametrize(
    ("low", "median", "high", "said"),
    [(0.4, 0.5, 0.6, "met"), (0.7, 0.75, 0.9, "unsure"), (0.7, 0.82, 0.9, "unsure"), (0.9, 1.0, 1.1, "MISSED")],
)
def test_a_target_within_the_noise_is_neither_met_nor_missed(low, median, high, said) -> None:
    assert verdict(Timing(median, low, high, low), target=0.8).startswith(said)


def command(*arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OPENBLAS_CORETYPE": "Haswell"}
    run = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_the_command_writes_a_record_that_compares_equal_to_itself(tmp_path) -> None:
    path = tmp_path / "results.json"
    options = ["--ops", "--only", "at 32", "--against", "nothing", "--threads", "1", "--rounds", "2", "--json", str(path)]
    started = time.time()
    done = command(*options)
    assert done.returncode == 0, done.stderr
    assert "OPENBLAS_CORETYPE" in done.stdout  # it says which variables it took away
    data = json.loads(path.read_text())
    assert {"processor", "cores", "blas", "versions", "unset", "date", "roofs"} <= data["machine"].keys()
    assert len(data["results"]) >= 5
    for result in data["results"]:
        assert 0 < result["timings"]["minidl"]["median"] < time.time() - started
    assert command("compare", str(path), str(path)).returncode == 0
