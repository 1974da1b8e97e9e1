"""Dropout as its definition: one element and one Philox word at a time."""
import math
from typing import Any

import numpy as np

from minidl.kernels.reference.philox import philox_bits
from minidl.kernels.registry import reference


@reference("dropout_mask")
def dropout_mask(shape: tuple[int, ...], p: float, key: tuple[int, int], dtype: Any) -> np.ndarray:
    words = philox_bits(*key, math.prod(shape)).tolist()
    return np.array([1 / (1 - p) if word >= round(p * 2**32) else 0.0 for word in words], dtype).reshape(shape)


@reference("dropout")
def dropout(x: np.ndarray, p: float, key: tuple[int, int]) -> np.ndarray:
    return (x * dropout_mask(x.shape, p, key, np.float64)).astype(x.dtype)
