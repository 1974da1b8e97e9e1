"""Launches of sums.cu: sums over everything but the channels."""
import math
from typing import Any, NamedTuple

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_last

FILE = "sums.cu"
TILE, LANES = 32, 8                                  # threads of a block along a row, and rows that it looks at together
ROWS_PER_BLOCK = 64                                  # at least: eight of each thread


def _takes(x: Array) -> bool:
    return same_dtype(x) and x.size > 0 and x.ndim >= 2


def _computed(gpu: Any, x: Array) -> Any:
    return gpu.xp.float32 if x.dtype.itemsize == 2 else x.dtype


@cuda("channel_sum", "naive", _takes)
def channel_sum_naive(gpu: Any, x: Array) -> Array:
    x = channels_last(gpu, x)
    y = gpu.xp.empty(x.shape[-1], x.dtype)
    launch(gpu, FILE, "channel_sum_naive", (x, y, x.size // y.size, y.size), dtype=x.dtype, grid=(y.size,))
    return y


@cuda("channel_sum", "cuda", _takes)
def channel_sum(gpu: Any, x: Array) -> Array:
    planes = x.ndim > 2 and x.flags.c_contiguous and math.prod(x.shape[2:]) > 1
    partial, wide = _of_planes(gpu, x) if planes else _of_rows(gpu, channels_last(gpu, x))
    y = gpu.xp.empty(x.shape[1], x.dtype)
    launch(gpu, FILE, "channel_sum_join", (partial, y, y.size, wide, len(partial)), dtype=x.dtype, work=32 * y.size)
    return y


def _of_planes(gpu: Any, x: Array) -> tuple[Array, int]:
    """Sums (parts, C) of x (N, C, ...), channels first in memory."""
    images, channels, plane = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    parts = min(images, max(1, 8 * gpu.multiprocessors // channels))
    each = -(-images // parts)
    partial = gpu.xp.empty((-(-images // each), channels), _computed(gpu, x))
    launch(gpu, FILE, "channel_sum_planes", (x, partial, images, channels, plane, each), dtype=x.dtype,
           grid=(channels, len(partial)))  # fmt: skip
    return partial, channels


class LongRows(NamedTuple):
    """How kernels that sum down the columns of (rows, C) see them: several rows as one, in stretches for the blocks."""

    wide: int
    per_block: int
    grid: tuple[int, int]


def long_rows(gpu: Any, x: Array) -> LongRows:
    """For x (..., C), channels last in memory: rows that fill a warp of 16-byte accesses, a few blocks for each processor."""
    pack = 16 // x.dtype.itemsize
    wide = math.lcm(x.shape[-1], pack)
    wide *= max(1, TILE * pack // wide)
    across, rows = -(-wide // (TILE * pack)), -(-x.size // wide)
    per_block = max(ROWS_PER_BLOCK, -(-rows // max(1, 4 * gpu.multiprocessors // across)))
    return LongRows(wide, per_block, (across, -(-rows // per_block)))


def aligned(gpu: Any, x: Array) -> Array:
    """x, or a copy where it is a part of an array that does not begin at a multiple of 16 bytes."""
    return gpu.xp.array(x) if gpu.address(x) % 16 else x


def _of_rows(gpu: Any, x: Array) -> tuple[Array, int]:
    """Sums (parts, wide) of x (..., C), channels last in memory."""
    x = aligned(gpu, x)
    rows = long_rows(gpu, x)
    partial = gpu.xp.empty((rows.grid[1], rows.wide), _computed(gpu, x))
    launch(gpu, FILE, "channel_sum_rows", (x, partial, x.size, rows.wide, rows.per_block), dtype=x.dtype, grid=rows.grid,
           block=(TILE, LANES))  # fmt: skip
    return partial, rows.wide
