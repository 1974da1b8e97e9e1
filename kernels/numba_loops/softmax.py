"""Softmax and its logarithm, as loops over rows: first the largest, then the sum of exp(x - largest), then the result.

A row holds the values along the axis.  Its sum is float64.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from minidl.kernels.numba_loops.jit import compiled


# ------------------------------------------------------------------------------------------------------- scalar functions
@compiled()
def row_max(x, row):
    """The largest value of a row; a NaN in it is found by the sum."""
    best = x[row, 0]
    for k in range(1, x.shape[1]):
        if x[row, k] > best:
            best = x[row, k]
    return best


@compiled()
def row_sum(x, row, best):
    """The sum of exp(x - best) over a row."""
    total = 0.0
    for k in range(x.shape[1]):
        total += math.exp(x[row, k] - best)
    return total


# ------------------------------------------------------------------------------------------------------------------ loops
@compiled(parallel=True)
def softmax_loops(x, y):
    for row in prange(x.shape[0]):
        best = row_max(x, row)
        total = row_sum(x, row, best)
        for k in range(x.shape[1]):
            y[row, k] = math.exp(x[row, k] - best) / total


@compiled(parallel=True)
def softmax_grad_loops(gy, y, gx):
    for row in prange(y.shape[0]):
        inner = 0.0
        for k in range(y.shape[1]):
            inner += gy[row, k] * y[row, k]
        for k in range(y.shape[1]):
            gx[row, k] = y[row, k] * (gy[row, k] - inner)


@compiled(parallel=True)
def log_softmax_loops(x, y):
    for row in prange(x.shape[0]):
        best = row_max(x, row)
        logarithm = math.log(row_sum(x, row, best))
        for k in range(x.shape[1]):
            y[row, k] = x[row, k] - best - logarithm


@compiled(parallel=True)
def log_softmax_grad_loops(gy, y, gx):
    for row in prange(y.shape[0]):
        total = 0.0
        for k in range(y.shape[1]):
            total += gy[row, k]
        for k in range(y.shape[1]):
            gx[row, k] = gy[row, k] - math.exp(y[row, k]) * total


# ---------------------------------------------------------------------------------------------------------------- kernels
def softmax(x: Any, axis: int) -> Any:
    return _by_rows(softmax_loops, axis, x)


def softmax_grad(gy: Any, y: Any, axis: int) -> Any:
    return _by_rows(softmax_grad_loops, axis, gy, y)


def log_softmax(x: Any, axis: int) -> Any:
    return _by_rows(log_softmax_loops, axis, x)


def log_softmax_grad(gy: Any, y: Any, axis: int) -> Any:
    return _by_rows(log_softmax_grad_loops, axis, gy, y)


def _by_rows(loops: Callable[..., None], axis: int, *arrays: Any) -> Any:
    """Run ``loops`` on the arrays with the axis last, as rows, and bring the result back."""
    turned = [np.ascontiguousarray(np.moveaxis(a, axis, -1)) for a in arrays]
    result = np.empty_like(turned[0])
    if result.size:
        rows = (-1, result.shape[-1])
        loops(*(a.reshape(rows) for a in turned), result.reshape(rows))
    return np.ascontiguousarray(np.moveaxis(result, -1, axis))
