"""Launches of softmax.cu: softmax, log-softmax and their gradients, along any axis."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype

FILE = "softmax.cu"


def _rows(gpu: Any, x: Array, axis: int) -> Array:
    """x with ``axis`` last, contiguous."""
    return gpu.xp.ascontiguousarray(gpu.xp.moveaxis(x, axis, -1))


def _run(gpu: Any, entry: str, arrays: tuple[Array, ...], axis: int, log: bool) -> Array:
    inputs = [_rows(gpu, a, axis) for a in arrays]
    y = gpu.xp.empty(inputs[0].shape, inputs[0].dtype)
    size = y.shape[-1]
    rows = y.size // size
    work = rows if entry.endswith("naive") else 32 * rows
    launch(gpu, FILE, entry, (*inputs, y, rows, size, int(log)), dtype=y.dtype, work=work)
    return gpu.xp.moveaxis(y, -1, axis)


def _takes(x: Array, *arguments: Any, **options: Any) -> bool:
    return same_dtype(x, *(a for a in arguments if hasattr(a, "dtype"))) and x.ndim > 0 and x.size > 0


@cuda("softmax", "naive", _takes)
def softmax_naive(gpu: Any, x: Array, axis: int) -> Array:
    return _run(gpu, "softmax_naive", (x,), axis, False)


@cuda("softmax", "cuda", _takes)
def softmax(gpu: Any, x: Array, axis: int) -> Array:
    return _run(gpu, "softmax", (x,), axis, False)


@cuda("log_softmax", "naive", _takes)
def log_softmax_naive(gpu: Any, x: Array, axis: int) -> Array:
    return _run(gpu, "softmax_naive", (x,), axis, True)


@cuda("log_softmax", "cuda", _takes)
def log_softmax(gpu: Any, x: Array, axis: int) -> Array:
    return _run(gpu, "softmax", (x,), axis, True)


@cuda("softmax_grad", "cuda", _takes)
def softmax_grad(gpu: Any, gy: Array, y: Array, axis: int) -> Array:
    return _run(gpu, "softmax_grad", (gy, y), axis, False)


@cuda("log_softmax_grad", "cuda", _takes)
def log_softmax_grad(gpu: Any, gy: Array, y: Array, axis: int) -> Array:
    return _run(gpu, "softmax_grad", (gy, y), axis, True)
