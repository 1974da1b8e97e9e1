"""Training: the loop, the record of a run, and the recipes.

::

    from minidl import data, models, optim, train

    model = models.create("smallconv")
    loader = data.DataLoader(data.load("shapes10"), 64, shuffle=True)
    trainer = train.Trainer(model, optim.SGD(model.parameters(), lr=0.1), loader, epochs=3)
    trainer.fit()

or everything at once, as the command line does it: ``train.build(train.resolve("default", epochs=3)).fit()``.
Names are loaded when they are first used: importing this package is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Trainer": "trainer", "Outcome": "trainer", "TrainConfig": "config", "resolve": "recipes", "list_recipes": "recipes",
    "build": "build", "evaluate": "evaluate", "Evaluation": "evaluate", "RunFolder": "record",
    "MetricsLog": "log", "read_metrics": "log", "ModelCard": "weights", "save_model": "weights", "load_model": "weights",
    "Average": "metrics", "Accuracy": "metrics", "ConfusionMatrix": "metrics",
}  # fmt: skip

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
