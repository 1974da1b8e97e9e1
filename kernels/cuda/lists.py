"""Launches of lists.cu: moving averages, scaling and the sum of squares of all arrays of a list at once."""
from collections.abc import Callable, Sequence
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.optim import chunk_table

FILE = "lists.cu"


def _takes(*lists: Sequence[Array], **options: Any) -> bool:
    arrays = [a for some in lists for a in some]
    return bool(arrays) and same_dtype(*arrays) and all(a.flags.c_contiguous for a in arrays)


def _run(gpu: Any, entry: str, lists: tuple[Sequence[Array], ...], number: float) -> None:
    table, chunks = chunk_table(gpu, *lists, fresh=[False] * len(lists[0]))
    if chunks:
        launch(gpu, FILE, entry, (table, number), dtype=lists[0][0].dtype, grid=(chunks,))


def _register(verb: str, entry: str, option: str) -> None:
    def at_once(gpu: Any, *lists: Sequence[Array], **options: float) -> None:
        _run(gpu, entry, lists, options[option])

    def one_by_one(gpu: Any, *lists: Sequence[Array], **options: float) -> None:
        for arrays in zip(*lists, strict=True):
            _run(gpu, entry, tuple([a] for a in arrays), options[option])

    kernel: Callable[..., None]
    for variant, kernel in (("naive", one_by_one), ("cuda", at_once)):
        cuda(verb, variant, _takes)(kernel)


_register("ema_", "ema", "decay")
_register("scale_", "scale", "factor")


def _square_sum(gpu: Any, groups: list[Sequence[Array]]) -> Array:
    """The sum of squares of the arrays of all groups; a launch each."""
    first = groups[0][0]
    tables = [chunk_table(gpu, group, fresh=[False] * len(group)) for group in groups]
    partial = gpu.xp.empty(sum(chunks for _, chunks in tables), gpu.xp.float64)
    start = 0
    for table, chunks in tables:
        if chunks:
            launch(gpu, FILE, "square_sum", (table, partial[start : start + chunks]), dtype=first.dtype, grid=(chunks,))
        start += chunks
    y = gpu.xp.empty((), gpu.xp.float32 if first.dtype.itemsize == 2 else first.dtype)
    launch(gpu, FILE, "square_sum_join", (partial, y, partial.size), dtype=first.dtype, grid=(1,))
    return y


@cuda("square_sum", "naive", _takes)
def square_sum_naive(gpu: Any, arrays: Sequence[Array]) -> Array:
    return _square_sum(gpu, [[a] for a in arrays])


@cuda("square_sum", "cuda", _takes)
def square_sum(gpu: Any, arrays: Sequence[Array]) -> Array:
    return _square_sum(gpu, [arrays])
