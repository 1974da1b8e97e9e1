"""Dropout (Srivastava et al. 2014) whose mask is drawn where it is used, in the forward pass and again in the backward pass."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.dispatch import takes_dropout, takes_dropout_mask, vector
from minidl.kernels.cpu.emit import Int, Kernel, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import program
from minidl.kernels.cpu.philox import Key, launch, write_words

_SIGN = -(1 << 31)


@program
def dropout_kernel(isa: ISA, of_x: bool) -> Kernel:
    """scale where a word is at least ``threshold``, else 0; times x if ``of_x``."""
    k = Kernel("dropout" if of_x else "dropout_mask", isa.width)
    y = k.pointer("y", "n")
    x, scale = k.pointer("x", "n") if of_x else y, k.pointer("scale", 1)
    n, threshold = k.integers("n", "threshold")
    kept, dropped = k.broadcast(scale), k.constant(0)
    # Words are unsigned and comparisons are not: with the upper bit flipped on both sides the order is the same.
    sign = k.constant(_SIGN, "i32")
    below = k.spread(threshold - 1) ^ sign

    def formula(words: Vector, place: Int, mask: Any) -> Vector:
        factor = k.select((words ^ sign) > below, kept, dropped)
        return k.load(x + place, mask) * factor if of_x else factor

    write_words(k, n, y, formula)
    return k


def _run(shape: tuple[int, ...], p: float, key: Key, **arrays: np.ndarray) -> Any:
    y = memory.empty(shape)
    run = launch(dropout_kernel(bool(arrays)), math.prod(shape), key, threshold=round(p * 2**32))
    run(y=y, scale=np.array([1 / (1 - p)], np.float32), **arrays)
    return y


@vector("dropout", takes_dropout)
def dropout(x: Any, p: float, key: Key) -> Any:
    return _run(x.shape, p, key, x=np.ascontiguousarray(x))


@vector("dropout_mask", takes_dropout_mask)
def dropout_mask(shape: tuple[int, ...], p: float, key: Key, dtype: Any) -> Any:
    return _run(shape, p, key)
