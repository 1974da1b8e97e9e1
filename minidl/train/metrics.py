"""Running metrics: averages, top-k accuracy and the confusion matrix, over batches of any size.

They take arrays (scores ``(n, classes)``, labels ``(n,)``) and hold plain Python numbers, so that their state goes into
a checkpoint as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from minidl.errors import ConfigError, ShapeError

Array = Any


class Average:
    """The mean of a value over images: batches of different sizes count by their size."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def update(self, value: float, n: int = 1) -> None:
        """Add the mean ``value`` of ``n`` images."""
        self.total += value * n
        self.count += n

    @property
    def value(self) -> float:
        """The mean so far; NaN before the first update."""
        return self.total / self.count if self.count else float("nan")

    def state_dict(self) -> dict[str, float]:
        """The sums so far, as plain numbers."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the sums of a :meth:`state_dict`."""
        self.total, self.count = float(state["total"]), int(state["count"])


class Accuracy(Average):
    """Top-k accuracy: the fraction of images whose label is among the ``k`` highest scores.

    Ties are broken as ``argmax`` breaks them: of equal scores the lower class comes first.  So a net that scores all
    classes alike is right only where the label is below ``k``, never everywhere.  An image with a NaN among its scores
    is wrong.  ``k`` larger than the number of classes counts as that number.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        if k < 1:
            raise ConfigError(f"Accuracy: k must be at least 1, got {k}")
        self.k = k

    def update_scores(self, scores: Array, labels: Array) -> None:
        """Add a batch: ``scores`` (n, classes) floating, ``labels`` (n,) integers."""
        correct = int((ranks(scores, labels) < self.k).sum())
        self.total += correct
        self.count += len(labels)


def ranks(scores: Array, labels: Array) -> Array:
    """The place, from 0, of each image's label among its scores, highest first; (n,) integers.

    Equal scores are ordered by class.  With a NaN in the row the place is ``sys.maxsize``, behind every k.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ShapeError(
            f"accuracy: expected scores (n, classes) and labels (n,), got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    n, classes = scores.shape
    if n == 0:
        return labels
    label = labels.reshape(n, 1)
    inside = (label >= 0) & (label < classes)
    if not inside.all():
        raise ShapeError(f"accuracy: label {int(label[~inside][0])} is out of range for {classes} classes")
    order = (-scores).argsort(axis=1, kind="stable")
    place = (order == label).argmax(axis=1)
    broken = (scores != scores).any(axis=1)
    place[broken] = sys.maxsize
    return place


class ConfusionMatrix:
    """Counts of images by (true class, predicted class); ``counts[i][j]`` is a list of lists of int."""

    def __init__(self, num_classes: int) -> None:
        self.counts = [[0] * num_classes for _ in range(num_classes)]

    def update(self, predictions: Sequence[int], labels: Sequence[int]) -> None:
        """Add a batch of predicted and true classes."""
        for predicted, true in zip(predictions, labels, strict=True):
            self.counts[true][predicted] += 1

    def per_class(self) -> list[float]:
        """Accuracy (recall) of each class; NaN for a class without images."""
        return [row[i] / total if (total := sum(row)) else float("nan") for i, row in enumerate(self.counts)]

    def most_confused(self, top: int = 3) -> list[tuple[int, int, int]]:
        """The most frequent mistakes as (true class, predicted class, count), most frequent first."""
        pairs = [(i, j, n) for i, row in enumerate(self.counts) for j, n in enumerate(row) if i != j and n]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:top]
