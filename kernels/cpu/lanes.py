"""Walking along one row of memory, and making one number of the lanes of a vector.

:mod:`rows` keeps a column in each lane and walks down the rows; here a row is what belongs together, as in a softmax.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.emit import Int, Kernel, Mask, Pointer, Vector

Step = Callable[[list[Any], Int, Mask | None], Sequence[Any]]


class Row:
    """How a row of ``length`` floats is cut into vectors; of the last one only some lanes exist if it is ``ragged``."""

    def __init__(self, k: Kernel, length: Int, ragged: bool) -> None:
        self.k, self.whole = k, length // k.width
        self.rest = k.first_lanes(length % k.width) if ragged else None

    def fold(self, state: Sequence[Any], step: Step) -> list[Any]:
        """``state = step(state, offset in bytes, mask)`` for every vector of the row; returns the last state.

        The state is held in registers; the mask is None where all lanes exist.
        """
        k = self.k

        def body(current: list[Any]) -> list[Any]:
            *values, at = current
            return [*step(values, at, None), at + k.bytes]
        *values, at = k.carry(self.whole, [*state, k.same(0)], body)
        return values if self.rest is None else list(step(values, at, self.rest))

    def each(self, act: Callable[[Int, Mask | None], None]) -> None:
        """``act(offset in bytes, mask)`` for every vector of the row."""
        def step(state: list[Any], at: Int, mask: Mask | None) -> list[Any]:
            act(at, mask)
            return state
        self.fold([], step)


def total(k: Kernel, a: Vector) -> Vector:
    """The sum of the lanes, in every lane; always added in the same order."""
    return _across(k, a, lambda x, y: x + y)


def largest(k: Kernel, a: Vector) -> Vector:
    """The largest of the lanes, in every lane."""
    return _across(k, a, lambda x, y: k.select(x > y, x, y))


def _across(k: Kernel, a: Vector, combine: Callable[[Vector, Vector], Vector]) -> Vector:
    by = k.width // 2
    while by:
        a = combine(a, k.rotated(a, by))
        by //= 2
    return a


def keep(k: Kernel, value: Vector, mask: Mask | None, otherwise: float = 0.0) -> Vector:
    """``value`` in the lanes that exist, ``otherwise`` in the others."""
    return value if mask is None else k.select(mask, value, k.constant(otherwise))


def put(k: Kernel, value: Vector, at: Pointer) -> None:
    """Write the first lane."""
    k.store(value, at, k.first_lanes(1))


def contiguous(x: np.ndarray) -> np.ndarray:
    """x, or a copy in C order."""
    if x.flags.c_contiguous:
        return x
    copy = memory.empty(x.shape)
    np.copyto(copy, x)
    return copy
