"""What is done to all arrays of a list: moving averages, scaling, the sum of squares.  Block by block, so that a block's passes
read the cache."""
from collections.abc import Iterator, Sequence
from typing import Any

from minidl.kernels.plain.arrays import Array, blocks, wide, widen
from minidl.kernels.registry import plain


def _pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Views of the same elements of all arrays: blocks where all are contiguous, else the whole."""
    if all(a.flags.c_contiguous for a in arrays):
        flat = [a.reshape(-1) for a in arrays]
        for piece in blocks(flat[0].size, flat[0].itemsize, 1 << 17):
            yield tuple(a[piece] for a in flat)
    elif arrays[0].size:
        yield arrays


@plain("ema_")
def ema_(xp: Any, averages: Sequence[Array], values: Sequence[Array], *, decay: float) -> None:
    for pair in zip(averages, values, strict=True):
        for average, value in _pieces(*pair):
            a, v = widen(xp, average, value)
            kept = xp.asarray(a * a.dtype.type(decay))
            kept += v * v.dtype.type(1 - decay)
            average[...] = kept


@plain("scale_")
def scale_(xp: Any, arrays: Sequence[Array], *, factor: float) -> None:
    for array in arrays:
        (values,) = widen(xp, array)
        array[...] = values * values.dtype.type(factor)


@plain("square_sum")
def square_sum(xp: Any, arrays: Sequence[Array]) -> Array:
    dtype = wide(xp, arrays[0].dtype)
    total = xp.zeros((), xp.float64)
    for array in arrays:
        for (piece,) in _pieces(array):
            (values,) = widen(xp, piece)
            total += xp.sum(xp.square(values))
    return total.astype(dtype)
