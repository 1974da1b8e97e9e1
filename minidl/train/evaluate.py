"""Test a net on a data set."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import minidl
from minidl.autograd.grad_mode import no_grad
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.train.metrics import Accuracy, Average, ConfusionMatrix
from minidl.train.progress import Quiet


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of a test: mean cross-entropy, top-1 and top-5 accuracy (fractions), and what was confused."""

    loss: float
    top1: float
    top5: float
    images: int
    seconds: float
    confusion: ConfusionMatrix


def evaluate(
    model: Module,
    loader: Iterable[tuple[Any, Any]],
    *,
    num_classes: int,
    device: str = "cpu",
    reporter: Quiet | None = None,
    total: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Run ``model`` in evaluation mode, without gradients, over batches of (images, labels).

    Returns None if ``stop()`` became true on the way.  The model is left in the mode in which it was.
    """
    reporter = reporter or Quiet()
    loss, top1, top5, confusion = Average(), Accuracy(1), Accuracy(5), ConfusionMatrix(num_classes)
    was_training = model.training
    start = time.monotonic()
    model.eval()
    reporter.start_phase("test", total)
    try:
        with no_grad():
            for images, labels in loader:
                scores = model(minidl.from_numpy(images).to(device))
                value = F.cross_entropy(scores, minidl.from_numpy(labels).to(device)).item()
                scores = scores.to("cpu").numpy()
                loss.update(value, len(labels))
                top1.update_scores(scores, labels)
                top5.update_scores(scores, labels)
                confusion.update(scores.argmax(axis=1).tolist(), labels.tolist())
                reporter.advance(len(labels), loss.value, top1.value)
                if stop():
                    return None
    finally:
        reporter.end_phase()
        model.train(was_training)
    return Evaluation(loss.value, top1.value, top5.value, top1.count, time.monotonic() - start, confusion)
