"""The speed run's step: both libraries make the same one, its operations are counted, and what is kept answers the question."""
from __future__ import annotations

import json

import pytest

from benchmarks.experiments import speed_run


def test_the_step_is_torchs(torch):
    losses, facts = {}, {}
    for name in speed_run.CONTENDERS:
        contender, facts[name] = speed_run.build(name, 1, batch=16)
        losses[name] = [contender.step(), contender.step()]
    speed_run.agree(losses)
    assert losses["minidl"][0] != losses["minidl"][1] and facts["minidl"] == facts["torch"]
    # 2 operations for each product; per image, from the shapes: whiten, then the convolutions of the three blocks, then fc
    first, second = 1024 * 27 * 32, 1024 * 9 * 32 * 64
    others = 256 * 9 * (64 * 64 + 64 * 256) + 64 * 9 * (256 * 256 + 256 * 256) + 16 * 9 * 256 * 256 + 2560
    assert facts["minidl"]["gflop"] == pytest.approx(2e-9 * 16 * (first + 2 * second + 3 * others))


@pytest.mark.parametrize("found", [[2.0, 1.8], [2.001, 1.5], [float("nan"), 1.5]])
def test_contenders_that_compute_something_else_are_not_timed(found):
    speed_run.agree({"minidl": [2.0, 1.5], "torch": [2.00001, 1.505]})
    with pytest.raises(ValueError, match="minidl and torch have losses of"):
        speed_run.agree({"minidl": [2.0, 1.5], "torch": found})


def test_what_is_kept(monkeypatch, tmp_path):
    times = {"minidl": [0.2, 0.3, 0.2], "torch": [1.0, 1.0, 1.0], "torch channels_last": [0.5, 0.6, 0.5]}

    def race(threads, rounds, steps, batch):
        assert (threads, rounds, steps, batch) == (2, 3, 4, None)
        return {"batch": 10, "gflop": 5.0}, {name: [{"wall": t, "cpu": 9.0} for t in times[name]] for name in times}

    monkeypatch.setattr(speed_run, "race", race)
    arguments = ["--threads", "2", "--rounds", "3", "--steps", "4", "--out", str(tmp_path / "step.json")]
    monkeypatch.setattr("sys.argv", ["speed_run", *arguments])
    monkeypatch.setattr(speed_run.os, "environ", {})
    speed_run.main()
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["ratio"] == {"reference": "torch channels_last", "median": 0.4, "low": 0.4, "high": 0.45}
    assert found["runs"][0] == {
        "library": "minidl", "seconds": 0.2, "low": 0.2, "high": 0.25, "images_per_second": 50.0, "gflop_per_second": 25.0,
    }  # fmt: skip
    assert found["recipe"]["threads"] == 2 and found["machine"]["versions"]
