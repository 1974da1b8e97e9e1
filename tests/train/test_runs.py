"""Listing runs and drawing their courses."""

import json
import shutil
import sys

import pytest

from minidl.errors import ConfigError
from minidl.train import runs
from minidl.train.config import TrainConfig
from minidl.train.record import RunFolder
from tests.test_cli import fails, invoke


def row(number, train, test=None, **more):
    return {
        "kind": "epoch", "epoch": number, "train_loss": 1 - train, "train_accuracy": train, "test_loss": test and 1 - test,
        "test_accuracy": test, "seconds": 2.0, "images_per_second": 50.0 * number, **more,
    }  # fmt: skip


def run(path, records, finished=True, **options):
    path.mkdir(parents=True)
    config = TrainConfig(**{"epochs": 3, "recipe": "mine", **options})
    (path / "config.json").write_text(json.dumps({"options": config.to_json(), "machine": {}}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        (path / "model.safetensors").touch()
    return path


@pytest.fixture
def some(tmp_path):
    final = {"kind": "final", "tta": "flip", "tta_accuracy": 0.75, "train_accuracy": 0.9}
    run(tmp_path / "a", [{"kind": "step"}, row(1, 0.5, 0.6), row(2, 0.6), row(3, 0.7, 0.55), final])
    run(tmp_path / "deep" / "b", [row(1, 0.5, 0.5)], finished=False)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{")
    return tmp_path


def test_the_list(some):
    found = {entry["run"].removeprefix(f"{some}/"): entry for entry in json.loads(invoke("runs", some, "--json").stdout)}
    assert list(found) == ["a", "c", "deep/b"]
    a = found["a"]
    assert (a["state"], a["epochs_done"], a["epochs"]) == ("finished", 3, 3)
    assert (a["best_test_accuracy"], a["test_accuracy"], a["tta_accuracy"], a["train_error"]) == (60.0, 55.0, 75.0, 10.0)
    assert (a["seconds"], a["images_per_second"]) == (6.0, 100)
    assert found["deep/b"]["state"] == "interrupted" and found["c"]["state"] == "damaged"
    table = invoke("runs", some).stdout.splitlines()
    assert table[0].split()[:4] == ["run", "state", "model", "data"] and len(table) == 4
    assert "60.00 %  55.00 %  75.00 %   10.00 %" in table[1] and "1/3" in table[3]
    shutil.rmtree(some / "a")
    assert "averaged" not in invoke("runs", some).stdout


def test_a_run_that_is_under_way_is_seen(tmp_path):
    path = run(tmp_path / "a", [], finished=False)
    folder = RunFolder.open(path)
    if folder._lock is None:
        pytest.skip("this file system has no locks")
    assert runs.Run.read(path).state == "running"
    folder.close()
    assert runs.Run.read(path).state == "interrupted"


def test_no_runs(tmp_path):
    assert "holds no runs" in invoke("runs", tmp_path).stdout
    assert "there is no such folder" in fails("runs", tmp_path / "none")


def test_curves(some):
    a = runs.curve(some / "a")
    assert a.train == [(1, 50.0), (2, 40.0), (3, 30.0)] and a.test == [(1, 40.0), (3, 45.0)]
    assert runs.curve(some / "a", "loss").test == [(1, pytest.approx(0.4)), (3, pytest.approx(0.45))]
    from benchmarks.record import record

    kept = record(some / "a", some / "results")
    assert runs.curve(kept).train == a.train and runs.curve(kept).test == a.test
    with pytest.raises(ConfigError, match="holds no loss; it has epoch, test_error, train_error"):
        runs.curve(kept, "loss")


def test_nothing_to_draw(some):
    pytest.importorskip("matplotlib")
    run(some / "new", [], finished=False)
    assert "no epoch is finished, there is nothing to draw; go on with: minidl train --resume" in fails(
        "plot", some / "new", "-o", some / "x.png"
    )
    assert "is not a run folder" in fails("plot", some, "-o", some / "x.png")
    (some / "x.json").write_text("[1]")
    assert "is no run kept by" in fails("plot", some / "x.json", "-o", some / "x.png")
    assert "expected one for each of 1 runs" in fails("plot", some / "a", "-o", some / "x.png", "--label", "1", "--label", "2")
    assert "expected a name that ends in .png" in fails("plot", some / "a", "-o", some / "x.jpg")


def test_a_picture(some):
    pytest.importorskip("matplotlib")
    for what in ("error", "loss"):
        result = invoke("plot", some / "a", some / "deep" / "b", "-o", some / "x.png", "--what", what, "--top", 80)
        assert result.exit_code == 0, result.output
    data = (some / "x.png").read_bytes()
    assert data.startswith(b"\x89PNG") and 2000 < len(data) < 60_000


def test_lines_are_thin_in_training_and_bold_in_tests(some, monkeypatch):
    pytest.importorskip("matplotlib")
    from minidl.inspect import draw

    figures = []
    monkeypatch.setattr(draw, "_save", lambda figure, path, colours: figures.append(figure))
    a, b = runs.curve(some / "a"), runs.curve(some / "deep" / "b")
    draw.curves([(c.name, c.train, c.test) for c in (a, b)], some / "x.png", top=50.0)
    (panel,) = figures[0].axes
    train, test = panel.lines[:2]
    assert train.get_linewidth() < test.get_linewidth() and train.get_color() == test.get_color()
    assert train.get_color() != panel.lines[2].get_color()
    assert [tuple(point) for point in train.get_xydata()] == a.train
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [a.name, b.name]
    assert panel.get_ylim() == (0, 50)


def test_without_matplotlib(some, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pictures need matplotlib" in fails("plot", some / "a", "-o", some / "x.png")
