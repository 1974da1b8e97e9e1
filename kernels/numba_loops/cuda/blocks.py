"""Kernels in which the threads of a block work together: sums over channels and rows, through shared memory.

A block has one channel, or one row.  Thread t takes the elements t, t + THREADS, t + 2 THREADS, ..., so that neighbours read
neighbours, and adds up its own.  Then ``joined`` makes one number of those of all threads.
"""
from __future__ import annotations

import math

import numpy as np
from numba import cuda, float64

from minidl.kernels.numba_loops.cuda.launch import THREADS


@cuda.jit(device=True)
def joined(value, shared, largest):
    """The sum of all threads' values, or the largest; each thread of the block gets it.

    ``shared`` is memory that all threads of a block see.  Each writes its value there, then the first half adds what the
    second half has, then the first quarter adds what the second has, ...: seven steps for 128 threads.
    ``cuda.syncthreads`` is a barrier: no thread goes on before all have arrived, and what they wrote before can be read
    after.
    """
    t = cuda.threadIdx.x
    shared[t] = value
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            other = shared[t + half]
            shared[t] = max(shared[t], other) if largest else shared[t] + other
        half //= 2
    cuda.syncthreads()
    result = shared[0]
    cuda.syncthreads()                  # all have read it: now the memory may be written again
    return result


# ------------------------------------------------------------------------------------------------------ batch normalisation
@cuda.jit
def statistics_kernel(x, eps, means, invstds):
    """A block a channel of x (N, C, S): its mean, then its mean square about the mean."""
    shared = cuda.shared.array(THREADS, float64)
    c, t = cuda.blockIdx.x, cuda.threadIdx.x
    pixels = x.shape[2]
    count = x.shape[0] * pixels
    total = np.float64(0)
    for k in range(t, count, THREADS):
        total += x[k // pixels, c, k % pixels]
    mean = joined(total, shared, False) / max(1, count)
    squares = np.float64(0)
    for k in range(t, count, THREADS):
        squares += (x[k // pixels, c, k % pixels] - mean) ** 2
    variance = joined(squares, shared, False) / max(1, count)
    if t == 0:
        means[c] = mean
        invstds[c] = 1 / math.sqrt(variance + eps)


@cuda.jit
def gradient_sums_kernel(gy, x, means, invstds, gw, gb):
    """A block a channel: the sums of gy * xhat and of gy, which are the gradients of weight and bias."""
    shared = cuda.shared.array(THREADS, float64)
    c, t = cuda.blockIdx.x, cuda.threadIdx.x
    pixels, mean = x.shape[2], means[c]
    total, along = np.float64(0), np.float64(0)
    for k in range(t, x.shape[0] * pixels, THREADS):
        g = gy[k // pixels, c, k % pixels]
        total += g
        along += g * (x[k // pixels, c, k % pixels] - mean)
    total, along = joined(total, shared, False), joined(along, shared, False)
    if t == 0:
        gb[c] = total
        gw[c] = along * invstds[c]


# -------------------------------------------------------------------------------------------------------------- softmax
@cuda.jit
def softmax_kernel(x, y, log):
    """A block a row: its largest value, the sum of exp(x - largest), then the results.

    A NaN is no number's larger, but it makes the sum NaN, and with it the whole row.
    """
    shared = cuda.shared.array(THREADS, float64)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    size = x.shape[1]
    best = -np.inf
    for k in range(t, size, THREADS):
        best = max(best, x[row, k])
    top = x.dtype.type(joined(best, shared, True))
    total = np.float64(0)
    for k in range(t, size, THREADS):
        total += math.exp(x[row, k] - top)
    total = x.dtype.type(joined(total, shared, False))
    logarithm = math.log(total)
    for k in range(t, size, THREADS):
        below = x[row, k] - top
        y[row, k] = below - logarithm if log else math.exp(below) / total


@cuda.jit
def softmax_grad_kernel(gy, y, gx, log):
    """A block a row: y * (gy - sum(gy * y)), and for the logarithm gy - exp(y) * sum(gy)."""
    shared = cuda.shared.array(THREADS, float64)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    size = y.shape[1]
    total = np.float64(0)
    for k in range(t, size, THREADS):
        total += gy[row, k] if log else gy[row, k] * y[row, k]
    total = joined(total, shared, False)
    for k in range(t, size, THREADS):
        gx[row, k] = gy[row, k] - math.exp(y[row, k]) * total if log else y[row, k] * (gy[row, k] - total)
