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


def test_a_run_without_an_epoch_is_refused(tmp_path):
    with pytest.raises(DataError, match="no epoch was finished; go on with: minidl train --resume"):
        summary(write(tmp_path, [STEP]))
