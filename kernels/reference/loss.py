"""Cross-entropy as its definition: one sample at a time, a distribution over the classes, float64."""
import numpy as np

from minidl.errors import DataError
from minidl.kernels.registry import reference

Array = np.ndarray


def _check(name: str, label: int, classes: int, at: int) -> None:
    if not 0 <= label < classes:
        raise DataError(f"{name}: label {label} at position {at} is outside 0..{classes - 1}; check the labels, or ignore_index")


def _weight(weight: Array | None, classes: int) -> Array:
    return np.ones(classes) if weight is None else weight.astype(np.float64)


def _target(label: int, classes: int, weight: Array | None, label_smoothing: float) -> Array:
    """What each class's -log p counts: its share of the smoothed label times its weight."""
    share = np.full(classes, label_smoothing / classes)
    share[label] += 1 - label_smoothing
    return share * _weight(weight, classes)


def _log_softmax(row: Array) -> Array:
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


@reference("softmax_cross_entropy")
def softmax_cross_entropy(
    logits: Array, labels: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    m, classes = logits.shape
    losses, sample_weights = np.zeros(m, logits.dtype), np.zeros(m, logits.dtype)
    for i, label in enumerate(labels.tolist()):
        if label == ignore_index:
            continue
        _check("cross_entropy", label, classes, i)
        losses[i] = -(_target(label, classes, weight, label_smoothing) * _log_softmax(logits[i])).sum()
        sample_weights[i] = _weight(weight, classes)[label]
    return losses, sample_weights


@reference("softmax_cross_entropy_grad")
def softmax_cross_entropy_grad(
    g: Array, logits: Array, labels: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> Array:
    classes = logits.shape[1]
    gx = np.zeros(logits.shape, logits.dtype)
    for i, label in enumerate(labels.tolist()):
        if label == ignore_index:
            continue
        _check("cross_entropy", label, classes, i)
        target = _target(label, classes, weight, label_smoothing)
        gx[i] = float(g[i]) * (np.exp(_log_softmax(logits[i])) * target.sum() - target)
    return gx


@reference("nll_loss")
def nll_loss(logp: Array, labels: Array, weight: Array | None, ignore_index: int) -> tuple[Array, Array]:
    m, classes = logp.shape
    losses, sample_weights = np.zeros(m, logp.dtype), np.zeros(m, logp.dtype)
    for i, label in enumerate(labels.tolist()):
        if label == ignore_index:
            continue
        _check("nll_loss", label, classes, i)
        sample_weights[i] = _weight(weight, classes)[label]
        losses[i] = -_weight(weight, classes)[label] * logp[i, label]
    return losses, sample_weights


@reference("nll_loss_grad")
def nll_loss_grad(g: Array, labels: Array, num_classes: int, weight: Array | None, ignore_index: int) -> Array:
    gx = np.zeros((len(labels), num_classes), g.dtype)
    for i, label in enumerate(labels.tolist()):
        if label == ignore_index:
            continue
        _check("nll_loss", label, num_classes, i)
        gx[i, label] = -_weight(weight, num_classes)[label] * g[i]
    return gx
