"""Launches of dropout.cu: dropout with a mask that is drawn again in the backward pass."""
from typing import Any

from minidl.kernels.cuda import capture
from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import contiguous

FILE = "dropout.cu"


def _drop(gpu: Any, entry: str, x: Array | None, y: Array, p: float, key: tuple[int, int]) -> Array:
    threshold = round(p * 2**32)
    work = y.size if entry.endswith("naive") else -(-y.size // 4)
    active = capture.current()
    live = None if active is None else active.key(key)
    launch(gpu, FILE, entry, (x, y, y.size, threshold, 1 / (1 - p), live, *key), dtype=y.dtype, work=work)
    return y


def _takes(x: Array, p: float, key: Any) -> bool:
    return same_dtype(x) and round(p * 2**32) < 2**32


@cuda("dropout", "naive", _takes)
def dropout_naive(gpu: Any, x: Array, p: float, key: tuple[int, int]) -> Array:
    (x,) = contiguous(gpu, x)
    return _drop(gpu, "dropout_naive", x, gpu.xp.empty(x.shape, x.dtype), p, key)


@cuda("dropout", "cuda", _takes)
def dropout(gpu: Any, x: Array, p: float, key: tuple[int, int]) -> Array:
    (x,) = contiguous(gpu, x)
    return _drop(gpu, "dropout", x, gpu.xp.empty(x.shape, x.dtype), p, key)


@cuda("dropout_mask", "cuda", lambda shape, p, key, dtype: round(p * 2**32) < 2**32)
def dropout_mask(gpu: Any, shape: tuple[int, ...], p: float, key: tuple[int, int], dtype: Any) -> Array:
    return _drop(gpu, "dropout", None, gpu.xp.empty(shape, dtype), p, key)
