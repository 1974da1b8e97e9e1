"""Philox4x32-10 (Salmon et al. 2011) on whole arrays of counters: the same words as the reference, by construction of the
algorithm, on every backend.

A stream is (seed, offset): seed is the key, offset the upper half of the counter, the position in the stream the lower.
"""
import math
from collections.abc import Iterator
from typing import Any

from minidl.kernels.plain.arrays import Array
from minidl.kernels.registry import plain

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
MASK = 0xFFFFFFFF
_BLOCK = 1 << 13  # counters at a time: eight arrays of 64 KB stay in the cache through all rounds


def _scramble(xp: Any, counters: list[Array], k0: int, k1: int) -> list[Array]:
    """The ten rounds on counters held as 32-bit numbers in uint64, so that products keep their upper halves."""
    c0, c1, c2, c3 = counters
    mask, half = xp.uint64(MASK), xp.uint64(32)
    for _ in range(ROUNDS):
        left, right = c0 * xp.uint64(MULTIPLIERS[0]), c2 * xp.uint64(MULTIPLIERS[1])
        c0 = right >> half
        c0 ^= c1
        c0 ^= xp.uint64(k0)
        c2 = left >> half
        c2 ^= c3
        c2 ^= xp.uint64(k1)
        right &= mask
        left &= mask
        c1, c3 = right, left
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return [c0, c1, c2, c3]


def _blocks(xp: Any, key: tuple[int, int], count: int) -> Iterator[tuple[int, Array]]:
    """The words of the stream's first ``count`` counters, block by block: (first counter, (n, 4) words)."""
    seed, offset = key
    for start in range(0, count, _BLOCK):
        low = xp.arange(start, min(start + _BLOCK, count), dtype=xp.uint64)
        high = low >> xp.uint64(32)
        low &= xp.uint64(MASK)
        stream = [xp.full(low.shape, half, xp.uint64) for half in (offset & MASK, offset >> 32 & MASK)]
        words = xp.empty((len(low), 4), xp.uint32)
        for k, word in enumerate(_scramble(xp, [low, high, *stream], seed & MASK, seed >> 32 & MASK)):
            words[:, k] = word
        yield start, words


def _uniform(words: Array, out: Array) -> None:
    """Fill ``out``, (n, 4) or in float64 (n, 2), with numbers in [0, 1) from words (n, 4)."""
    if out.dtype.itemsize == 8:
        halves = words.reshape(-1, 2, 2)
        out[...] = halves[..., 0] >> 5  # 27 bits, then 26 below them
        out *= 2.0**26
        out += halves[..., 1] >> 6
        out *= 2.0**-53
    else:
        bits = 11 if out.dtype.itemsize == 2 else 24  # what the significand holds: every value is exact and below 1
        out[...] = words >> (32 - bits)
        out *= out.dtype.type(2.0**-bits)


@plain("philox_bits")
def philox_bits(xp: Any, seed: int, offset: int, n: int) -> Array:
    values = xp.empty((-(-n // 4), 4), xp.uint32)
    for start, words in _blocks(xp, (seed, offset), len(values)):
        values[start : start + len(words)] = words
    return values.reshape(-1)[:n]


@plain("philox_uniform")
def philox_uniform(xp: Any, shape: tuple[int, ...], key: tuple[int, int], dtype: Any) -> Array:
    n, dtype = math.prod(shape), xp.dtype(dtype)
    per = 2 if dtype == xp.float64 else 4
    values = xp.empty((-(-n // per), per), dtype)
    for start, words in _blocks(xp, key, len(values)):
        _uniform(words, values[start : start + len(words)])
    return values.reshape(-1)[:n].reshape(shape)


@plain("philox_normal")
def philox_normal(xp: Any, shape: tuple[int, ...], key: tuple[int, int], dtype: Any) -> Array:
    n, dtype = math.prod(shape), xp.dtype(dtype)
    source = xp.dtype(xp.float32) if dtype == xp.float16 else dtype
    per = 2 if dtype == xp.float64 else 4
    values = xp.empty((-(-n // per), per // 2, 2), dtype)
    for start, words in _blocks(xp, key, len(values)):
        u = xp.empty((len(words), per), source)
        _uniform(words, u)
        u = u.reshape(-1, per // 2, 2)
        radius = xp.sqrt(-2 * xp.log1p(-u[..., 0]))
        angle = u[..., 1] * source.type(2 * math.pi)
        block = values[start : start + len(words)]
        block[..., 0] = radius * xp.cos(angle)
        block[..., 1] = radius * xp.sin(angle)
    return values.reshape(-1)[:n].reshape(shape)
