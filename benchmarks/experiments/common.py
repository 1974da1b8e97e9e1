"""What the experiments share: training a net as `minidl train` does, and keeping what came out."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, machine
from minidl.train import environment
from minidl.train.build import build
from minidl.train.config import TrainConfig
from minidl.train.evaluate import Evaluation
from minidl.train.trainer import Trainer


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The options of every experiment; the first line of its docstring describes it."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.experiments.{name}", description=description)
    found.add_argument("--threads", type=int, default=1, help="of the matrix products; default: 1")
    found.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "shapes10" / f"{name}.json", metavar="FILE",
        help=f"default: benchmarks/results/shapes10/{name}.json",
    )  # fmt: skip
    return found


def train(**options: Any) -> tuple[Trainer, Evaluation, float]:
    """Train with the options of a TrainConfig, testing once at the end: the trainer, the test, and seconds."""
    config = TrainConfig(val_every=10**6, **options)
    environment.set_threads(config.threads or 1)
    start = time.perf_counter()
    trainer = build(config)
    outcome = trainer.fit()
    if outcome.test is None:
        raise SystemExit(f"stopped after {outcome.step} steps")
    return trainer, outcome.test, time.perf_counter() - start


def keep(path: Path, question: str, recipe: dict[str, Any], runs: list[dict[str, Any]], **facts: Any) -> None:
    """Write an experiment's JSON: the question, the recipe, each run, the machine."""
    found = {"question": question, "recipe": recipe, **facts, "runs": runs, "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def percent(share: float) -> float:
    return round(100 * share, 2)
