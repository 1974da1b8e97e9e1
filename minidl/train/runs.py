"""Runs that are there: what each trained, how far it is, how well it does; and their curves."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError, ConfigError
from minidl.io.atomic import describe_oserror
from minidl.train.log import read_metrics
from minidl.train.record import CONFIG, METRICS, MODEL, in_use, read_config

FINISHED, RUNNING, INTERRUPTED, DAMAGED = "finished", "running", "interrupted", "damaged"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder says.

    Args:
        path: the folder.
        state: finished, running (another process holds the folder), interrupted or damaged.
        config: its ``config.json``; empty if that is damaged.
        epochs: the records of its finished epochs; ``final`` the one of its last tests, if it had any.
    """

    path: Path
    state: str
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    final: dict[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Run:
        """Read a run folder.

        Raises:
            ConfigError: there is no run in it.
            CheckpointError: its configuration is damaged, or cannot be read.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise ConfigError(f"{path} is not a run folder (it has no {CONFIG})")
        config = read_config(path)
        if not isinstance(config.get("options"), dict):
            raise CheckpointError(f"{path / CONFIG} is damaged (it has no options); restore it, or start a new run")
        try:
            records = read_metrics(path / METRICS) if (path / METRICS).is_file() else []
        except OSError as error:
            raise CheckpointError(describe_oserror("read", path / METRICS, error)) from error
        epochs = [record for record in records if record.get("kind") == "epoch"]
        final = next((record for record in reversed(records) if record.get("kind") == "final"), {})
        if in_use(path):
            state = RUNNING
        else:
            state = FINISHED if (path / MODEL).is_file() else INTERRUPTED
        return cls(path, state, config, epochs, final)

    @property
    def options(self) -> dict[str, Any]:
        """The options that it was started with."""
        return self.config.get("options", {})

    @property
    def seconds(self) -> float:
        """The time of all finished epochs, without the tests."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    @property
    def images_per_second(self) -> float | None:
        """Over all finished epochs; None before the first."""
        images = sum(epoch["seconds"] * epoch["images_per_second"] for epoch in self.epochs)
        return images / self.seconds if self.seconds else None

    def tests(self) -> list[tuple[int, float]]:
        """(epoch, accuracy as a fraction) of each test."""
        found = [(epoch["epoch"], epoch.get("test_accuracy")) for epoch in self.epochs]
        return [(number, accuracy) for number, accuracy in found if accuracy is not None]

    def to_json(self) -> dict[str, Any]:
        """The figures of ``minidl runs``; accuracies and errors are in percent, what is not known is None."""
        options, tests = self.options, self.tests()
        speed = self.images_per_second
        return {
            "run": str(self.path),
            "state": self.state,
            "model": options.get("model"),
            "data": options.get("data"),
            "recipe": options.get("recipe"),
            "seed": options.get("seed"),
            "epochs_done": self.epochs[-1]["epoch"] if self.epochs else 0,
            "epochs": options.get("epochs"),
            "best_test_accuracy": percent(max((accuracy for _, accuracy in tests), default=None)),
            "test_accuracy": percent(tests[-1][1] if tests else None),
            "tta": self.final.get("tta"),
            "tta_accuracy": percent(self.final.get("tta_accuracy")),
            "train_error": percent(complement(self.final.get("train_accuracy"))),
            "images_per_second": None if speed is None else round(speed),
            "seconds": round(self.seconds, 1),
        }


def percent(share: float | None) -> float | None:
    """A fraction in percent, with two digits."""
    return None if share is None else round(100 * share, 2)


def complement(share: float | None) -> float | None:
    """The error that belongs to an accuracy."""
    return None if share is None else 1 - share


def find(root: str | os.PathLike[str]) -> list[Run]:
    """All runs in ``root`` and below, by name; ``root`` may be a run itself.  Damaged ones are among them.

    Raises:
        ConfigError: there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f"{root}: there is no such folder; `minidl train` makes its run folders in ./runs, or where --out says")
    found = []
    for path in sorted({file.parent for file in root.rglob(CONFIG)}):
        try:
            found.append(Run.read(path))
        except CheckpointError:
            found.append(Run(path, DAMAGED, {}, [], {}))
    return found


# ----------------------------------------------------------------------------------------------------------- curves


@dataclasses.dataclass(frozen=True)
class Curve:
    """A run's course: (epoch, value) in training and in tests; errors are in percent."""

    name: str
    train: list[tuple[int, float]]
    test: list[tuple[int, float]]


WHAT = ("error", "loss")


def curve(path: str | os.PathLike[str], what: str = "error") -> Curve:
    """The curve of a run folder, or of a run that was kept as JSON (``python -m benchmarks record``).

    The training error is that of the epoch's own batches: augmented, and taken while the weights change.

    Raises:
        ConfigError: it is neither, or has no finished epoch, or no such values.
    """
    path = Path(path)
    if path.suffix == ".json":
        name, rows = _kept(path)
    else:
        run = Run.read(path)
        name = f"{run.options.get('model', '?')}, {path.name}"
        rows = [
            {
                "epoch": epoch["epoch"],
                "train_error": percent(complement(epoch.get("train_accuracy"))),
                "test_error": percent(complement(epoch.get("test_accuracy"))),
                "train_loss": epoch.get("train_loss"),
                "test_loss": epoch.get("test_loss"),
            }
            for epoch in run.epochs
        ]
    if not rows:
        raise ConfigError(f"{path}: no epoch is finished, there is nothing to draw; go on with: minidl train --resume {path}")
    train, test = (
        [(row["epoch"], row[key]) for row in rows if row.get(key) is not None] for key in (f"train_{what}", f"test_{what}")
    )
    if not train and not test:
        raise ConfigError(f"{path}: holds no {what}; it has {', '.join(sorted(rows[0]))}")
    return Curve(name, train, test)


def _kept(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Name and rows of a run that was kept as JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            {"epoch": row["epoch"], "train_error": row["train_error"], "test_error": percent(_error(row["test_accuracy"]))}
            for row in found["curve"]
        ]
        return f"{found['model']}, {found['recipe']}, seed {found['seed']}", rows
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is no run kept by `python -m benchmarks record` ({type(error).__name__}: {error})") from None


def _error(accuracy: float | None) -> float | None:
    """A fraction from an accuracy in percent."""
    return None if accuracy is None else 1 - accuracy / 100
