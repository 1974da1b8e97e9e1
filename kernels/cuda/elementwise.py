"""Launches of elementwise.cu: ReLU, its gradient and addition."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import contiguous

FILE = "elementwise.cu"


def _takes(*arrays: Array) -> bool:
    return same_dtype(*arrays) and all(a.shape == arrays[0].shape for a in arrays)


def _in_one_order(gpu: Any, *arrays: Array) -> tuple[list[Array], Any]:
    """The arrays as contiguous ones in the first's order of memory, and how an array in that order is seen as the first is."""
    first = arrays[0]
    order = sorted(range(first.ndim), key=lambda axis: -abs(first.strides[axis]))
    back = [order.index(axis) for axis in range(first.ndim)]
    return contiguous(gpu, *(a.transpose(order) for a in arrays)), lambda y: y.transpose(back)


def _run(gpu: Any, entry: str, *arrays: Array) -> Array:
    inputs, back = _in_one_order(gpu, *arrays)
    y = gpu.xp.empty(inputs[0].shape, inputs[0].dtype)
    if any(gpu.address(a) % 16 for a in (*inputs, y)):
        entry = f"{entry.removesuffix('_naive')}_naive"        # a part of an array may begin anywhere, a 16-byte access may not
    launch(gpu, FILE, entry, (*inputs, y, y.size), dtype=y.dtype, work=y.size)
    return back(y)


def _register(verb: str) -> None:
    for variant, entry in (("naive", f"{verb}_naive"), ("cuda", verb)):
        cuda(verb, variant, _takes)(lambda gpu, *arrays, entry=entry: _run(gpu, entry, *arrays))


for _verb in ("relu", "relu_grad", "add"):
    _register(_verb)
