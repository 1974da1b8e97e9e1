"""Launches of attention.cu: attention of all heads, forward and backward."""
import math
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype

FILE = "attention.cu"
WIDEST = {2: 128, 4: 128, 8: 64}                     # columns of a head that fit, by the bytes of a number
BYTES = 512                                          # of a tile's row, at most


def _inside_out(gpu: Any, a: Array) -> Array:
    """(..., L, E) as contiguous (N, L, heads, E): without a copy where a projection of (N, L, heads * E) wrote it."""
    if a.ndim == 4:
        return gpu.xp.ascontiguousarray(a.transpose(0, 2, 1, 3))
    return gpu.xp.ascontiguousarray(a).reshape(math.prod(a.shape[:-2]), a.shape[-2], 1, a.shape[-1])


def _back(a: Array, lead: tuple[int, ...]) -> Array:
    """(N, L, heads, E) as (*lead, L, E)."""
    return a.transpose(0, 2, 1, 3) if len(lead) == 2 else a.reshape(*lead, a.shape[1], a.shape[3])


def _computed(gpu: Any, dtype: Any) -> Any:
    return gpu.xp.dtype(gpu.xp.float32) if dtype.itemsize == 2 else dtype


def _takes(q: Array, k: Array, v: Array, scale: float) -> bool:
    return (same_dtype(q, k, v) and q.size > 0 and k.size > 0 and k.shape == v.shape and q.shape[:-2] == k.shape[:-2]
            and q.shape[-1] == k.shape[-1])  # fmt: skip


def _takes_grad(gy: Array, q: Array, k: Array, v: Array, weights: Array, scale: float) -> bool:
    return _takes(q, k, v, scale) and same_dtype(gy, q) and weights.ndim == q.ndim


def _fits(q: Array, k: Array, v: Array, scale: float) -> bool:
    return _takes(q, k, v, scale) and q.shape[-1] <= WIDEST[q.dtype.itemsize]


def _fits_grad(gy: Array, q: Array, k: Array, v: Array, log_sums: Array, scale: float) -> bool:
    return _fits(q, k, v, scale) and same_dtype(gy, q) and log_sums.ndim == q.ndim - 1


@cuda("attention", "naive", _takes)
def attention_naive(gpu: Any, q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    lead, dtype = q.shape[:-2], q.dtype
    q, k, v = (_inside_out(gpu, a) for a in (q, k, v))
    images, queries, heads, size = q.shape
    weights, y = gpu.xp.empty((images, heads, queries, k.shape[1]), _computed(gpu, dtype)), gpu.xp.empty(q.shape, dtype)
    rows = images * heads * queries
    arguments = (q, k, weights, rows, heads, queries, k.shape[1], size, scale)
    launch(gpu, FILE, "attention_weights_naive", arguments, dtype=dtype, work=rows)
    _mix(gpu, weights, v, y, False)
    return _back(y, lead), weights.astype(dtype, copy=False).reshape(*lead, queries, k.shape[1])


def _mix(gpu: Any, matrices: Array, x: Array, y: Array, turned: bool) -> Array:
    _, rows, heads, size = y.shape
    arguments = (matrices, x, y, y.size, heads, rows, x.shape[1], size, int(turned))
    launch(gpu, FILE, "attention_mix_naive", arguments, dtype=y.dtype, work=y.size)
    return y


@cuda("attention_grad", "naive", _takes_grad)
def attention_grad_naive(
    gpu: Any, gy: Array, q: Array, k: Array, v: Array, weights: Array, scale: float
) -> tuple[Array, Array, Array]:
    lead, dtype = q.shape[:-2], q.dtype
    gy, q, k, v = (_inside_out(gpu, a) for a in (gy, q, k, v))
    images, queries, heads, size = q.shape
    keys, rows = k.shape[1], images * heads * queries
    weights = gpu.xp.ascontiguousarray(weights.astype(_computed(gpu, dtype), copy=False)).reshape(images, heads, queries, keys)
    slopes = gpu.xp.empty(weights.shape, weights.dtype)
    arguments = (gy, v, weights, slopes, rows, heads, queries, keys, size, scale)
    launch(gpu, FILE, "attention_slopes_naive", arguments, dtype=dtype, work=rows)
    gq = _mix(gpu, slopes, k, gpu.xp.empty(q.shape, dtype), False)
    gk = _mix(gpu, slopes, q, gpu.xp.empty(k.shape, dtype), True)
    gv = _mix(gpu, weights, gy, gpu.xp.empty(k.shape, dtype), True)
    return _back(gq, lead), _back(gk, lead), _back(gv, lead)


def _columns(size: int) -> int:
    """The kernel for heads of this size: the columns of its tiles."""
    return next(columns for columns in (32, 64, 128) if size <= columns)


def _launch(gpu: Any, entry: str, arrays: tuple[Array, ...], q: Array, keys: int, length: int, rows: int, scale: float) -> None:
    images, queries, heads, size = q.shape
    grid = images * heads, -(-length // rows)
    launch(gpu, FILE, entry, (*arrays, heads, queries, keys, size, scale), dtype=q.dtype, grid=grid)


@cuda("attention", "cuda", _fits)
def attention(gpu: Any, q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    lead, dtype = q.shape[:-2], q.dtype
    q, k, v = (_inside_out(gpu, a) for a in (q, k, v))
    images, queries, heads, size = q.shape
    computed, columns = _computed(gpu, dtype), _columns(size)
    y, log_sums = gpu.xp.empty(q.shape, dtype), gpu.xp.empty((images, heads, queries), computed)
    rows = 64 if columns * computed.itemsize <= BYTES // 2 else 32
    _launch(gpu, f"attention_{columns}", (q, k, v, y, log_sums), q, k.shape[1], queries, rows, scale)
    return _back(y, lead), log_sums.reshape(*lead, queries)


@cuda("attention_grad", "cuda", _fits_grad)
def attention_grad(
    gpu: Any, gy: Array, q: Array, k: Array, v: Array, log_sums: Array, scale: float
) -> tuple[Array, Array, Array]:
    lead, dtype = q.shape[:-2], q.dtype
    gy, q, k, v = (_inside_out(gpu, a) for a in (gy, q, k, v))
    images, queries, heads, size = q.shape
    keys, columns = k.shape[1], _columns(size)
    log_sums = gpu.xp.ascontiguousarray(log_sums).reshape(images, heads, queries)
    level = gpu.xp.empty(log_sums.shape, log_sums.dtype)
    gq, gk, gv = (gpu.xp.empty(a.shape, dtype) for a in (q, k, v))
    rows = 32 if columns * log_sums.itemsize <= BYTES // 2 and log_sums.itemsize == 4 else 16
    _launch(gpu, f"attention_grad_queries_{columns}", (gy, q, k, v, log_sums, gq, level), q, keys, queries, rows, scale)
    _launch(gpu, f"attention_grad_keys_{columns}", (gy, q, k, v, log_sums, level, gk, gv), q, keys, keys, rows, scale)
    return _back(gq, lead), _back(gk, lead), _back(gv, lead)
