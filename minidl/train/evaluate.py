"""Test a net on a data set."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import minidl
from minidl.autograd.grad_mode import no_grad
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.tensor import Tensor
from minidl.train.ensemble import Member, combined, log_probabilities
from minidl.train.metrics import Accuracy, Average, ConfusionMatrix
from minidl.train.progress import Quiet
from minidl.train.views import Views


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
    views: Views | str | int = "none",
    device: str = "cpu",
    reporter: Quiet | None = None,
    name: str = "test",
    total: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Run ``model`` in evaluation mode, without gradients, over batches of (images, labels).

    Images are (n, C, H, W), or (n, views, C, H, W) with the ``views`` whose probabilities are averaged.  ``name`` and ``total``
    (images) are for the reporter.

    Returns None if ``stop()`` became true on the way.  The model is left in the mode in which it was.
    """

    views = Views.parse(views)

    def batches() -> Iterator[tuple[Tensor, Any]]:
        for x, labels in minidl.cuda.Prefetcher(loader, device):
            yield model(x) if x.ndim == 4 else log_probabilities(model, x, views.weights), labels.cpu().numpy()

    was_training = model.training
    model.eval()
    try:
        return _tally(batches(), num_classes, reporter or Quiet(), name, total, stop)
    finally:
        model.train(was_training)


def evaluate_members(
    members: Sequence[Member],
    loaders: Sequence[Iterable[tuple[Any, Any]]],
    *,
    num_classes: int,
    views: Views | str | int = "none",
    reporter: Quiet | None = None,
    total: int = 0,
) -> Evaluation:
    """As :func:`evaluate`, for several nets, or several views of each image, whose probabilities are averaged.

    Args:
        loaders: for each member, batches of (images, labels) with images (N, views, C, H, W) prepared as it wants them; the
            same images in the same order.
        views: which views these are.
    """

    def batches() -> Iterator[tuple[Tensor, Any]]:
        for parts in zip(*loaders, strict=True):
            yield combined(members, [images for images, _ in parts], views), parts[0][1]

    result = _tally(batches(), num_classes, reporter or Quiet(), "test", total, lambda: False)
    assert result is not None  # nothing asked it to stop
    return result


def _tally(
    batches: Iterator[tuple[Tensor, Any]], num_classes: int, reporter: Quiet, name: str, total: int, stop: Callable[[], bool]
) -> Evaluation | None:
    """Take the measures of (scores, labels); scores may be logits or log-probabilities."""
    loss, top1, top5, confusion = Average(), Accuracy(1), Accuracy(5), ConfusionMatrix(num_classes)
    start = time.monotonic()
    reporter.start_phase(name, total)
    try:
        with no_grad():
            for raw, labels in batches:
                value = F.cross_entropy(raw, minidl.from_numpy(labels).to(raw.device)).item()
                scores = raw.to("cpu").numpy()
                loss.update(value, len(labels))
                top1.update_scores(scores, labels)
                top5.update_scores(scores, labels)
                confusion.update(scores.argmax(axis=1).tolist(), labels.tolist())
                reporter.advance(len(labels), loss.value, top1.value)
                if stop():
                    return None
    finally:
        reporter.end_phase()
    return Evaluation(loss.value, top1.value, top5.value, top1.count, time.monotonic() - start, confusion)
