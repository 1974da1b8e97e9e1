"""Launches of elementwise.cu: ReLU, the gradients of ReLU and tanh, addition, a bias for every row."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import contiguous

FILE = "elementwise.cu"


def takes(*arrays: Array) -> bool:
    """Whether ``run`` can be given these: one dtype that has kernels, one shape."""
    return same_dtype(*arrays) and all(a.shape == arrays[0].shape for a in arrays)


def _in_one_order(gpu: Any, *arrays: Array) -> tuple[list[Array], Any]:
    """The arrays as contiguous ones in the first's order of memory, and how an array in that order is seen as the first is."""
    first = arrays[0]
    order = sorted(range(first.ndim), key=lambda axis: -abs(first.strides[axis]))
    back = [order.index(axis) for axis in range(first.ndim)]
    return contiguous(gpu, *(a.transpose(order) for a in arrays)), lambda y: y.transpose(back)


def run(gpu: Any, file: str, entry: str, *arrays: Array) -> Array:
    """The result of a kernel of the form (inputs, y, n), in the first array's order of memory.

    Args:
        entry: its fast kernel, of 16-byte accesses, or ``<name>_naive``.
    """
    inputs, back = _in_one_order(gpu, *arrays)
    y = gpu.xp.empty(inputs[0].shape, inputs[0].dtype)
    if any(gpu.address(a) % 16 for a in (*inputs, y)):
        entry = naive(entry)                         # a part of an array may begin anywhere, a 16-byte access may not
    together = 1 if entry.endswith("_naive") else 16 // y.dtype.itemsize
    launch(gpu, file, entry, (*inputs, y, y.size), dtype=y.dtype, work=-(-y.size // together))
    return back(y)


def naive(entry: str) -> str:
    """The name of the kernel that does the same an element at a time."""
    return f"{entry.removesuffix('_naive').removesuffix('_packed')}_naive"


def register(file: str, verb: str, entry: str) -> None:
    """Make the variants "naive" and "cuda" of a verb that takes arrays alone."""
    for variant, kernel in (("naive", naive(entry)), ("cuda", entry)):
        cuda(verb, variant, takes)(lambda gpu, *arrays, kernel=kernel: run(gpu, file, kernel, *arrays))


for _verb in ("relu", "relu_grad", "tanh_grad", "add"):
    register(FILE, _verb, _verb)


def _takes_bias(y: Array, b: Array) -> bool:
    return same_dtype(y, b) and y.flags.c_contiguous and b.flags.c_contiguous


@cuda("add_bias_", "naive", _takes_bias)
def add_bias_naive_(gpu: Any, y: Array, b: Array) -> None:
    launch(gpu, FILE, "add_bias_naive", (y, b, y.size, b.size), dtype=y.dtype, work=y.size)


@cuda("add_bias_", "cuda", _takes_bias)
def add_bias_(gpu: Any, y: Array, b: Array) -> None:
    pack = 16 // y.dtype.itemsize
    if b.size % pack or gpu.address(y) % 16 or gpu.address(b) % 16:
        add_bias_naive_(gpu, y, b)
    else:
        launch(gpu, FILE, "add_bias", (y, b, y.size, b.size), dtype=y.dtype, work=y.size // pack)
