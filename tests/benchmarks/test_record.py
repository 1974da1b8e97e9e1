"""Training runs kept as JSON."""

import json

import pytest

from benchmarks.record import record, summary
from minidl.errors import DataError

CONFIG = {
    "options": {
        "recipe": "default", "data": "folder:a/b", "model": "smallconv", "seed": 3, "optimizer": "sgd", "lr": 0.1,
        "batch_size": 64, "schedule": "onecycle", "weight_decay": 5e-4, "augment": "flip", "limit": None, "threads": 1,
    },
    "machine": {"cores": 2},
}  # fmt: skip
STEP = {"kind": "step", "step": 1, "loss": 2.3}


def epoch(number, train, test, seconds):
    return {
        "kind": "epoch", "epoch": number, "train_accuracy": train, "test_accuracy": test, "seconds": seconds,
        "images_per_second": 100 / seconds,
    }  # fmt: skip


def write(folder, records):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_the_last_test_and_the_whole_speed_are_kept(tmp_path):
    run = write(tmp_path, [STEP, epoch(1, 0.5, 0.25, 1.0), STEP, epoch(2, 0.9, 0.75, 3.0)])
    found = summary(run)
    assert (found["epochs"], found["test_accuracy"], found["train_error"]) == (2, 75.0, 10.0)
    assert (found["seconds"], found["images_per_second"]) == (4.0, 50)          # 200 images in 4 seconds
    assert [e["test_accuracy"] for e in found["curve"]] == [25.0, 75.0]
    path = record(run, tmp_path / "results")
    assert path == tmp_path / "results" / "folder-a-b" / "default-smallconv-3.json"
    assert json.loads(path.read_text()) == found


def test_what_the_last_tests_found_comes_first(tmp_path):
    final = {"kind": "final", "tta": "flip", "tta_accuracy": 0.8, "train_accuracy": 0.95}
    found = summary(write(tmp_path, [epoch(1, 0.9, 0.75, 3.0), final]))
    assert (found["tta"], found["tta_accuracy"], found["train_error"], found["train_error_is"]) == ("flip", 80.0, 5.0, "measured")
    plain = summary(write(tmp_path, [epoch(1, 0.9, 0.75, 3.0)]))
    assert plain["train_error_is"] == "running" and "tta" not in plain and "tta_accuracy" not in plain


@pytest.mark.parametrize("loads, told, shared", [
    ([1.2, 1.1, 3.0], None, False), ([2.0, 1.1, 2.2], None, True), ([], None, None), ([1.0], True, True), ([9.0], False, False),
])  # fmt: skip
def test_times_of_a_busy_machine_are_marked(tmp_path, loads, told, shared):
    records = [{**epoch(k + 1, 0.5, 0.5, 1.0), "load": load} for k, load in enumerate(loads)] or [epoch(1, 0.5, 0.5, 1.0)]
    assert summary(write(tmp_path, records), told)["shared"] is shared


def test_options_are_kept_where_they_differ_from_the_defaults(tmp_path):
    from benchmarks.record import kept
    from minidl.train.recipes import resolve

    options = kept(resolve("lenet-mnist", flip="alternating", seed=3).to_json())
    assert options["flip"] == "alternating" and options["epochs"] == 5
    assert not {"border", "ema", "seed", "data", "model"} & set(options)


def test_a_run_without_an_epoch_is_refused(tmp_path):
    with pytest.raises(DataError, match="no epoch was finished; go on with: minidl train --resume"):
        summary(write(tmp_path, [STEP]))
