"""What is done to all arrays of a list, one number at a time."""
import math
from collections.abc import Sequence

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


@reference("ema_")
def ema_(averages: Sequence[Array], values: Sequence[Array], *, decay: float) -> None:
    for average, value in zip(averages, values, strict=True):
        for i in np.ndindex(*average.shape):
            average[i] = decay * float(average[i]) + (1 - decay) * float(value[i])


@reference("scale_")
def scale_(arrays: Sequence[Array], *, factor: float) -> None:
    for array in arrays:
        for i in np.ndindex(*array.shape):
            array[i] = float(array[i]) * factor


@reference("square_sum")
def square_sum(arrays: Sequence[Array]) -> Array:
    dtype = np.float32 if arrays[0].dtype == np.float16 else arrays[0].dtype
    return np.array(math.fsum(float(v) ** 2 for a in arrays for v in a.reshape(-1)), dtype)
