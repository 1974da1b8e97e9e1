"""The experiments run, on a few pictures, and what is kept of them answers their question."""

import functools
import json

import pytest

from benchmarks.experiments import augmentation, ensemble, parity, positions, precision, relu_tanh
from benchmarks.models import zoo
from minidl import data, models
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


def test_precision(monkeypatch, tmp_path):
    recipe = {"data": "shapes10", "model": "smallconv", "epochs": 1, "batch_size": 20, "limit": 40}
    monkeypatch.setattr(precision, "RECIPE", recipe)
    found = kept(precision.main, monkeypatch, tmp_path, "--seeds", "2")
    assert [(run["conv_precision"], run["seed"]) for run in found["runs"]] == [
        ("fast", 0), ("direct", 0), ("fast", 1), ("direct", 1)
    ]  # fmt: skip
    assert found["recipe"] == {**recipe, "threads": 1}


def test_precision_is_compared_by_the_spread_of_the_seeds():
    runs = [{"conv_precision": kind, "test_accuracy": value} for kind, values in
            (("fast", (80.0, 82.0, 84.0)), ("direct", (81.0, 82.0, 83.0))) for value in values]  # fmt: skip
    found = precision.compare(runs)
    assert found["mean_test_accuracy"] == {"fast": 82.0, "direct": 82.0} and found["difference"] == 0
    assert found["standard_deviation"] == {"fast": 2.0, "direct": 1.0}
    assert found["standard_error_of_the_difference"] == 1.29  # sqrt((4 + 1) / 3)


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


def test_relu_tanh(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(relu_tanh, "load_split", lambda name, split, limit: data.load("shapes10", size=limit))
    monkeypatch.setattr(relu_tanh, "GRID", (0.02, 1e30))
    found = kept(relu_tanh.main, monkeypatch, tmp_path, "--limit", "300", "--most", "2", "--goal", "0.95")
    tried = [(run["activation"], run["lr"]) for run in found["runs"]]
    assert tried == [("relu", 0.02), ("relu", 1e30), ("tanh", 0.02), ("tanh", 1e30)]
    assert found["runs"][0]["epochs_to_goal"] == found["epochs"]["relu"] is not None
    assert found["runs"][1]["diverged"] and found["runs"][1]["epochs_to_goal"] is None
    assert found["ratio"] == round(found["epochs"]["tanh"] / found["epochs"]["relu"], 2)
    assert (tmp_path / "new" / "found.png").stat().st_size < 60_000


def test_a_rate_is_given_up_when_it_is_behind(monkeypatch, tmp_path):
    """The first rate needs 1.5 epochs, so no other gets more than 3."""
    pytest.importorskip("matplotlib")
    asked = []

    def run(activation, lr, most, options):
        asked.append(most)
        reached = 1.5 if lr == 0.02 else None
        return {"activation": activation, "lr": lr, "epochs_to_goal": reached, "train_error": [9.0], "diverged": False}

    monkeypatch.setattr(relu_tanh, "run", run)
    found = kept(relu_tanh.main, monkeypatch, tmp_path, "--most", "30", "--plot", str(tmp_path / "x.png"))
    assert asked == [30, 3, 3, 3, 3] * 2 and found["ratio"] == 1.0


def test_four_layers_have_the_same_parameters():
    counts = [sum(p.numel() for p in relu_tanh.four_layers(name).parameters()) for name in ("relu", "tanh")]
    assert counts == [89_578, 89_578]


def test_augmentation(monkeypatch, tmp_path):
    monkeypatch.setattr(augmentation, "test_members", functools.partial(augmentation.test_members, limit=40))
    recipe = {**augmentation.RECIPE, "data": "shapes10", "model_options": {"widths": [8, 8]}, "limit": 40, "epochs": 1}
    monkeypatch.setattr(augmentation, "RECIPE", recipe)
    found = kept(augmentation.main, monkeypatch, tmp_path, "--nets", "2")
    assert [run["who"] for run in found["runs"]] == ["seed 0, not augmented", "seed 0", "seed 1", "all 2"]
    assert all(set(run["top1"]) == {"none", "flip", "ten-crop"} for run in found["runs"])
    assert found["together"] == found["runs"][3]["top1"]["none"] and "train_error" in found["runs"][0]
    assert found["runs"][0]["augment"] == "none" != found["runs"][1]["augment"]
