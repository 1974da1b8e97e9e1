"""Launches of softmax.cu for cross-entropy of class indices, straight from logits."""
from typing import Any

from minidl.kernels.cuda import capture
from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import contiguous
from minidl.kernels.plain.loss import counted_targets

FILE = "softmax.cu"


def _takes(logits: Array, labels: Array, weight: Array | None, *others: Any, **options: Any) -> bool:
    return same_dtype(logits, weight) and logits.size > 0


@cuda("softmax_cross_entropy", "cuda", _takes)
def softmax_cross_entropy(
    gpu: Any, logits: Array, labels: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    xp = gpu.xp
    # The host waits for the answer, which it may not while a CUDA graph is captured: there a label that is no class gives NaN.
    if capture.current() is None:
        counted_targets(xp, "cross_entropy", labels, logits.shape[1], ignore_index)
    logits, labels, weight = contiguous(gpu, logits, labels.astype(xp.int64, copy=False), weight)
    rows, classes = logits.shape
    losses, sample_weights = xp.empty(rows, logits.dtype), xp.empty(rows, logits.dtype)
    arguments = (logits, labels, weight, losses, sample_weights, rows, classes, ignore_index, label_smoothing)
    launch(gpu, FILE, "softmax_cross_entropy", arguments, dtype=logits.dtype, work=32 * rows)
    return losses, sample_weights


def _takes_grad(g: Array, logits: Array, labels: Array, weight: Array | None, *others: Any, **options: Any) -> bool:
    return same_dtype(g, logits, weight) and logits.size > 0


@cuda("softmax_cross_entropy_grad", "cuda", _takes_grad)
def softmax_cross_entropy_grad(
    gpu: Any, g: Array, logits: Array, labels: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> Array:
    xp = gpu.xp
    g, logits, labels, weight = contiguous(gpu, g, logits, labels.astype(xp.int64, copy=False), weight)
    gx = xp.empty(logits.shape, logits.dtype)
    arguments = (g, logits, labels, weight, gx, *logits.shape, ignore_index, label_smoothing)
    launch(gpu, FILE, "softmax_cross_entropy_grad", arguments, dtype=logits.dtype, work=32 * len(logits))
    return gx
