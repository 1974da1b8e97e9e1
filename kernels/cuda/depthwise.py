"""Launches of depthwise.cu: convolution and its gradients with few channels per group."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_first, contiguous, join_filters, maps, numbers, sums_dtype, taps_first

FILE = "depthwise.cu"
FEW = 8                                              # channels per group; with more, tiles of 64 columns are full enough
PIXELS = 4                                           # of a thread of "depthwise", as in depthwise.cu
TAPS, FILTERS = 9, 32                                # sums of a thread, lanes of a warp, of the weight gradient
PIXELS_PER_PART = 256                                # at least: 32 for each warp
MAX_BLOCKS_YZ = 65535


def takes(a: Array, b: Array, *others: Any, **options: Any) -> bool:
    """More than one group, of at most eight channels, in and out."""
    bias, geom = (None, others[0]) if hasattr(others[0], "groups") else others[:2]
    few = geom.groups > 1 and max(geom.C, geom.O) <= FEW * geom.groups
    return few and same_dtype(a, b, bias) and a.size > 0 and b.size > 0


def _by_vectors(a: Array, geom: Any) -> bool:
    """Whether every channel is a group of its own, and they fill vectors of 16 bytes."""
    return bool(geom.groups == geom.C == geom.O and geom.C * a.dtype.itemsize % 16 == 0)


def _threads(a: Array, geom: Any, rows: int, columns: int) -> int:
    """Of the vector kernels: one for a vector of channels of four neighbouring pixels."""
    return int(len(a) * rows * -(-columns // PIXELS) * (geom.C * a.dtype.itemsize // 16))


@cuda("conv2d", "depthwise", takes)
def conv2d(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    x, w, (b,) = maps(gpu, x, geom.groups, geom.C // geom.groups), taps_first(gpu, w), contiguous(gpu, b)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.O), x.dtype)
    vectors = _by_vectors(x, geom)
    work = _threads(x, geom, geom.out_h, geom.out_w) if vectors else y.size
    arguments = (x, w, b, y, work, *numbers(geom), int(relu))
    launch(gpu, FILE, "depthwise" if vectors else "grouped", arguments, dtype=x.dtype, work=work)
    return channels_first(gpu, y)


@cuda("conv2d_input_grad", "depthwise", takes)
def conv2d_input_grad(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    gy, w = maps(gpu, gy, geom.groups, geom.O // geom.groups), taps_first(gpu, w)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    vectors = _by_vectors(gy, geom)
    work = _threads(gy, geom, geom.H, geom.W) if vectors else gx.size
    entry = "depthwise_input_grad" if vectors else "grouped_input_grad"
    launch(gpu, FILE, entry, (gy, w, gx, work, *numbers(geom)), dtype=gy.dtype, work=work)
    return channels_first(gpu, gx)


@cuda("conv2d_weight_grad", "depthwise", takes)
def conv2d_weight_grad(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    channels, filters = geom.C // geom.groups, geom.O // geom.groups
    gy, x = maps(gpu, gy, geom.groups, filters), maps(gpu, x, geom.groups, channels)
    pixels, columns = gy.size // geom.O, geom.kh * geom.kw * channels
    across = -(-geom.O // FILTERS), -(-columns // TAPS)
    parts = max(1, min(8 * gpu.multiprocessors // (across[0] * across[1]), -(-pixels // PIXELS_PER_PART), MAX_BLOCKS_YZ))
    partial = gpu.xp.empty((parts, columns, geom.O), sums_dtype(gpu, x.dtype))
    arguments = (gy, x, partial, pixels, -(-pixels // parts), *numbers(geom))
    launch(gpu, FILE, "grouped_weight_grad", arguments, dtype=x.dtype, grid=(*across, parts))
    return join_filters(gpu, partial, geom, x.dtype, (filters, 1, geom.O, channels * geom.O))
