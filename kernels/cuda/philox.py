"""Launches of random.cu, and of dropout.cu's random words."""
import math
from typing import Any

import numpy as np

from minidl.kernels.cuda import source
from minidl.kernels.cuda.launch import Array, cuda, launch

FILE = "random.cu"
WORDS = "dropout.cu"


@cuda("philox_bits", "cuda")
def philox_bits(gpu: Any, seed: int, offset: int, n: int) -> Array:
    words = gpu.xp.empty(n, gpu.xp.uint32)
    launch(gpu, WORDS, "philox_bits", (words, n, seed, offset), dtype="float32", work=-(-n // 4))
    return words


def _takes(shape: tuple[int, ...], key: tuple[int, int], dtype: Any) -> bool:
    return np.dtype(dtype).name in source.DTYPES


def _draw(gpu: Any, entry: str, shape: tuple[int, ...], key: tuple[int, int], dtype: Any) -> Array:
    y = gpu.xp.empty(shape, dtype)
    together = 1 if entry.endswith("naive") else 2 if y.dtype.itemsize == 8 else 4
    launch(gpu, FILE, entry, (y, math.prod(shape), *key), dtype=y.dtype, work=-(-y.size // together))
    return y


def _register(verb: str, entry: str) -> None:
    for variant, kernel in (("naive", f"{entry}_naive"), ("cuda", entry)):
        cuda(verb, variant, _takes)(lambda gpu, *arguments, kernel=kernel: _draw(gpu, kernel, *arguments))


_register("philox_uniform", "uniform")
_register("philox_normal", "normal")
