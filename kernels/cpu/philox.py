"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a vector of counters at a time.

The words are those of the other variants, bit for bit, and so is what is made of them here: a uniform number is 24 bits of a
word times a power of two, which rounds nothing.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.dispatch import takes_philox_bits, takes_philox_uniform, vector
from minidl.kernels.cpu.emit import Int, Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, Program, program
from minidl.kernels.plain.philox import MASK, MULTIPLIERS, ROUNDS, WEYL

PIECE = 1 << 12                                      # words of a task, a multiple of the words of a vector of counters
Key = tuple[int, int]


class Stream:
    """The words of a stream inside a kernel, which takes its (seed, offset) as four integers."""

    NAMES = "seed_low", "seed_high", "offset_low", "offset_high"

    def __init__(self, k: Kernel) -> None:
        self.kernel = k
        low, high, *self.offset = k.integers(*self.NAMES)
        self.keys = [[(key + round_ * step) % (MASK + 1) for key, step in zip((low, high), WEYL, strict=True)]
                     for round_ in range(ROUNDS)]

    def words(self, first: Int) -> list[Vector]:
        """Words 4 * first .. 4 * (first + width) - 1 in their order, as four vectors of i32; ``first`` numbers counters."""
        k = self.kernel
        mask = k.constant(MASK, "i64")
        counters = k.spread(first, "i64") + k.lane_numbers("i64")
        state = [counters & mask, (counters >> 32) & mask, *(k.spread(half, "i64") for half in self.offset)]
        for keys in self.keys:                       # 32-bit numbers in lanes of 64, so that products keep their upper halves
            (left, right), (k0, k1) = ([state[2 * i] * k.constant(m, "i64") for i, m in enumerate(MULTIPLIERS)],
                                       [k.spread(key, "i64") for key in keys])
            state = [(right >> 32) & mask ^ state[1] ^ k0, right & mask, (left >> 32) & mask ^ state[3] ^ k1, left & mask]
        a, b, c, d = (k.convert(word, "i32") for word in state)
        even, odd = _interleave(k, a, c), _interleave(k, b, d)
        return [vector for pair in zip(even, odd, strict=True) for vector in _interleave(k, *pair)]


def _interleave(k: Kernel, a: Vector, b: Vector) -> list[Vector]:
    """a0 b0 a1 b1 ..., as two vectors."""
    order = [lane // 2 + k.width * (lane % 2) for lane in range(2 * k.width)]
    return [k.shuffle(a, b, order[: k.width]), k.shuffle(a, b, order[k.width :])]


def write_words(k: Kernel, n: Int, y: Pointer, formula: Callable[[Vector, Int, Any], Vector]) -> None:
    """Store formula(words, place, mask) for each vector of the stream's first n words; ``place`` counts bytes."""
    stream = Stream(k)
    block = 4 * k.width                              # words of a vector of counters
    with k.parallel(k.ceil_div(n, PIECE)) as task:
        start = task * PIECE
        count = k.minimum(PIECE, n - start)

        def write(first: Int, left: Int | None) -> None:
            for i, words in enumerate(stream.words(first // 4)):
                mask = None if left is None else k.first_lanes(left - i * k.width)
                place = first * 4 + i * k.bytes
                k.store(formula(words, place, mask), y + place, mask)

        whole = count // block
        with k.loop(whole) as i:
            write(start + i * block, None)
        with k.when(count % block > 0):
            write(start + whole * block, count % block)


@program
def words_kernel(isa: ISA) -> Kernel:
    """The words themselves."""
    k = Kernel("philox_bits", isa.width)
    y, n = k.pointer("y", "n", element="i32"), k.integer("n")
    write_words(k, n, y, lambda words, place, mask: words)
    return k


@program
def uniform_kernel(isa: ISA) -> Kernel:
    """The upper 24 bits of each word, times 2^-24."""
    k = Kernel("philox_uniform", isa.width)
    y, n = k.pointer("y", "n"), k.integer("n")
    bits = k.constant((1 << 24) - 1, "i32")
    write_words(k, n, y, lambda words, place, mask: k.convert((words >> 8) & bits, "float") * k.constant(2.0**-24))
    return k


@functools.lru_cache(256)
def _options(n: int, key: Key) -> dict[str, int]:
    seed, offset = key
    halves = seed & MASK, seed >> 32 & MASK, offset & MASK, offset >> 32 & MASK
    return {"n": n, **dict(zip(Stream.NAMES, halves, strict=True))}


def launch(kernel: Program, n: int, key: Key, **options: int) -> Launch:
    """The kernel for the first n words of the stream ``key``."""
    return kernel.prepare(**_options(n, key), **options)


@vector("philox_bits", takes_philox_bits)
def philox_bits(seed: int, offset: int, n: int) -> Any:
    y = memory.empty((n,), np.dtype(np.int32))
    launch(words_kernel(), n, (seed, offset))(y=y)
    return y.view(np.uint32)


@vector("philox_uniform", takes_philox_uniform)
def philox_uniform(shape: tuple[int, ...], key: Key, dtype: Any) -> Any:
    y = memory.empty(shape)
    launch(uniform_kernel(), math.prod(shape), key)(y=y)
    return y
