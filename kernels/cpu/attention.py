"""Attention of one head at a time, whose scores never leave the cache.

All five products have one form: numbers of one matrix, broadcast, times rows of another, which are vectors.  So the scores are
computed with a query in each lane, a row per key: then the maximum and the sum of a softmax run down the rows and need
nothing across lanes, and the transposed scores are what the products with values, keys and queries broadcast from.  What must
be turned for this are the queries (and in the backward pass the gradients) of one head, a few thousand numbers.

Lanes beyond the last query hold what was there before: nothing is summed over lanes, and nothing reads them in the end.

Arrays are (N, heads, L, E) over memory in the order of (N, L, heads, E), where a projection wrote them; others are copied.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, functions, memory, threads
from minidl.kernels.cpu.dispatch import takes_attention, takes_attention_grad, vector
from minidl.kernels.cpu.emit import Int, Kernel, Mask, Number, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.lanes import contiguous
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.tiles import accumulators

_TURN = 4                                            # numbers that are turned in one go


class Tile(NamedTuple):
    """A register tile: so many rows of so many vectors."""

    rows: int
    vectors: int


class Matrix(NamedTuple):
    """Numbers at ``at`` + row * ``row`` + step * ``step`` bytes."""

    at: Pointer
    row: Number
    step: Number


def _product(k: Kernel, tile: Tile, rows: Number, vectors: Int, left: Matrix, right: Matrix, count: Number,
             lanes: Callable[[Int, int], Mask | None], store: Callable[[Vector, Int, Int, Mask | None], None]) -> None:
    """store(sum over t < count of left[row][t] * right[t], row, offset of the vector) for all rows and vectors.

    ``rows`` are at least the tile's, and the last tile starts early; ``vectors`` is a multiple of the tile's.  ``lanes`` tells
    which lanes of a vector exist.
    """
    with k.loop(0, vectors, tile.vectors) as first, k.loop(0, rows, tile.rows) as start:
        row = k.minimum(start, rows - tile.rows)
        masks = [lanes(first, v) for v in range(tile.vectors)]
        numbers = [left.at + (row + r) * left.row for r in range(tile.rows)]

        def body(state: list[Any], numbers: Any = numbers, masks: Any = masks) -> list[Any]:
            *sums, at, source = state
            values = [k.load(source + v * k.bytes, masks[v]) for v in range(tile.vectors)]
            result = []
            for r, number in enumerate(numbers):
                factor = k.broadcast(number + at)
                result += [k.fma(factor, values[v], sums[r * tile.vectors + v]) for v in range(tile.vectors)]
            return [*result, at + left.step, source + right.step]

        nothing = [k.constant(0)] * (tile.rows * tile.vectors)
        sums = k.carry(count, [*nothing, k.same(0), right.at + first * k.bytes], body)
        for r in range(tile.rows):
            for v in range(tile.vectors):
                store(sums[r * tile.vectors + v], row + r, (first + v) * k.bytes, masks[v])


def _turn(k: Kernel, source: Pointer, source_row: Int, rows: Int, length: Int, target: Pointer, target_row: Int) -> None:
    """target[j][i] = source[i][j]."""
    with k.loop(rows) as i:
        column, line = target + i * 4, source + i * source_row
        whole = length // _TURN * _TURN
        with k.loop(0, whole, _TURN) as j:
            for u in range(_TURN):
                k.copy_float(line + (j + u) * 4, column + (j + u) * target_row)
        with k.loop(whole, length) as j:
            k.copy_float(line + j * 4, column + j * target_row)


class _Head:
    """What both kernels are told, and where the arrays of one head lie."""

    def __init__(self, k: Kernel, score_tile: Tile, value_tile: Tile, ragged: bool) -> None:
        self.k, self.score_tile, self.value_tile = k, score_tile, value_tile
        self.images, self.heads, self.queries, self.keys, self.size = k.integers("images", "heads", "queries", "keys", "size")
        self.padded = k.integer("padded")            # floats of a row of scores: whole vectors, whole tiles
        self.line, self.row = self.padded * 4, self.heads * self.size * 4
        self.score_vectors, self.value_vectors = self.padded // k.width, k.ceil_div(self.size, k.width)
        self.ragged = ragged

    def lanes(self, first: Int, v: int) -> Mask | None:
        """Which lanes of the vectors along E exist."""
        return self.k.first_lanes(self.size - (first + v) * self.k.width) if self.ragged else None

    def of(self, array: Pointer, task: Int, length: Int) -> Pointer:
        """The first number of the head's part of an array."""
        return array + task // self.heads * length * self.row + task % self.heads * self.size * 4

    def scores(self, left: Pointer, turned: Pointer, target: Pointer) -> None:
        """target[key][query] = left[key] . turned[:, query]."""
        def store(value: Vector, row: Int, at: Int, mask: Mask | None) -> None:
            self.k.store(value, target + row * self.line + at)
        _product(self.k, self.score_tile, self.keys, self.score_vectors, Matrix(left, self.row, 4),
                 Matrix(turned, 0, self.line), self.size, lambda first, v: None, store)

    def mix(self, scores: Pointer, by_key: bool, right: Pointer, target: Pointer) -> None:
        """target[i] = sum of scores times the rows of ``right``: over queries for every key, or over keys for every query."""
        def store(value: Vector, row: Int, at: Int, mask: Mask | None) -> None:
            self.k.store(value, target + row * self.row + at, mask)
        rows, count = (self.keys, self.queries) if by_key else (self.queries, self.keys)
        left = Matrix(scores, self.line, 4) if by_key else Matrix(scores, 4, self.line)
        _product(self.k, self.value_tile, rows, self.value_vectors, left, Matrix(right, 0, self.row), count, self.lanes, store)

    def down(self, at: Pointer, state: list[Any], step: Callable[[list[Any], Pointer], list[Any]]) -> list[Any]:
        """Walk down a column of vectors, one row per key."""
        def body(current: list[Any]) -> list[Any]:
            *values, place = current
            return [*step(values, place), place + self.line]
        return self.k.carry(self.keys, [*state, at], body)[:-1]


