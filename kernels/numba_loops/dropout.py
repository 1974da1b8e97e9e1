"""Inverted dropout (Srivastava et al. 2014); the mask is Philox4x32-10's (Salmon et al. 2011), as in every variant."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from minidl.kernels.numba_loops.jit import compiled

# Numba makes float64 of an unsigned and a signed integer, so every constant is unsigned.
M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


# ------------------------------------------------------------------------------------------------------- scalar functions
@compiled()
def philox(position, offset, seed):
    """The four 32-bit words of counter (position, offset) under key ``seed``, all three of 64 bits."""
    c0, c1, c2, c3 = position & LOW, position >> HALF, offset & LOW, offset >> HALF
    k0, k1 = seed & LOW, seed >> HALF
    for _ in range(10):
        left, right = c0 * M0, c2 * M1  # 32 times 32 bits: their product has 64
        c0, c1, c2, c3 = (right >> HALF) ^ c1 ^ k0, right & LOW, (left >> HALF) ^ c3 ^ k1, left & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


# ------------------------------------------------------------------------------------------------------------------ loops
@compiled(parallel=True)
def dropout_loops(x, threshold, scale, seed, offset, y):
    """Element i is kept where word i is at least the threshold; one counter has the words of four elements."""
    size = x.shape[0]
    for block in prange((size + 3) // 4):
        words = philox(np.uint64(block), offset, seed)
        for k in range(min(4, size - 4 * block)):
            i = 4 * block + k
            y[i] = x[i] * scale if words[k] >= threshold else x.dtype.type(0) * x[i]


# ---------------------------------------------------------------------------------------------------------------- kernels
def dropout(x: Any, p: float, key: tuple[int, int]) -> Any:
    threshold, y = round(p * 2**32), np.empty(x.size, x.dtype)
    scale = x.dtype.type(1 / (1 - p) if threshold < 2**32 else 0)
    seed, offset = (np.uint64(number & 0xFFFFFFFFFFFFFFFF) for number in key)
    dropout_loops(x.reshape(-1), np.uint64(threshold), scale, seed, offset, y)
    return y.reshape(x.shape)


def dropout_mask(shape: tuple[int, ...], p: float, key: tuple[int, int], dtype: Any) -> Any:
    dtype = np.dtype(dtype)
    wide = np.dtype(np.float32) if dtype == np.float16 else dtype
    return dropout(np.ones(math.prod(shape), wide), p, key).reshape(shape).astype(dtype, copy=False)
