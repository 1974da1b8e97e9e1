"""Embedding and indexed addition as their definitions: one index at a time."""
from typing import Any

import numpy as np

from minidl.errors import DataError
from minidl.kernels.registry import reference


def _check(index: int, num: int) -> None:
    if not 0 <= index < num:
        raise DataError(f"embedding: index {index} is outside 0..{num - 1}; check the indices")


@reference("embedding")
def embedding(weight: np.ndarray, indices: np.ndarray) -> np.ndarray:
    y = np.empty((*indices.shape, weight.shape[1]), weight.dtype)
    for at in np.ndindex(*indices.shape):
        _check(int(indices[at]), weight.shape[0])
        y[at] = weight[indices[at]]
    return y


@reference("embedding_grad")
def embedding_grad(gy: np.ndarray, indices: np.ndarray, num: int) -> np.ndarray:
    gweight = np.zeros((num, gy.shape[-1]), np.float32 if gy.dtype == np.float16 else gy.dtype)
    for at in np.ndindex(*indices.shape):
        _check(int(indices[at]), num)
        gweight[indices[at]] += gy[at]
    return gweight.astype(gy.dtype)


@reference("add_at_")
def add_at_(x: np.ndarray, index: Any, values: np.ndarray) -> None:
    places = np.arange(x.size).reshape(x.shape)[index]
    sums = x.reshape(-1).astype(np.float64 if x.dtype.kind == "f" else np.int64)
    for place, value in zip(np.ravel(places), np.ravel(np.broadcast_to(values, np.shape(places))), strict=True):
        sums[place] += value
    x[...] = sums.reshape(x.shape)
