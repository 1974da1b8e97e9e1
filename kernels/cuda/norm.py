"""Launches of norm.cu: batch, layer and local response normalisation."""
import math
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_first, channels_last, contiguous
from minidl.kernels.cuda.sums import LANES, TILE, aligned, long_rows

FILE = "norm.cu"


def _computed(gpu: Any, dtype: Any) -> Any:
    """The dtype that statistics have: float32 for 16-bit arrays."""
    return gpu.xp.dtype(gpu.xp.float32) if dtype.itemsize == 2 else dtype


def _parameters(gpu: Any, dtype: Any, *arrays: Array | None) -> list[Array | None]:
    """Parameters in the dtype that arrays of ``dtype`` are computed in; None stays None."""
    acc = _computed(gpu, dtype)
    return contiguous(gpu, *[None if a is None else a.astype(acc, copy=False) for a in arrays])


def _stretches(gpu: Any, rows: int, columns: int) -> tuple[int, tuple[int, int]]:
    """(rows of a block, grid) for the kernels that sum down columns: a few blocks for each processor, of 64 rows or more."""
    across = max(1, -(-columns // TILE))
    wanted = max(1, 4 * gpu.multiprocessors // across)
    per_block = max(64, -(-rows // wanted))
    return per_block, (across, max(1, -(-rows // per_block)))


def _takes(x: Array, *others: Any, **options: Any) -> bool:
    return same_dtype(x, *(a for a in others if hasattr(a, "dtype"))) and x.size > 0


def _takes_batch(x: Array, w: Array | None, b: Array | None, *others: Any, **options: Any) -> bool:
    """The images are of one dtype; the parameters are too, or float32 beside 16 bits."""
    return _takes(x, *others) and _suit(x, w, b)


def _suit(x: Array, *parameters: Array | None) -> bool:
    return all(p is None or p.dtype == x.dtype or x.dtype.itemsize == 2 and p.dtype.name == "float32" for p in parameters)


def _takes_batch_grad(gy: Array, x: Array, w: Array | None, *others: Any, **options: Any) -> bool:
    return _takes(gy, x) and _suit(x, w)


def _takes_grad(gy: Array, x: Array, w: Array | None, *others: Any, **options: Any) -> bool:
    return same_dtype(gy, x, w) and x.size > 0


def _statistics(gpu: Any, x: Array, eps: float) -> tuple[Array, Array]:
    """mean and 1/std of the columns of x (..., C)."""
    xp, c = gpu.xp, x.shape[-1]
    x = aligned(gpu, x)
    acc, rows = _computed(gpu, x.dtype), long_rows(gpu, x)
    mean, invstd = xp.empty(c, acc), xp.empty(c, acc)
    partial = xp.empty((3, rows.grid[1], rows.wide), acc)
    launch(gpu, FILE, "batch_norm_statistics", (x, partial, x.size, rows.wide, rows.per_block), dtype=x.dtype, grid=rows.grid,
           block=(TILE, LANES))  # fmt: skip
    launch(gpu, FILE, "batch_norm_join", (partial, mean, invstd, c, rows.wide, rows.grid[1], eps), dtype=x.dtype, work=32 * c)
    return mean, invstd


def _statistics_naive(gpu: Any, x: Array, eps: float) -> tuple[Array, Array]:
    c, acc = x.shape[-1], _computed(gpu, x.dtype)
    mean, invstd = gpu.xp.empty(c, acc), gpu.xp.empty(c, acc)
    launch(gpu, FILE, "batch_norm_statistics_naive", (x, mean, invstd, x.size // c, c, eps), dtype=x.dtype, grid=(c,))
    return mean, invstd


def _elementwise(gpu: Any, entry: str, arrays: tuple[Array | None, ...], y: Array, *numbers: Any) -> None:
    """Runs ``entry``, or its naive form where 16 bytes are not of one row or do not begin at a multiple of 16."""
    pack = 16 // y.dtype.itemsize
    packs = y.shape[-1] % pack == 0 and not any(gpu.address(a) % 16 for a in arrays if a is not None)
    if not packs and not entry.endswith("_naive"):
        entry += "_naive"
    work = y.size if entry.endswith("_naive") else y.size // pack
    launch(gpu, FILE, entry, (*arrays, y.size, y.shape[-1], *numbers), dtype=y.dtype, work=work)


def _apply(
    gpu: Any, x: Array, w: Array | None, b: Array | None, residual: Array | None, mean: Array, spread: Array, relu: bool,
    eps: float = -1.0, entry: str = "batch_norm_apply",
) -> Array:  # fmt: skip
    y = gpu.xp.empty(x.shape, x.dtype)
    w, b = _parameters(gpu, x.dtype, w, b)
    _elementwise(gpu, entry, (x, mean, spread, w, b, residual, y), y, eps, int(relu))
    return channels_first(gpu, y)


@cuda("batch_norm", "naive", _takes_batch)
def batch_norm_naive(gpu: Any, x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    x = channels_last(gpu, x)
    mean, invstd = _statistics_naive(gpu, x, eps)
    return _apply(gpu, x, w, b, None, mean, invstd, False, entry="batch_norm_apply_naive"), mean, invstd


@cuda("batch_norm", "cuda", _takes_batch)
def batch_norm(gpu: Any, x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    x = channels_last(gpu, x)
    mean, invstd = _statistics(gpu, x, eps)
    return _apply(gpu, x, w, b, None, mean, invstd, False), mean, invstd


@cuda("batch_norm_relu", "cuda", _takes_batch)
def batch_norm_relu(
    gpu: Any, x: Array, w: Array | None, b: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    x = channels_last(gpu, x)
    mean, invstd = _statistics(gpu, x, eps)
    residual = None if residual is None else channels_last(gpu, residual)
    return _apply(gpu, x, w, b, residual, mean, invstd, True), mean, invstd


def _takes_inference(x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, *others: Any, **options: Any) -> bool:
    residual = others[0] if others and hasattr(others[0], "dtype") else None
    return same_dtype(x, residual) and x.size > 0 and _suit(x, w, b, mean, var)


def _inference(gpu: Any, x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, residual: Array | None, eps: float,
               relu: bool) -> Array:  # fmt: skip
    x = channels_last(gpu, x)
    residual = None if residual is None else channels_last(gpu, residual)
    mean, var = _parameters(gpu, x.dtype, mean, var)
    return _apply(gpu, x, w, b, residual, mean, var, relu, eps)


@cuda("batch_norm_inference", "cuda", _takes_inference)
def batch_norm_inference(gpu: Any, x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, eps: float) -> Array:
    return _inference(gpu, x, w, b, mean, var, None, eps, False)


@cuda("batch_norm_relu_inference", "cuda", _takes_inference)
def batch_norm_relu_inference(
    gpu: Any, x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, residual: Array | None, eps: float
) -> Array:
    return _inference(gpu, x, w, b, mean, var, residual, eps, True)


def _batch_norm_grad(
    gpu: Any, gy: Array, x: Array, w: Array | None, y: Array | None, mean: Array, invstd: Array, residual: bool
) -> tuple[Array, ...]:
    xp = gpu.xp
    gy, x, y = channels_last(gpu, gy), channels_last(gpu, x), None if y is None else channels_last(gpu, y)
    dtype = w.dtype if w is not None else _computed(gpu, x.dtype)
    mean, invstd, w = _parameters(gpu, x.dtype, mean, invstd, w)
    gy, x, y = aligned(gpu, gy), aligned(gpu, x), None if y is None else aligned(gpu, y)
    c, acc = x.shape[-1], _computed(gpu, x.dtype)
    rows = long_rows(gpu, x)
    partial, factors = xp.empty((2, rows.grid[1], rows.wide), acc), xp.empty((3, c), acc)
    gw, gb, gx = xp.empty(c, acc), xp.empty(c, acc), xp.empty(x.shape, gy.dtype)
    gresidual = xp.empty(x.shape, gy.dtype) if residual else None
    summed = (gy, x, y, mean, partial, x.size, c, rows.wide, rows.per_block)
    launch(gpu, FILE, "batch_norm_grad_sums", summed, dtype=x.dtype, grid=rows.grid, block=(TILE, LANES))
    joined = (partial, invstd, w, gw, gb, factors, c, rows.wide, rows.grid[1], x.size / c)
    launch(gpu, FILE, "batch_norm_grad_join", joined, dtype=x.dtype, work=32 * c)
    _elementwise(gpu, "batch_norm_grad_apply", (gy, x, y, mean, factors, gx, gresidual), gx)
    found = channels_first(gpu, gx), gw.astype(dtype, copy=False), gb.astype(dtype, copy=False)
    return found if gresidual is None else (*found, channels_first(gpu, gresidual))


@cuda("batch_norm_grad", "cuda", _takes_batch_grad)
def batch_norm_grad(gpu: Any, gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array) -> tuple[Array, ...]:
    return _batch_norm_grad(gpu, gy, x, w, None, mean, invstd, False)


@cuda("batch_norm_relu_grad", "cuda", _takes_batch_grad)
def batch_norm_relu_grad(
    gpu: Any, gy: Array, x: Array, w: Array | None, b: Array | None, y: Array, mean: Array, invstd: Array, residual: bool
) -> tuple[Array, ...]:
    return _batch_norm_grad(gpu, gy, x, w, y, mean, invstd, residual)


def _takes_running(running_mean: Array, running_var: Array, mean: Array, invstd: Array, **options: Any) -> bool:
    arrays = running_mean, running_var, mean, invstd
    return same_dtype(*arrays) and mean.dtype.itemsize > 2 and all(a.flags.c_contiguous for a in arrays)


@cuda("running_stats_", "cuda", _takes_running)
def running_stats_(
    gpu: Any, running_mean: Array, running_var: Array, mean: Array, invstd: Array, *, count: int, momentum: float, eps: float,
    unbiased: bool,
) -> None:  # fmt: skip
    correction = count / (count - 1) if unbiased else 1.0
    arguments = (running_mean, running_var, mean, invstd, mean.size, momentum, eps, correction)
    launch(gpu, FILE, "running_stats", arguments, dtype=mean.dtype, work=mean.size)


def _layer_norm(
    gpu: Any, entry: str, x: Array, w: Array | None, b: Array | None, ndim: int, eps: float
) -> tuple[Array, Array, Array]:
    xp, outer = gpu.xp, x.shape[: x.ndim - ndim]
    x, w, b = contiguous(gpu, x, w, b)
    rows, size = math.prod(outer), math.prod(x.shape[x.ndim - ndim :])
    y, acc, kept = xp.empty(x.shape, x.dtype), _computed(gpu, x.dtype), (*outer, *(1,) * ndim)
    mean, invstd = xp.empty(kept, acc), xp.empty(kept, acc)
    threads = rows if entry.endswith("naive") else 32 * rows
    launch(gpu, FILE, entry, (x, w, b, y, mean, invstd, rows, size, eps), dtype=x.dtype, work=threads)
    return y, mean, invstd


@cuda("layer_norm", "naive", _takes)
def layer_norm_naive(gpu: Any, x: Array, w: Array | None, b: Array | None, ndim: int, eps: float) -> tuple[Array, Array, Array]:
    return _layer_norm(gpu, "layer_norm_naive", x, w, b, ndim, eps)


@cuda("layer_norm", "cuda", _takes)
def layer_norm(gpu: Any, x: Array, w: Array | None, b: Array | None, ndim: int, eps: float) -> tuple[Array, Array, Array]:
    return _layer_norm(gpu, "layer_norm", x, w, b, ndim, eps)


@cuda("layer_norm_grad", "cuda", _takes_grad)
def layer_norm_grad(
    gpu: Any, gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array, ndim: int
) -> tuple[Array, Array, Array]:
    xp = gpu.xp
    gy, x, w, mean, invstd = contiguous(gpu, gy, x, w, mean, invstd)
    inner = x.shape[x.ndim - ndim :]
    size, acc = math.prod(inner), _computed(gpu, x.dtype)
    rows = x.size // size
    gx, gw, gb = xp.empty(x.shape, gy.dtype), xp.empty(inner, acc), xp.empty(inner, acc)
    launch(gpu, FILE, "layer_norm_grad_x", (gy, x, w, mean, invstd, gx, rows, size), dtype=x.dtype, work=rows * 32)
    per_block, grid = _stretches(gpu, rows, size)
    partial = xp.empty((grid[1], size, 2), acc)
    launch(gpu, FILE, "layer_norm_grad_sums", (gy, x, mean, invstd, partial, rows, size, per_block), dtype=x.dtype, grid=grid,
           block=(TILE, LANES))  # fmt: skip
    launch(gpu, FILE, "layer_norm_grad_join", (partial, gw, gb, size, grid[1]), dtype=x.dtype, work=size)
    dtype = acc if w is None else w.dtype
    return gx, gw.astype(dtype, copy=False), gb.astype(dtype, copy=False)


@cuda("local_response_norm", "cuda", lambda x, *options, **named: same_dtype(x))
def local_response_norm(gpu: Any, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    x = channels_last(gpu, x)
    y = gpu.xp.empty(x.shape, x.dtype)
    launch(gpu, FILE, "local_response_norm", (x, y, y.size, x.shape[-1], size, alpha, beta, k), dtype=x.dtype, work=y.size)
    return channels_first(gpu, y)


@cuda("local_response_norm_grad", "cuda", lambda gy, x, *options, **named: same_dtype(gy, x))
def local_response_norm_grad(gpu: Any, gy: Array, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    gy, x = channels_last(gpu, gy), channels_last(gpu, x)
    gx = gpu.xp.empty(x.shape, x.dtype)
    arguments = (gy, x, gx, gx.size, x.shape[-1], size, alpha, beta, k)
    launch(gpu, FILE, "local_response_norm_grad", arguments, dtype=x.dtype, work=gx.size)
    return channels_first(gpu, gx)
