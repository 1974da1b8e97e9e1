"""Launches of conv.cu: convolution and its gradients for every dtype; and the module that registers the family's others."""
from typing import Any

from minidl.kernels.cuda import conv_products, depthwise, im2col, layout  # noqa: F401 - some register their variants
from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_first, channels_last, contiguous, filters_first, inputs_first, numbers

FILE = "conv.cu"
TILE_M, TILE_N = 64, 64                              # as in conv.cu: outputs of a block of 256 threads
MAX_BLOCKS_YZ = 65535
PIXELS_PER_PART = 256                                # at least


def _tiles(rows: int, columns: int, groups: int) -> tuple[int, int, int]:
    return -(-rows // TILE_M), -(-columns // TILE_N), groups


def _takes(a: Array, b: Array, *others: Any, **options: Any) -> bool:
    bias, geom = (None, others[0]) if hasattr(others[0], "groups") else others[:2]
    return same_dtype(a, b, bias) and a.size > 0 and b.size > 0 and geom.groups <= MAX_BLOCKS_YZ


@cuda("conv2d", "naive", _takes)
def conv2d_naive(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    x, w, (b,) = channels_last(gpu, x), filters_first(gpu, w), contiguous(gpu, b)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.O), x.dtype)
    launch(gpu, FILE, "conv_naive", (x, w, b, y, y.size, *numbers(geom), int(relu)), dtype=x.dtype, work=y.size)
    return channels_first(gpu, y)


@cuda("conv2d", "cuda", _takes)
def conv2d(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    x, w, (b,) = channels_last(gpu, x), filters_first(gpu, w), contiguous(gpu, b)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.O), x.dtype)
    pixels = y.size // geom.O
    grid = _tiles(pixels, geom.O // geom.groups, geom.groups)
    launch(gpu, FILE, "conv", (x, w, b, y, pixels, *numbers(geom), int(relu)), dtype=x.dtype, grid=grid)
    return channels_first(gpu, y)


@cuda("conv2d_input_grad", "naive", _takes)
def conv2d_input_grad_naive(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    gy, w = channels_last(gpu, gy), inputs_first(gpu, w, geom.groups)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    launch(gpu, FILE, "conv_input_grad_naive", (gy, w, gx, gx.size, *numbers(geom)), dtype=gy.dtype, work=gx.size)
    return channels_first(gpu, gx)


@cuda("conv2d_input_grad", "cuda", _takes)
def conv2d_input_grad(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    gy, w = channels_last(gpu, gy), inputs_first(gpu, w, geom.groups)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    pixels = gx.size // geom.C
    grid = _tiles(pixels, geom.C // geom.groups, geom.groups)
    launch(gpu, FILE, "conv_input_grad", (gy, w, gx, pixels, *numbers(geom)), dtype=gy.dtype, grid=grid)
    return channels_first(gpu, gx)


@cuda("conv2d_weight_grad", "naive", _takes)
def conv2d_weight_grad_naive(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    gy, x = channels_last(gpu, gy), channels_last(gpu, x)
    gw = gpu.xp.empty((1, geom.O, geom.kh, geom.kw, geom.C // geom.groups), layout.sums_dtype(gpu, x.dtype))
    arguments = (gy, x, gw, gw.size, gy.size // geom.O, *numbers(geom))
    launch(gpu, FILE, "conv_weight_grad_naive", arguments, dtype=x.dtype, work=gw.size)
    return _joined(gpu, gw, geom, x.dtype)


@cuda("conv2d_weight_grad", "cuda", _takes)
def conv2d_weight_grad(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    gy, x = channels_last(gpu, gy), channels_last(gpu, x)
    pixels, columns = gy.size // geom.O, geom.kh * geom.kw * geom.C // geom.groups
    across = _tiles(geom.O // geom.groups, columns, geom.groups)
    parts = _parts(gpu, pixels, across[0] * across[1] * across[2])
    partial = gpu.xp.empty((parts, geom.O, geom.kh, geom.kw, geom.C // geom.groups), layout.sums_dtype(gpu, x.dtype))
    arguments = (gy, x, partial, pixels, -(-pixels // parts), *numbers(geom))
    grid = (across[0], across[1], geom.groups * parts)
    launch(gpu, FILE, "conv_weight_grad", arguments, dtype=x.dtype, grid=grid)
    return _joined(gpu, partial, geom, x.dtype)


def _parts(gpu: Any, pixels: int, blocks: int) -> int:
    """Into how many parts the pixels are cut: enough blocks for every processor, but at least 256 pixels each."""
    return max(1, min(2 * gpu.multiprocessors // blocks, -(-pixels // PIXELS_PER_PART)))


def _joined(gpu: Any, partial: Array, geom: Any, dtype: Any) -> Array:
    channels = geom.C // geom.groups
    length = geom.kh * geom.kw * channels
    return layout.join_filters(gpu, partial, geom, dtype, (geom.O // geom.groups * length, length, 1, channels))
