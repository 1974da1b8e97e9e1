"""Filters as users keep them, (O, C, r, r), read as vectors of lanes.

In a convolution the lanes are output channels, in its transpose they are input channels.  Either way a lane's taps are r * r
neighbours in memory: one masked load per lane, and a transposition in registers turns ``width`` lanes of taps into r * r
vectors of lanes.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minidl.kernels.cpu.emit import Int, Kernel, Number, Pointer, Vector

AHEAD = 4                                            # channels between what is read and what is asked for

Square = list[list[Vector]]


def transpose(k: Kernel, rows: Sequence[Vector]) -> list[Vector]:
    """``width`` vectors as a square matrix, transposed: result[i] holds lane i of every row."""
    if len(rows) != k.width or k.width & (k.width - 1):
        raise ValueError(f"transpose: needs {k.width} vectors, a power of two, found {len(rows)}")
    square, half = list(rows), k.width // 2
    while half:                                      # exchange the off-diagonal quarters of every block of 2 * half
        keep = [lane if not lane & half else k.width + lane - half for lane in range(k.width)]
        take = [lane + half if not lane & half else k.width + lane for lane in range(k.width)]
        for i in range(k.width):
            if not i & half:
                a, b = square[i], square[i + half]
                square[i], square[i + half] = k.shuffle(a, b, keep), k.shuffle(a, b, take)
        half //= 2
    return square


def lane_reader(k: Kernel, w: Pointer, count: int, lanes: Int, lane_step: Int, channel_step: Int,
                first: Int) -> Callable[[Number], list[Vector]]:
    """What reads the ``count`` taps of a channel as vectors of the ``width`` lanes from ``first`` on.

    ``lane_step`` and ``channel_step`` are floats between neighbouring lanes and channels; lanes beyond the last one read it
    again.
    """
    places = [w + k.minimum(first + i, lanes - 1) * lane_step * 4 for i in range(k.width)]

    def read(channel: Number) -> list[Vector]:
        offset: Any = channel * channel_step * 4
        vectors: list[Vector] = []
        for start in range(0, count, k.width):
            mask = k.first_lanes(count - start) if count - start < k.width else None
            for place in places:
                k.prefetch(place + offset + 4 * start + AHEAD * channel_step * 4)
            vectors += transpose(k, [k.load(place + offset + 4 * start, mask) for place in places])
        return vectors[:count]

    return read


def filter_reader(k: Kernel, w: Pointer, taps: int, turned: bool, lanes: Int, lane_step: Int, channel_step: Int,
                  first: Int) -> Callable[[Number], Square]:
    """:func:`lane_reader` for taps x taps filters; ``turned`` turns them by 180 degrees."""
    read_lanes = lane_reader(k, w, taps * taps, lanes, lane_step, channel_step, first)

    def read(channel: Number) -> Square:
        vectors = read_lanes(channel)
        if turned:
            vectors.reverse()
        return [vectors[i : i + taps] for i in range(0, taps * taps, taps)]

    return read


def store_filter(k: Kernel, square: Square, gw: Pointer, lanes: Int, lane_step: Int, channel_step: Int, first: Int,
                 channel: Number, ragged: bool) -> None:
    """Write the taps x taps vectors of a channel where :func:`filter_reader` would read them; ``ragged``: lanes may end."""
    vectors = [vector for line in square for vector in line]
    for start in range(0, len(vectors), k.width):
        some = vectors[start : start + k.width]
        rows = transpose(k, some + [k.constant(0)] * (k.width - len(some)))
        mask = k.first_lanes(len(some)) if len(some) < k.width else None
        for i, row in enumerate(rows):
            at = gw + (first + i) * lane_step * 4 + channel * channel_step * 4 + 4 * start
            if ragged:
                with k.when(first + i < lanes):
                    k.store(row, at, mask)
            else:
                k.store(row, at, mask)
