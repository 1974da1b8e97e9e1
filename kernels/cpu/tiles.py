"""The inner loops: register tiles, written once for every instruction set.

A tile holds pixels x vectors accumulators in registers, and each step multiplies one broadcast number per pixel with one vector
per column of the tile.  A 16-wide machine with 32 registers keeps 24 accumulators and is limited by its multipliers, not by
its loads; with 16 registers there is room for 12, or for 8 without a fused multiply-add.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.kernels.cpu.emit import Int, Kernel, Mask, Number, Pointer, Vector
from minidl.kernels.cpu.engine import ISA


def accumulators(isa: ISA) -> int:
    """How many registers a tile may keep for its sums; the rest holds weights and broadcasts.

    The portable form multiplies, then adds: a product takes a register of its own, and the weights stay in theirs.
    """
    if isa.registers >= 32:
        return 24
    return 12 if isa.width > 4 else 8


def choose_tile(isa: ISA, columns: int, vectors: int) -> tuple[int, int]:
    """(pixels, vectors per tile) for rows of ``columns`` outputs and ``vectors`` vectors of output channels.

    Wide tiles of several vectors read each pixel fewer times.  A row that a tile does not divide ends with a tile that starts
    early, so the pixels are chosen to waste little on that.
    """
    wide = next(n for n in (3, 2, 1) if vectors % n == 0 and accumulators(isa) // n >= 4)
    if vectors % 2 == 0 and wide != 2 and columns > 4:
        wide = 2
    most = min(accumulators(isa) // wide, 16)
    if columns <= most:
        return max(columns, 1), wide
    # The cost of a row: its tiles, each with a little overhead of its own.
    return min(range(max(most // 2, 1), most + 1), key=lambda pixels: -(-columns // pixels) * (pixels + 0.5)), wide


def accumulate(k: Kernel, pixels: int, vectors: int, start: Sequence[Vector], x: Pointer, w: Pointer, channels: Number,
               block_stride: Number, pixel_step: int = 0) -> list[Any]:
    """Add ``channels`` products to a tile: start[p * vectors + v] += x[pixel p][channel] * w[channel][v].

    ``x`` is blocked: a pixel is one vector of channels, pixels follow each other, and the next ``width`` channels are
    ``block_stride`` bytes on.  ``w`` is dense: ``vectors`` vectors per channel.  A few channels, known when the kernel is
    built, need no loop; their pixels may then be ``pixel_step`` bytes apart.

    Returns the sums.
    """
    step = vectors * k.bytes

    def channel(sums: list[Vector], x: Pointer, w: Pointer, number: int) -> list[Vector]:
        weights = [k.load(w + number * step + v * k.bytes) for v in range(vectors)]
        result = []
        for p in range(pixels):
            pixel = k.broadcast(x + (p * (pixel_step or k.bytes) + 4 * number))
            result += [k.fma(pixel, weights[v], sums[p * vectors + v]) for v in range(vectors)]
        return result

    def run(unroll: int) -> Any:
        def body(state: list[Any]) -> list[Any]:
            *sums, x, w = state
            for number in range(unroll):
                sums = channel(sums, x, w, number)
            return [*sums, x + 4 * unroll, w + unroll * step]
        return body

    if type(channels) is int:
        return run(channels)([*start, x, w])[:-2]
    unroll = 4 if k.width % 4 == 0 else 1

    def block(state: list[Any]) -> list[Any]:
        *_, x, _ = state
        *sums, _, w = k.carry(k.width // unroll, state, run(unroll))
        return [*sums, x + block_stride, w]

    state = k.carry(channels // k.width, [*start, x, w], block)
    return k.carry(channels % k.width, state, run(1))[:-2]


def accumulate_taps(k: Kernel, pixels: int, vectors: int, start: Sequence[Vector], x: Pointer, taps: Pointer, count: Int,
                    w: Pointer, tap_stride: Number, channels: Number, block_stride: Number, pixel_step: int = 0) -> list[Any]:
    """:func:`accumulate` over a filter: ``taps`` is a table of ``count`` byte offsets into x, each with its own weights."""

    def tap(state: list[Any]) -> list[Any]:
        *sums, taps, w = state
        sums = accumulate(k, pixels, vectors, sums, x + k.load_integer(taps), w, channels, block_stride, pixel_step)
        return [*sums, taps + 8, w + tap_stride]

    return k.carry(count, [*start, taps, w], tap)[:-2]


def correlate(k: Kernel, taps: Sequence[Int], channels: int, vectors: int, x: Pointer, x_row: Number, g: Pointer,
              g_row: Number, g_pixel: Number, g_vector: Number, rows: Number, columns: Number, target: Pointer,
              tap_stride: Number, last: Mask | None = None) -> None:
    """The tile of the weight gradient: target[tap][channel][vector] += sum over pixels of x[pixel + tap][channel] * g[pixel].

    ``taps`` are byte offsets into x, whose pixels are one vector apart.  ``last`` masks the last vector of g.  The tile's own sum
    begins at 0 and is added to the target at the end: many short sums lose fewer digits than one long one.
    """
    places = [target + t * tap_stride + (c * vectors + v) * k.bytes
              for t in range(len(taps)) for c in range(channels) for v in range(vectors)]

    def pixel(state: list[Any]) -> list[Any]:
        *sums, x, g = state
        gradients = [k.load(g + v * g_vector, last if v == vectors - 1 else None) for v in range(vectors)]
        result: list[Vector] = []
        for tap in taps:
            here = x + tap
            for c in range(channels):
                value = k.broadcast(here + 4 * c)
                result += [k.fma(value, gradients[v], sums[len(result) + v]) for v in range(vectors)]
        return [*result, x + k.bytes, g + g_pixel]

    def row(state: list[Any]) -> list[Any]:
        *_, x, g = state
        *sums, _, _ = k.carry(columns, state, pixel)
        return [*sums, x + x_row, g + g_row]

    sums = k.carry(rows, [*[k.constant(0)] * len(places), x, g], row)[:-2]
    for value, place in zip(sums, places, strict=True):
        k.store(k.load(place) + value, place)
