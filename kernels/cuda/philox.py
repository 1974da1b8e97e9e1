"""The random words of dropout.cu; uniform and normal numbers are made of them by array-module code."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch

FILE = "dropout.cu"


@cuda("philox_bits", "cuda")
def philox_bits(gpu: Any, seed: int, offset: int, n: int) -> Array:
    words = gpu.xp.empty(n, gpu.xp.uint32)
    launch(gpu, FILE, "philox_bits", (words, n, seed, offset), dtype="float32", work=-(-n // 4))
    return words
