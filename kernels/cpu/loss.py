"""Cross-entropy of class indices, fused: the loss of a row from its maximum and one sum, the gradient in place of the softmax."""
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels.cpu import engine, functions, memory
from minidl.kernels.cpu.dispatch import takes_cross_entropy, takes_cross_entropy_grad, vector
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.lanes import Row, contiguous, keep, put, total
from minidl.kernels.cpu.launch import Launch, Program, program
from minidl.kernels.cpu.softmax import exponentials, row_maximum
from minidl.kernels.plain.loss import counted_targets


@program
def cross_entropy(isa: ISA, ragged: bool, smooth: bool) -> Kernel:
    """losses[i] = log(sum e^below) - below[target], below = x - max; ``smooth`` mixes in the mean over all classes."""
    k = Kernel("cross_entropy" + "_smooth" * smooth + "_ragged" * ragged, isa.width)
    x, losses = k.pointer("x", "rows", "classes"), k.pointer("losses", "rows")
    targets, options = k.pointer("targets", "rows", element="i64"), k.pointer("options", 2)
    rows, classes = k.integers("rows", "classes")
    sharp, even = k.broadcast(options), k.broadcast(options + 4)     # 1 - label_smoothing, label_smoothing / classes
    row = Row(k, classes, ragged)
    with k.parallel(rows) as i:
        logits = x + i * classes * 4
        highest = row_maximum(k, row, logits)
        above = functions.log(k, exponentials(k, row, logits, highest))
        loss = above - (k.broadcast(logits + k.load_integer(targets + i * 8) * 4) - highest)
        if smooth:
            def step(state: list[Any], at: Any, mask: Any, highest: Any = highest, above: Any = above) -> list[Any]:
                return [state[0] + keep(k, above - (k.load(logits + at, mask) - highest), mask)]
            loss = k.fma(sharp, loss, even * total(k, row.fold([k.constant(0)], step)[0]))
        put(k, loss, losses + i * 4)
    return k


@program
def cross_entropy_grad(isa: ISA, ragged: bool) -> Kernel:
    """gx[i] = g[i] (softmax(x[i]) - even - sharp at the target)."""
    k = Kernel("cross_entropy_grad" + "_ragged" * ragged, isa.width)
    x, gx = k.pointers("x", "gx", size=["rows", "classes"])
    g, targets = k.pointer("g", "rows"), k.pointer("targets", "rows", element="i64")
    options = k.pointer("options", 2)
    rows, classes = k.integers("rows", "classes")
    sharp, even = k.broadcast(options), k.broadcast(options + 4)
    row, first = Row(k, classes, ragged), k.first_lanes(1)
    with k.parallel(rows) as i:
        logits, target = x + i * classes * 4, gx + i * classes * 4
        gradient = k.broadcast(g + i * 4)
        share = k.constant(1) / exponentials(k, row, logits, row_maximum(k, row, logits), target)

        def act(at: Any, mask: Any, target: Any = target, share: Any = share, gradient: Any = gradient) -> None:
            k.store(gradient * (k.load(target + at, mask) * share - even), target + at, mask)
        row.each(act)
        here = target + k.load_integer(targets + i * 8) * 4
        k.store(k.load(here, first) - gradient * sharp, here, first)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
@functools.lru_cache(512)
def _launch(build: Any, rows: int, classes: int, *options: Any) -> Launch:
    compiled: Program = build(classes % engine.host_isa().width > 0, *options)
    return compiled.prepare(rows=rows, classes=classes)


def _options(classes: int, label_smoothing: float) -> np.ndarray:
    return np.array([1 - label_smoothing, label_smoothing / classes], np.float32)


@vector("softmax_cross_entropy", takes_cross_entropy)
def softmax_cross_entropy(logits: Any, labels: Any, weight: None, ignore_index: int, label_smoothing: float) -> Any:
    rows, classes = logits.shape
    counted, targets = counted_targets(np, "cross_entropy", labels, classes, ignore_index)
    losses = memory.empty((rows,))
    _launch(cross_entropy, rows, classes, label_smoothing != 0)(
        x=contiguous(logits), losses=losses, targets=np.ascontiguousarray(targets, np.int64),
        options=_options(classes, label_smoothing))
    if counted is None:
        return losses, np.ones(rows, np.float32)
    losses[~counted] = 0
    return losses, counted.astype(np.float32)


@vector("softmax_cross_entropy_grad", takes_cross_entropy_grad)
def softmax_cross_entropy_grad(
    g: Any, logits: Any, labels: Any, weight: None, ignore_index: int, label_smoothing: float
) -> Any:
    rows, classes = logits.shape
    counted, targets = counted_targets(np, "cross_entropy", labels, classes, ignore_index)
    gx = memory.empty(logits.shape)
    _launch(cross_entropy_grad, rows, classes)(
        x=contiguous(logits), gx=gx, g=np.ascontiguousarray(g), targets=np.ascontiguousarray(targets, np.int64),
        options=_options(classes, label_smoothing))
    if counted is not None:
        gx[~counted] = 0
    return gx
