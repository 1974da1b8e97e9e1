"""Launches of embedding.cu: rows of a table by index, the gradient that adds rows back, and x[index] += values."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import contiguous
from minidl.kernels.plain.embedding import check, places_of

FILE = "embedding.cu"


def _takes(weight: Array, indices: Array, *num: int, **named: int) -> bool:
    return same_dtype(weight) and weight.size > 0 and indices.size > 0


def _indices(gpu: Any, indices: Array, num: int) -> Array:
    """Flat and int64, after a look that all of them are in the table."""
    check(indices, num)
    return gpu.xp.ascontiguousarray(indices.reshape(-1).astype(gpu.xp.int64, copy=False))


@cuda("embedding", "cuda", _takes)
def embedding(gpu: Any, weight: Array, indices: Array) -> Array:
    flat = _indices(gpu, indices, len(weight))
    (weight,) = contiguous(gpu, weight)
    y = gpu.xp.empty((*indices.shape, weight.shape[1]), weight.dtype)
    launch(gpu, FILE, "embedding", (weight, flat, y, y.size, weight.shape[1]), dtype=y.dtype, work=y.size)
    return y


@cuda("embedding_grad", "naive", _takes)
def embedding_grad_naive(gpu: Any, gy: Array, indices: Array, num: int) -> Array:
    flat, size = _indices(gpu, indices, num), gy.shape[-1]
    (gy,) = contiguous(gpu, gy)
    gweight = gpu.xp.zeros((num, size), gpu.xp.float32 if gy.dtype.itemsize == 2 else gy.dtype)
    launch(gpu, FILE, "embedding_grad_naive", (gy, flat, gweight, gy.size, size), dtype=gy.dtype, work=gy.size)
    return gweight.astype(gy.dtype, copy=False)


@cuda("embedding_grad", "cuda", _takes)
def embedding_grad(gpu: Any, gy: Array, indices: Array, num: int) -> Array:
    xp, flat, size = gpu.xp, _indices(gpu, indices, num), gy.shape[-1]
    (gy,) = contiguous(gpu, gy)
    order = xp.argsort(flat, kind="stable")
    begins = xp.searchsorted(flat[order], xp.arange(num + 1))
    gweight = xp.empty((num, size), gy.dtype)
    launch(gpu, FILE, "embedding_grad", (gy, order, begins, gweight, gweight.size, size), dtype=gy.dtype, work=gweight.size)
    return gweight


def _takes_values(x: Array, index: Any, values: Array) -> bool:
    return same_dtype(x, values) and x.size > 0 and _flat(x) is not None


def _flat(x: Array) -> Any:
    """x as one row in the order of its memory; None if there are gaps or copies in it."""
    straight = x.transpose(_order(x))
    return straight.reshape(-1) if straight.flags.c_contiguous else None


def _order(x: Array) -> list[int]:
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))


def _added(gpu: Any, x: Array, index: Any, values: Array) -> tuple[Array, Array]:
    """Where each value goes in the memory of x, and the values, both flat."""
    places = places_of(gpu.xp, x.shape, index, _order(x))
    values = gpu.xp.broadcast_to(values, places.shape).reshape(-1)
    return gpu.xp.ascontiguousarray(places.reshape(-1)), gpu.xp.ascontiguousarray(values)


@cuda("add_at_", "naive", _takes_values)
def add_at_naive_(gpu: Any, x: Array, index: Any, values: Array) -> None:
    places, values = _added(gpu, x, index, values)
    flat = _flat(x)
    wide = flat.astype(gpu.xp.float32 if x.dtype.itemsize == 2 else x.dtype)
    launch(gpu, FILE, "add_at_naive", (wide, places, values, places.size), dtype=x.dtype, work=places.size)
    flat[...] = wide


@cuda("add_at_", "cuda", _takes_values)
def add_at_(gpu: Any, x: Array, index: Any, values: Array) -> None:
    places, values = _added(gpu, x, index, values)
    order = gpu.xp.argsort(places, kind="stable")
    launch(gpu, FILE, "add_at", (_flat(x), places[order], order, values, places.size), dtype=x.dtype, work=places.size)
