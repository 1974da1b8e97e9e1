"""A finished training run as a few lines of JSON: what was trained, how, how well, how fast, on which machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minidl.errors import DataError
from minidl.train.log import read_metrics


def summary(run: Path) -> dict[str, Any]:
    """The record of the run in a folder: its recipe, its last test, and each epoch's figures.

    Accuracies and errors are in percent; ``seconds`` is the sum over epochs of training, without the tests.

    Raises:
        DataError: the folder holds no finished epoch.
    """
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    epochs = [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "epoch"]
    if not epochs:
        raise DataError(f"{run}: no epoch was finished; go on with: minidl train --resume {run}")
    options, last = config["options"], epochs[-1]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    images = sum(epoch["seconds"] * epoch["images_per_second"] for epoch in epochs)
    kept = ("optimizer", "lr", "batch_size", "schedule", "weight_decay", "augment", "limit", "threads")
    return {
        "recipe": options["recipe"],
        "data": options["data"],
        "model": options["model"],
        "seed": options["seed"],
        "epochs": last["epoch"],
        "test_accuracy": _percent(last["test_accuracy"]),
        "train_error": _percent(1 - last["train_accuracy"]),
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds) if seconds else None,
        "machine": config["machine"],
        "options": {name: options[name] for name in kept},
        "curve": [
            {
                "epoch": epoch["epoch"],
                "train_error": _percent(1 - epoch["train_accuracy"]),
                "test_accuracy": _percent(epoch["test_accuracy"]),
            }
            for epoch in epochs
        ],
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def record(run: Path, folder: Path) -> Path:
    """Write the run's summary to ``folder/DATA/RECIPE-MODEL-SEED.json``; returns the file."""
    found = summary(run)
    name = f"{found['recipe']}-{found['model']}-{found['seed']}.json"
    path = folder / found["data"].replace(":", "-").replace("/", "-") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path