def _name(score_tile: Tile, value_tile: Tile, ragged: bool) -> str:
    return "".join(f"_{tile.rows}x{tile.vectors}" for tile in (score_tile, value_tile)) + "_ragged" * ragged


@program
def attention_kernel(isa: ISA, score_tile: Tile, value_tile: Tile, ragged: bool) -> Kernel:
    """y = softmax(scale q k') v of every head; the weights are kept, a row per key."""
    k = Kernel("attention" + _name(score_tile, value_tile, ragged), isa.width)
    q, y = k.pointers("q", "y", size=["images", "queries", "heads", "size"])
    keys, v = k.pointers("k", "v", size=["images", "keys", "heads", "size"])
    weights, scale = k.pointer("weights", "images", "heads", "keys", "padded"), k.broadcast(k.pointer("scale", 1))
    scratch = k.pointer("scratch", "threads_most", "size", "padded")
    head = _Head(k, score_tile, value_tile, ragged)
    k.integer("threads_most")
    turned = scratch + k.thread * head.size * head.line
    with k.parallel(head.images * head.heads) as task:
        mine = weights + task * head.keys * head.line
        _turn(k, head.of(q, task, head.queries), head.row, head.queries, head.size, turned, head.line)
        head.scores(head.of(keys, task, head.keys), turned, mine)
        with k.loop(head.score_vectors) as column:
            at = mine + column * k.bytes

            def larger(state: list[Any], place: Pointer) -> list[Any]:
                value = k.load(place) * scale
                return [k.select(value > state[0], value, state[0])]
            (highest,) = head.down(at, [k.constant(-math.inf)], larger)

            def add(state: list[Any], place: Pointer, highest: Vector = highest) -> list[Any]:
                power = functions.exp(k, k.load(place) * scale - highest)
                k.store(power, place)
                return [state[0] + power]
            share = k.constant(1) / head.down(at, [k.constant(0)], add)[0]

            def divide(state: list[Any], place: Pointer, share: Vector = share) -> list[Any]:
                k.store(k.load(place) * share, place)
                return state
            head.down(at, [], divide)
        head.mix(mine, False, head.of(v, task, head.keys), head.of(y, task, head.queries))
    return k


