"""A finished training run as a few lines of JSON: what was trained, how, how well, how fast, on which machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minidl.errors import DataError
from minidl.train.config import TrainConfig
from minidl.train.runs import Run, complement, percent

# What says nothing about how a run went, or stands elsewhere in the record.
ELSEWHERE = {"data", "data_root", "model", "seed", "recipe", "checkpoint_seconds", "checkpoint_steps", "device"}
_ALWAYS = ("optimizer", "lr", "batch_size", "schedule", "weight_decay", "augment", "epochs", "threads")


def summary(path: Path, shared: bool | None = None) -> dict[str, Any]:
    """The record of the run in a folder: its recipe, its last tests, and each epoch's figures.

    Accuracies and errors are in percent.  ``train_error`` is that of the last weights on the training images as they are where
    the run measured it (``--train-error``), else the last epoch's running one, which ``train_error_is`` tells.  ``seconds`` is
    the sum over epochs of training, without the tests.  ``options`` are those that differ from the defaults.

    Args:
        shared: whether other programs had a part of the machine, so that seconds are too long; None: what the load says that
            the run recorded, or null if it recorded none.

    Raises:
        DataError: the folder holds no finished epoch.
    """
    run = Run.read(path)
    if not run.epochs:
        raise DataError(f"{path}: no epoch was finished; go on with: minidl train --resume {path}")
    options, last, final, tests = run.options, run.epochs[-1], run.final, run.tests()
    measured = "train_accuracy" in final
    found = {
        "recipe": options["recipe"],
        "data": options["data"],
        "model": options["model"],
        "seed": options["seed"],
        "epochs": last["epoch"],
        "test_accuracy": percent(tests[-1][1] if tests else None),
        "tta": final.get("tta"),
        "tta_accuracy": percent(final.get("tta_accuracy")),
        "train_error": percent(complement((final if measured else last)["train_accuracy"])),
        "train_error_is": "measured" if measured else "running",
        "seconds": round(run.seconds, 1),
        "images_per_second": round(run.images_per_second) if run.images_per_second else None,
        "shared": busy(run) if shared is None else shared,
        "machine": run.config["machine"],
        "options": kept(options),
        "curve": [
            {
                "epoch": epoch["epoch"],
                "train_error": percent(complement(epoch["train_accuracy"])),
                "test_accuracy": percent(epoch["test_accuracy"]),
            }
            for epoch in run.epochs
        ],
    }
    return {name: value for name, value in found.items() if value is not None or not name.startswith("tta")}


def kept(options: dict[str, Any]) -> dict[str, Any]:
    """The options that matter: the usual ones, and all others that are not as by default."""
    default = TrainConfig().to_json()
    others = {name: value for name, value in options.items() if name not in ELSEWHERE and default.get(name) != value}
    return {name: options[name] for name in _ALWAYS if name in options} | others


def busy(run: Run) -> bool | None:
    """Whether others wanted to run beside the run's own threads and its loader; None if it did not look."""
    loads = [epoch["load"] for epoch in run.epochs if epoch.get("load") is not None]
    # The first minute's load is of what was before; the median forgives a minute's visitor.
    return sorted(loads)[len(loads) // 2] > run.options["threads"] + 0.75 if loads else None


def record(path: Path, folder: Path, shared: bool | None = None) -> Path:
    """Write the run's summary to ``folder/DATA/RECIPE-MODEL-SEED.json``; returns the file."""
    found = summary(path, shared)
    name = f"{found['recipe']}-{found['model']}-{found['seed']}.json"
    file = folder / found["data"].replace(":", "-").replace("/", "-") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return file
