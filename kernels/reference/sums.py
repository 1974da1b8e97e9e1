"""Sums over everything but the channels, rounded once."""
import math

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


@reference("channel_sum")
def channel_sum(x: Array) -> Array:
    return np.array([math.fsum(x[:, c].reshape(-1).tolist()) for c in range(x.shape[1])], x.dtype)
