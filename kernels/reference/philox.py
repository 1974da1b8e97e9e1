"""Philox4x32-10 as published, one counter at a time.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011: ten rounds of two 32x32 -> 64-bit
products scramble a 128-bit counter under a 64-bit key.  No state: word i of stream (seed, offset) can be computed anywhere.
"""
import math
from typing import Any

import numpy as np

from minidl.kernels.registry import reference

Words = tuple[int, int, int, int]

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key between rounds
ROUNDS = 10
MASK = 0xFFFFFFFF


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Four random words from a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & MASK, (left >> 32) ^ c3 ^ k1, left & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def _halves(number: int) -> tuple[int, int]:
    return number & MASK, number >> 32 & MASK


@reference("philox_bits")
def philox_bits(seed: int, offset: int, n: int) -> np.ndarray:
    words: list[int] = []
    while len(words) < n:
        words.extend(philox4x32((*_halves(len(words) // 4), *_halves(offset)), _halves(seed)))
    return np.array(words[:n], np.uint32)


def _uniform(seed: int, offset: int, n: int, dtype: Any) -> list[float]:
    if dtype == np.float64:
        words = philox_bits(seed, offset, 2 * n).tolist()
        return [((high >> 5) * 2**26 + (low >> 6)) / 2**53 for high, low in zip(words[::2], words[1::2], strict=True)]
    bits = 11 if dtype == np.float16 else 24
    return [(word >> 32 - bits) / 2**bits for word in philox_bits(seed, offset, n).tolist()]


@reference("philox_uniform")
def philox_uniform(shape: tuple[int, ...], key: tuple[int, int], dtype: Any) -> np.ndarray:
    return np.array(_uniform(*key, math.prod(shape), np.dtype(dtype)), dtype).reshape(shape)


@reference("philox_normal")
def philox_normal(shape: tuple[int, ...], key: tuple[int, int], dtype: Any) -> np.ndarray:
    n, dtype = math.prod(shape), np.dtype(dtype)
    source = np.dtype(np.float32) if dtype == np.float16 else dtype
    uniform = _uniform(*key, n + n % 2, source)
    values: list[float] = []
    for u, v in zip(uniform[::2], uniform[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(1 - u))  # 1 - u is in (0, 1]: the logarithm is finite
        values += [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    return np.array(values[:n], dtype).reshape(shape)
