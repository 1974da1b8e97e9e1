"""Inverted dropout on a GPU, with the same mask as everywhere: the counter alone decides which words a thread draws."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from minidl.kernels.numba_loops import dropout as loops
from minidl.kernels.numba_loops.cuda.launch import array_module, device_function, launch_over

philox = device_function(loops.philox)


@cuda.jit
def dropout_kernel(x, threshold, scale, seed, offset, y):
    """Each thread draws the four words of one counter at a time, and uses them for four elements.

    No thread waits for another, and none keeps a state: word i is a function of i, whoever computes it and when.
    """
    size = x.shape[0]
    for counter in range(cuda.grid(1), (size + 3) // 4, cuda.gridsize(1)):
        words = philox(np.uint64(counter), offset, seed)
        for k in range(min(4, size - 4 * counter)):
            i = 4 * counter + k
            y[i] = x[i] * scale if words[k] >= threshold else x.dtype.type(0) * x[i]


def dropout(x: Any, p: float, key: tuple[int, int]) -> Any:
    threshold, y = round(p * 2**32), array_module().empty(x.size, x.dtype)
    scale = x.dtype.type(1 / (1 - p) if threshold < 2**32 else 0)
    seed, offset = (np.uint64(number & 0xFFFFFFFFFFFFFFFF) for number in key)
    launch_over(dropout_kernel, -(-x.size // 4), x.reshape(-1), np.uint64(threshold), scale, seed, offset, y)
    return y.reshape(x.shape)


def dropout_mask(shape: tuple[int, ...], p: float, key: tuple[int, int], dtype: Any) -> Any:
    dtype = np.dtype(dtype)
    wide = np.dtype(np.float32) if dtype == np.float16 else dtype
    return dropout(array_module().ones(math.prod(shape), wide), p, key).reshape(shape).astype(dtype, copy=False)
