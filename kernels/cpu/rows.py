"""Kernels over the rows of a channels-last array: batch normalisation.

An array (N, ..., C) is rows of C channels.  Statistics are sums over rows: float32 in registers over a chunk of CHUNK rows,
about a shift (the chunk's first row) so that a large mean costs no digits; chunks are combined in float64 (Chan, Golub and
LeVeque 1979).  Chunks depend on the shape only, so the result does not depend on the number of threads.
"""
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.emit import Int, Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, program

CHUNK = 512
_UNROLL = 4                                          # independent chains of sums, to hide the latency of an addition


def add_up(k: Kernel, count: Int, pointers: list[Pointer], row_bytes: Int, add: Any, number: int) -> list[Vector]:
    """``number`` sums over ``count`` rows; ``add(sums, pointers)`` adds one row to them.  In _UNROLL interleaved chains."""
    nothing = k.constant(0)

    def rows(unroll: int) -> Any:
        def body(state: list[Any]) -> list[Any]:
            sums, at = state[: number * _UNROLL], state[number * _UNROLL :]
            for u in range(unroll):
                chain = slice(u * number, (u + 1) * number)
                sums[chain] = add(sums[chain], [p + u * row_bytes for p in at])
            return [*sums, *(p + unroll * row_bytes for p in at)]
        return body

    state = k.carry(count // _UNROLL, [*[nothing] * (number * _UNROLL), *pointers], rows(_UNROLL))
    state = k.carry(count % _UNROLL, state, rows(1))
    total = list(state[:number])
    for u in range(1, _UNROLL):
        total = [a + b for a, b in zip(total, state[u * number : (u + 1) * number], strict=True)]
    return total


def columns(k: Kernel, channels: Int, ragged: bool) -> Any:
    """Loop over the vectors of a row: (byte offset, mask)."""
    return k.ceil_div(channels, k.width), (lambda v: k.first_lanes(channels - v * k.width) if ragged else None)


@program
def moments(isa: ISA, ragged: bool) -> Kernel:
    """Per chunk of rows and channel: the shift, the sum of x - shift, and the sum of its squares."""
    k = Kernel("moments" + "_ragged" * ragged, isa.width)
    x, out = k.pointer("x", "rows", "channels"), k.pointer("out", "chunks", 3, "channels")
    rows, channels, chunk, chunks = k.integers("rows", "channels", "chunk", "chunks")
    row_bytes = channels * 4
    vectors, mask_of = columns(k, channels, ragged)
    with k.parallel(chunks) as task:
        first = task * chunk
        count = k.minimum(chunk, rows - first)
        with k.loop(vectors) as v:
            mask, at = mask_of(v), x + first * row_bytes + v * k.bytes
            shift = k.load(at, mask)

            def add(sums: list[Vector], at: list[Pointer], shift: Vector = shift, mask: Any = mask) -> list[Vector]:
                centred = k.load(at[0], mask) - shift
                return [sums[0] + centred, k.fma(centred, centred, sums[1])]

            total, squares = add_up(k, count, [at], row_bytes, add, 2)
            target = out + task * (3 * row_bytes) + v * k.bytes
            for i, value in enumerate((shift, total, squares)):
                k.store(value, target + i * row_bytes, mask)
    return k


@program
def gradient_sums(isa: ISA, ragged: bool, relu: str = "") -> Kernel:
    """Per chunk of rows and channel: the sum of g, and the sum of g * (x - centre).

    After a ReLU, g counts where its result was positive: with ``relu="x"`` that is computed again from x, which costs no
    memory traffic; with ``relu="y"``, where something was added in between, it is read, and g is stored as it then is.
    """
    k = Kernel("gradient_sums" + relu + "_ragged" * ragged, isa.width)
    g, x = k.pointers("g", "x", size=["rows", "channels"])
    y, masked = k.pointers("y", "masked", size=["rows", "channels"]) if relu == "y" else (x, x)
    coefficients, out = k.pointer("coefficients", 3, "channels"), k.pointer("out", "chunks", 2, "channels")
    rows, channels, chunk, chunks = k.integers("rows", "channels", "chunk", "chunks")
    row_bytes = channels * 4
    vectors, mask_of = columns(k, channels, ragged)
    with k.parallel(chunks) as task:
        first = task * chunk
        count = k.minimum(chunk, rows - first)
        with k.loop(vectors) as v:
            mask, at = mask_of(v), first * row_bytes + v * k.bytes
            centre, scale, shift = (k.load(coefficients + i * row_bytes + v * k.bytes, mask) for i in range(3))

            def add(sums: list[Vector], at: list[Pointer], mask: Any = mask, line: Any = (centre, scale, shift)) -> list[Vector]:
                centre, scale, shift = line
                gradient, centred = k.load(at[0], mask), k.load(at[1], mask) - centre
                if relu:
                    result = k.load(at[2], mask) if relu == "y" else k.fma(centred, scale, shift)
                    gradient = k.select(result > k.constant(0), gradient, k.constant(0))
                if relu == "y":
                    k.store(gradient, at[3], mask)
                return [sums[0] + gradient, k.fma(gradient, centred, sums[1])]

            places = [g + at, x + at, *([y + at, masked + at] if relu == "y" else [])]
            total, product = add_up(k, count, places, row_bytes, add, 2)
            target = out + task * (2 * row_bytes) + v * k.bytes
            k.store(total, target, mask)
            k.store(product, target + row_bytes, mask)
    return k


@program
def affine(isa: ISA, ragged: bool, relu: bool = False, residual: bool = False) -> Kernel:
    """y = (x - centre) * scale + shift, per channel; with ``residual`` plus another array, with ``relu`` at least 0."""
    k = Kernel("affine" + "_residual" * residual + "_relu" * relu + "_ragged" * ragged, isa.width)
    x, y = k.pointers("x", "y", size=["rows", "channels"])
    other = k.pointer("residual", "rows", "channels") if residual else x
    coefficients = k.pointer("coefficients", 3, "channels")
    rows, channels, chunk, chunks = k.integers("rows", "channels", "chunk", "chunks")
    row_bytes = channels * 4
    vectors, mask_of = columns(k, channels, ragged)
    with k.parallel(chunks) as task:
        first = task * chunk
        with k.loop(vectors) as v:
            mask, at = mask_of(v), first * row_bytes + v * k.bytes
            centre, scale, shift = (k.load(coefficients + i * row_bytes + v * k.bytes, mask) for i in range(3))

            def body(state: list[Pointer]) -> list[Pointer]:
                x, y, other = state
                value = k.fma(k.load(x, mask) - centre, scale, shift)
                if residual:
                    value = value + k.load(other, mask)
                if relu:
                    value = k.select(k.constant(0) > value, k.constant(0), value)
                k.store(value, y, mask)
                return [x + row_bytes, y + row_bytes, other + row_bytes]

            k.carry(k.minimum(chunk, rows - first), [x + at, y + at, other + at], body)
    return k


@program
def affine_grad(isa: ISA, ragged: bool, relu: bool = False) -> Kernel:
    """gx = g * scale + ((x - centre) * by_x + constant), per channel; with ``relu``, g counts where its result was positive."""
    k = Kernel("affine_grad" + "_relu" * relu + "_ragged" * ragged, isa.width)
    g, x, gx = k.pointers("g", "x", "gx", size=["rows", "channels"])
    coefficients = k.pointer("coefficients", 5, "channels")
    rows, channels, chunk, chunks = k.integers("rows", "channels", "chunk", "chunks")
    row_bytes = channels * 4
    vectors, mask_of = columns(k, channels, ragged)
    with k.parallel(chunks) as task:
        first = task * chunk
        with k.loop(vectors) as v:
            mask, at = mask_of(v), first * row_bytes + v * k.bytes
            centre, by_x, constant, scale, shift = (k.load(coefficients + i * row_bytes + v * k.bytes, mask) for i in range(5))

            def body(state: list[Pointer]) -> list[Pointer]:
                g, x, gx = state
                gradient, centred = k.load(g, mask), k.load(x, mask) - centre
                if relu:
                    gradient = k.select(k.fma(centred, scale, shift) > k.constant(0), gradient, k.constant(0))
                k.store(k.fma(gradient, scale, k.fma(centred, by_x, constant)), gx, mask)
                return [g + row_bytes, x + row_bytes, gx + row_bytes]

            k.carry(k.minimum(chunk, rows - first), [g + at, x + at, gx + at], body)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
@functools.lru_cache(512)
def _launch(build: Any, ragged: bool, rows: int, channels: int, *options: Any) -> Launch:
    return build(ragged, *options).prepare(rows=rows, channels=channels, chunk=CHUNK, chunks=-(-rows // CHUNK))


class Rows:
    """A C-contiguous (..., C) array as rows, cut into chunks."""

    def __init__(self, x: np.ndarray, width: int) -> None:
        self.x, self.channels = x, x.shape[-1]
        self.rows = x.size // max(self.channels, 1)
        self.chunks = -(-self.rows // CHUNK)
        self._shape = self.channels % width > 0, self.rows, self.channels

    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Per channel, float64; the variance divides by the number of rows."""
        out = memory.empty((self.chunks, 3, self.channels))
        _launch(moments, *self._shape)(x=self.x, out=out)
        shift, total, squares = out.astype(np.float64).transpose(1, 0, 2)
        counts = np.full((self.chunks, 1), float(CHUNK))
        counts[-1] = self.rows - (self.chunks - 1) * CHUNK
        means = shift + total / counts               # of each chunk
        mean = (means * counts).sum(axis=0) / self.rows
        spread = squares - total * total / counts    # about its own mean
        variance = (spread + counts * (means - mean) ** 2).sum(axis=0) / self.rows
        return mean, np.maximum(variance, 0)

    def affine(self, centre: Any, scale: Any, shift: Any, relu: bool = False, residual: np.ndarray | None = None) -> np.ndarray:
        """(x - centre) * scale + shift, plus ``residual``, at least 0 if ``relu``."""
        y = memory.empty(self.x.shape)
        more = {} if residual is None else {"residual": residual}
        launch = _launch(affine, *self._shape, relu, residual is not None)
        launch(x=self.x, y=y, coefficients=self._stack(centre, scale, shift), **more)
        return y

    def gradient(self, g: np.ndarray, w: Any, b: Any, mean: np.ndarray, invstd: np.ndarray, relu: str = "",
                 y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(gx, gw, gb, g) of batch normalisation; ``relu`` as :func:`gradient_sums` has it, the g returned is behind it."""
        scale = invstd if w is None else invstd * w
        shift, out = 0 if b is None else b, memory.empty((self.chunks, 2, self.channels))
        more: dict[str, np.ndarray] = {}
        if relu == "y" and y is not None:
            more = {"y": y, "masked": memory.empty(self.x.shape)}
        _launch(gradient_sums, *self._shape, relu)(g=g, x=self.x, coefficients=self._stack(mean, scale, shift), out=out, **more)
        g = more.get("masked", g)
        gb, along = out.sum(axis=0, dtype=np.float64)
        gw = along * invstd
        by_x, constant = -scale * invstd * gw / self.rows, -scale * gb / self.rows
        gx = memory.empty(self.x.shape)
        table = self._stack(mean, by_x, constant, scale, shift)
        _launch(affine_grad, *self._shape, relu == "x")(g=g, x=self.x, gx=gx, coefficients=table)
        return gx, gw.astype(np.float32), gb.astype(np.float32), g

    def _stack(self, *vectors: Any) -> np.ndarray:
        table = np.empty((len(vectors), self.channels), np.float32)
        for row, values in zip(table, vectors, strict=True):
            row[...] = values
        return table
