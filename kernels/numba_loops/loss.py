"""Cross-entropy of class indices straight from logits, as loops over samples."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from minidl.kernels.numba_loops.jit import compiled
from minidl.kernels.plain.loss import counted_targets


# ------------------------------------------------------------------------------------------------------- scalar functions
@compiled()
def log_sum(x, row):
    """log(sum(exp(x))) of a row."""
    best = x[row, 0]
    for k in range(1, x.shape[1]):
        if x[row, k] > best:
            best = x[row, k]
    total = 0.0
    for k in range(x.shape[1]):
        total += math.exp(x[row, k] - best)
    return best + math.log(total)


# ------------------------------------------------------------------------------------------------------------------ loops
@compiled(parallel=True)
def loss_loops(x, labels, counts, weights, sharp, smooth, losses):
    """-sum over classes of q * log(softmax), q being sharp * weights at the label and smooth everywhere."""
    for row in prange(x.shape[0]):
        losses[row] = 0
        if counts[row]:
            logarithm = log_sum(x, row)
            loss = sharp * weights[row] * (logarithm - x[row, labels[row]])
            for k in range(x.shape[1]):
                if smooth[k] != 0:
                    loss += smooth[k] * (logarithm - x[row, k])
            losses[row] = loss


@compiled(parallel=True)
def loss_grad_loops(g, x, labels, counts, weights, sharp, smooth, gx):
    everywhere = 0.0
    for k in range(x.shape[1]):
        everywhere += smooth[k]
    for row in prange(x.shape[0]):
        if counts[row]:
            logarithm = log_sum(x, row)
            total = sharp * weights[row] + everywhere
            for k in range(x.shape[1]):
                gx[row, k] = g[row] * (total * math.exp(x[row, k] - logarithm) - smooth[k])
            gx[row, labels[row]] -= g[row] * sharp * weights[row]
        else:
            gx[row, :] = 0


# ---------------------------------------------------------------------------------------------------------------- kernels
def softmax_cross_entropy(logits: Any, labels: Any, weight: Any, ignore_index: int, label_smoothing: float) -> Any:
    counts, classes, weights, smooth = _prepare(logits, labels, weight, ignore_index, label_smoothing)
    losses = np.empty(len(logits), logits.dtype)
    loss_loops(logits, classes, counts, weights, 1 - label_smoothing, smooth, losses)
    return losses, weights


def softmax_cross_entropy_grad(
    g: Any, logits: Any, labels: Any, weight: Any, ignore_index: int, label_smoothing: float
) -> Any:
    counts, classes, weights, smooth = _prepare(logits, labels, weight, ignore_index, label_smoothing)
    gx = np.empty_like(logits)
    loss_grad_loops(g, logits, classes, counts, weights, 1 - label_smoothing, smooth, gx)
    return gx


def _prepare(logits: Any, labels: Any, weight: Any, ignore_index: int, label_smoothing: float) -> tuple[Any, Any, Any, Any]:
    """(which samples count, their classes, their weights, what every class gets of the smoothing)."""
    counted, classes = counted_targets(np, "cross_entropy", labels, logits.shape[1], ignore_index)
    if counted is None:
        counted = np.ones(len(logits), bool)
    classes = classes.astype(np.int64)
    smooth = np.full(logits.shape[1], label_smoothing / logits.shape[1], logits.dtype)
    if weight is None:
        return counted, classes, counted.astype(logits.dtype), smooth
    return counted, classes, weight[classes] * counted, smooth * weight
