"""Cross-entropy of class indices, straight from logits, and the negative log-likelihood of log-probabilities.

Per-sample losses and weights are returned, so that every reduction can be built on them: "mean" is
``sum(losses) / sum(sample_weights)``, as torch defines it, also with label smoothing.
"""
from typing import Any

from minidl.errors import DataError
from minidl.kernels.plain.arrays import Array
from minidl.kernels.plain.softmax import shifted
from minidl.kernels.registry import plain


def counted_targets(xp: Any, name: str, labels: Array, classes: int, ignore_index: int) -> tuple[Array | None, Array]:
    """Which samples count (None: all do), and their labels with 0 in place of the ignored ones."""
    if not 0 <= ignore_index < classes and labels.size and labels.min() >= 0 and labels.max() < classes:
        return None, labels
    counted = labels != ignore_index
    outside = counted & ((labels < 0) | (labels >= classes))
    if outside.any():
        at = int(outside.argmax())
        raise DataError(
            f"{name}: label {int(labels[at])} at position {at} is outside 0..{classes - 1}; the model has {classes} outputs, "
            f"so make as many as there are classes, or mark samples to skip with ignore_index={ignore_index}"
        )
    return counted, xp.where(counted, labels, 0)


def _sample_weights(xp: Any, counted: Array | None, targets: Array, weight: Array | None, dtype: Any) -> Array:
    if weight is None:
        return xp.ones(len(targets), dtype) if counted is None else counted.astype(dtype)
    if counted is None:
        return weight[targets].astype(dtype)
    return xp.where(counted, weight[targets].astype(dtype), dtype.type(0))


@plain("softmax_cross_entropy")
def softmax_cross_entropy(
    xp: Any, logits: Array, labels: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    m, classes = logits.shape
    counted, targets = counted_targets(xp, "cross_entropy", labels, classes, ignore_index)
    below = shifted(xp, logits, 1)  # the loss is log(sum(exp(below))) - below[t]: small numbers, however large the logits
    dtype = below.dtype
    log_sum = xp.log(xp.exp(below).sum(axis=1))
    sample_weights = _sample_weights(xp, counted, targets, weight, dtype)
    losses = log_sum - below[xp.arange(m), targets]
    if weight is not None or counted is not None:
        losses *= sample_weights
    if label_smoothing:
        losses *= dtype.type(1 - label_smoothing)
        if weight is None:
            everywhere = classes * log_sum - below.sum(axis=1)
        else:
            weights = weight.astype(dtype, copy=False)
            everywhere = weights.sum() * log_sum - below @ weights
        losses += everywhere * dtype.type(label_smoothing / classes)
    if counted is not None:
        losses = xp.where(counted, losses, dtype.type(0))  # an ignored sample's loss is 0 even where its logits are not finite
    return losses.astype(logits.dtype, copy=False), sample_weights.astype(logits.dtype, copy=False)


@plain("softmax_cross_entropy_grad")
def softmax_cross_entropy_grad(
    xp: Any, g: Array, logits: Array, labels: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> Array:
    m, classes = logits.shape
    counted, targets = counted_targets(xp, "cross_entropy", labels, classes, ignore_index)
    gx = shifted(xp, logits, 1)
    dtype = gx.dtype
    xp.exp(gx, out=gx)
    total = gx.sum(axis=1, keepdims=True)
    if counted is None and weight is None and not label_smoothing:  # the usual case: softmax - onehot
        gx /= total
        gx[xp.arange(m), targets] -= 1
    else:
        sharp = _sample_weights(xp, counted, targets, weight, dtype) * dtype.type(1 - label_smoothing)
        smooth = xp.full(classes, label_smoothing / classes, dtype)
        if weight is not None:
            smooth *= weight.astype(dtype, copy=False)
        gx *= (sharp + smooth.sum())[:, None] / total
        gx -= smooth
        gx[xp.arange(m), targets] -= sharp
    gx *= g.astype(dtype, copy=False)[:, None]
    if counted is not None:
        gx[~counted] = 0
    return gx.astype(logits.dtype, copy=False)


@plain("nll_loss")
def nll_loss(xp: Any, logp: Array, labels: Array, weight: Array | None, ignore_index: int) -> tuple[Array, Array]:
    m, classes = logp.shape
    counted, targets = counted_targets(xp, "nll_loss", labels, classes, ignore_index)
    sample_weights = _sample_weights(xp, counted, targets, weight, logp.dtype)
    losses = -sample_weights * logp[xp.arange(m), targets]
    if counted is not None:
        losses = xp.where(counted, losses, logp.dtype.type(0))
    return losses, sample_weights


@plain("nll_loss_grad")
def nll_loss_grad(
    xp: Any, g: Array, labels: Array, num_classes: int, weight: Array | None, ignore_index: int
) -> Array:
    counted, targets = counted_targets(xp, "nll_loss", labels, num_classes, ignore_index)
    gx = xp.zeros((len(labels), num_classes), g.dtype)
    gx[xp.arange(len(labels)), targets] = -g * _sample_weights(xp, counted, targets, weight, g.dtype)
    if counted is not None:
        gx[~counted] = 0
    return gx
