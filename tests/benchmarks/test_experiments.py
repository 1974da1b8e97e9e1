"""The experiments run, on a few pictures, and what is kept of them answers their question."""

import functools
import json

from benchmarks.experiments import ensemble, parity, positions
from benchmarks.models import zoo
from minidl import models
from tests.sources import ROOT


def kept(main, monkeypatch, tmp_path, *arguments):
    monkeypatch.setattr("sys.argv", ["experiment", "--out", str(tmp_path / "new" / "found.json"), *arguments])
    main()
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert found["question"].endswith("?") and found["machine"]["versions"] and found["recipe"]["threads"] == 1
    return found


def test_positions(monkeypatch, tmp_path):
    monkeypatch.setattr(positions, "IMAGES", {"train": 32, "test": 20})
    monkeypatch.setitem(positions.RECIPE, "epochs", 1)
    found = kept(positions.main, monkeypatch, tmp_path, "--seeds", "1")
    assert set(found["mean_test_accuracy"]) == {"learned", "sincos", "none"} and len(found["runs"]) == 3
    counts = {run["positions"]: run["parameters"] for run in found["runs"]}
    assert counts["learned"] - counts["none"] == 65 * 48 and counts["sincos"] == counts["none"]


def test_ensemble(monkeypatch, tmp_path):
    monkeypatch.setattr(ensemble, "test_members", functools.partial(ensemble.test_members, limit=40))
    monkeypatch.setattr(ensemble, "RECIPE", {**ensemble.RECIPE, "limit": 40, "epochs": 1})
    found = kept(ensemble.main, monkeypatch, tmp_path, "--nets", "2")
    assert [run["who"] for run in found["runs"]] == ["seed 0", "seed 1", "all 2", "seed 0", "all 2"]
    assert all(run["images"] == 40 for run in found["runs"])
    assert found["together"] == found["runs"][2]["top1"]


def test_the_measured_ensemble_is_not_behind_its_best_member():
    found = json.loads((ROOT / "benchmarks" / "results" / "shapes10" / "ensemble.json").read_text())
    assert found["together"] >= found["best_alone"] - ensemble.MARGIN and len(found["runs"]) == 8


def test_every_family_is_compared():
    assert set(parity.FAMILIES) <= set(models.list_models())
    built = {models.model_info(name).build.__module__ for name in models.list_models()}
    assert built == {models.model_info(name).build.__module__ for name in parity.FAMILIES}


def test_weights_are_read_as_they_were_written(tmp_path):
    path = zoo.write_weights("squeezenet1_1", tmp_path / "w.safetensors")
    assert len(zoo.load_minidl("squeezenet1_1", path).state_dict()) == 52 and path.stat().st_size > 4 * 1_235_496
