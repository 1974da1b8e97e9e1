"""Rows of a table by index, the gradient that adds rows back, and x[index] += values."""
import math
from typing import Any

from minidl.errors import DataError
from minidl.kernels.plain.arrays import Array, wide, widen
from minidl.kernels.registry import plain


def check(indices: Array, num: int) -> None:
    """A DataError if an index is in no table of ``num`` rows."""
    if indices.size and not (0 <= int(indices.min()) and int(indices.max()) < num):
        found = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        raise DataError(
            f"embedding: index {found} is outside 0..{num - 1}; the table has {num} rows, so check the indices or make it larger"
        )


@plain("embedding")
def embedding(xp: Any, weight: Array, indices: Array) -> Array:
    check(indices, weight.shape[0])
    return xp.take(weight, indices, axis=0)


@plain("embedding_grad")
def embedding_grad(xp: Any, gy: Array, indices: Array, num: int) -> Array:
    check(indices, num)
    (rows,) = widen(xp, gy)
    gweight = xp.zeros((num, gy.shape[-1]), rows.dtype)
    if indices.size:
        # A stable sort brings the rows of each index together in their order, so that the sums do not depend on chance.
        flat = indices.reshape(-1)
        order = xp.argsort(flat, kind="stable")
        flat = flat[order]
        first = xp.concatenate((xp.zeros(1, xp.int64), xp.flatnonzero(flat[1:] != flat[:-1]) + 1))
        gweight[flat[first]] = xp.add.reduceat(rows.reshape(flat.size, gy.shape[-1])[order], first, axis=0)
    return gweight.astype(gy.dtype, copy=False)


def places_of(xp: Any, shape: tuple[int, ...], index: Any, order: list[int]) -> Array:
    """Where the elements x[index] lie, as flat positions in x with its axes in ``order``."""
    there = xp.arange(math.prod(shape), dtype=xp.int64).reshape([shape[axis] for axis in order])
    return there.transpose([order.index(axis) for axis in range(len(shape))])[index]


@plain("add_at_")
def add_at_(xp: Any, x: Array, index: Any, values: Array) -> None:
    places = xp.asarray(places_of(xp, x.shape, index, list(range(x.ndim))))
    if not places.size:
        return
    given = xp.broadcast_to(values, places.shape).reshape(-1)
    # As above: what goes to one place is added in its order, whatever else is added.
    places = places.reshape(-1)
    order = xp.argsort(places, kind="stable")
    places = places[order]
    first = xp.concatenate((xp.zeros(1, xp.int64), xp.flatnonzero(places[1:] != places[:-1]) + 1))
    sums = xp.add.reduceat(given.astype(wide(xp, x.dtype), copy=False)[order], first)
    there = xp.unravel_index(places[first], x.shape) if x.ndim else ()
    x[there] += sums if x.ndim else sums[0]