@program
def attention_grad_kernel(isa: ISA, score_tile: Tile, value_tile: Tile, ragged: bool) -> Kernel:
    """gv = weights' g; gs = scale weights (g v' - the mean that the weights give it); gq = gs k; gk = gs' q."""
    k = Kernel("attention_grad" + _name(score_tile, value_tile, ragged), isa.width)
    g, q, gq = k.pointers("g", "q", "gq", size=["images", "queries", "heads", "size"])
    keys, v, gk, gv = k.pointers("k", "v", "gk", "gv", size=["images", "keys", "heads", "size"])
    weights, scale = k.pointer("weights", "images", "heads", "keys", "padded"), k.broadcast(k.pointer("scale", 1))
    scratch = k.pointer("scratch", "threads_most", lambda n: n["size"] + n["keys"], "padded")
    head = _Head(k, score_tile, value_tile, ragged)
    k.integer("threads_most")
    turned = scratch + k.thread * (head.size + head.keys) * head.line
    slopes = turned + head.size * head.line
    with k.parallel(head.images * head.heads) as task:
        mine, gradient = weights + task * head.keys * head.line, head.of(g, task, head.queries)
        _turn(k, gradient, head.row, head.queries, head.size, turned, head.line)
        head.scores(head.of(v, task, head.keys), turned, slopes)
        with k.loop(head.score_vectors) as column:
            at, beside = slopes + column * k.bytes, mine + column * k.bytes

            def add(state: list[Any], place: Pointer) -> list[Any]:
                total, weight = state
                return [k.fma(k.load(place), k.load(weight), total), weight + head.line]
            level, _ = head.down(at, [k.constant(0), beside], add)

            def centre(state: list[Any], place: Pointer, level: Vector = level) -> list[Any]:
                (weight,) = state
                k.store((k.load(place) - level) * (k.load(weight) * scale), place)
                return [weight + head.line]
            head.down(at, [beside], centre)
        head.mix(mine, True, gradient, head.of(gv, task, head.keys))
        head.mix(slopes, True, head.of(q, task, head.queries), head.of(gk, task, head.keys))
        head.mix(slopes, False, head.of(keys, task, head.keys), head.of(gq, task, head.queries))
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
def tiles_for(isa: ISA, queries: int, keys: int, size: int) -> tuple[Tile, Tile, int]:
    """The tiles of scores and of values, and how many floats a row of scores takes."""
    most = accumulators(isa)
    tall, wide = -(-queries // isa.width), -(-size // isa.width)
    # Few tiles beside each other, hardly any padding, and at least four rows, to use what was loaded four times.
    across = min(range(1, most // 4 + 1), key=lambda n: (-(-tall // n) * n, -n))
    along = max(n for n in range(1, most // 4 + 1) if wide % n == 0)
    scores, values = min(most // across, keys, 8), min(most // along, queries, keys, 8)
    return Tile(scores, across), Tile(values, along), -(-tall // across) * across * isa.width


class _Plan(NamedTuple):
    """What is worked out once per shape."""

    forward: Launch
    backward: Launch
    padded: int
    scratch: int


@functools.lru_cache(512)
def _plan(images: int, heads: int, queries: int, keys: int, size: int, most: int) -> _Plan:
    isa = engine.host_isa()
    scores, values, padded = tiles_for(isa, queries, keys, size)
    integers = {"images": images, "heads": heads, "queries": queries, "keys": keys, "size": size, "padded": padded,
                "threads_most": most}
    forward, backward = (build(scores, values, size % isa.width > 0).prepare(**integers)
                         for build in (attention_kernel, attention_grad_kernel))
    return _Plan(forward, backward, padded, most * (size + keys) * padded)


def _plan_for(q: np.ndarray, k: np.ndarray) -> _Plan:
    n, heads, queries, size = q.shape
    return _plan(n, heads, queries, k.shape[2], size, threads.get_num_threads())


def _inside_out(a: np.ndarray) -> np.ndarray:
    """(N, heads, L, E) as (N, L, heads, E) in C order."""
    return contiguous(a.transpose(0, 2, 1, 3))


def _like(a: np.ndarray) -> np.ndarray:
    n, heads, length, size = a.shape
    return memory.empty((n, length, heads, size))


def _rows_of_keys(weights: np.ndarray, padded: int) -> np.ndarray:
    """The weights (N, heads, L, S) as the kernel keeps them, (N, heads, S, padded): where they came from, or a copy."""
    n, heads, queries, keys = weights.shape
    base = weights.base
    if isinstance(base, np.ndarray) and base.shape == (n, heads, keys, padded) and base.flags.c_contiguous \
            and base[..., :queries].swapaxes(2, 3).__array_interface__ == weights.__array_interface__:
        return base
    copy = memory.empty((n, heads, keys, padded))
    copy[..., :queries] = weights.swapaxes(2, 3)
    return copy


@vector("attention", takes_attention)
def attention(q: Any, k: Any, v: Any, scale: float) -> Any:
    plan, y = _plan_for(q, k), _like(q)
    weights = memory.empty((*k.shape[:3], plan.padded))
    plan.forward(q=_inside_out(q), k=_inside_out(k), v=_inside_out(v), y=y, weights=weights,
                 scale=np.array([scale], np.float32), scratch=memory.scratch("scores", plan.scratch))
    return y.transpose(0, 2, 1, 3), weights[..., : q.shape[2]].swapaxes(2, 3)


@vector("attention_grad", takes_attention_grad)
def attention_grad(gy: Any, q: Any, k: Any, v: Any, weights: Any, scale: float) -> Any:
    plan = _plan_for(q, k)
    gq, gk, gv = (_like(a) for a in (q, k, v))
    plan.backward(g=_inside_out(gy), q=_inside_out(q), k=_inside_out(k), v=_inside_out(v), gq=gq, gk=gk, gv=gv,
                  weights=_rows_of_keys(weights, plan.padded), scale=np.array([scale], np.float32),
                  scratch=memory.scratch("scores", plan.scratch))
    return tuple(a.transpose(0, 2, 1, 3) for a in (gq, gk, gv))
