"""Launches of conv_mma.cu, conv_wide.cu and conv_fma.cu: convolution and its gradients as products of pipelined tiles.

Variant "tensor" is on tensor cores, for 16-bit floats, and for float32 where it may be rounded to TF32; variant "pipelined" is
the same for float32 that is not rounded.
"""
from typing import Any, NamedTuple

from minidl.kernels.cuda import layout, source
from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_first, contiguous, filters_first, inputs_first, maps, numbers

SINCE = 80                                           # sm_80 has asynchronous copies
MAX_BLOCKS_YZ = 65535
SLAB = 64                                            # bytes of the inner dimension per turn of the kernels' loop
SLABS_PER_PART = 8                                   # at least: below, adding the parts costs more than their blocks gain
PIXELS_PER_PART = 256                                # likewise, of a weight gradient


class Tile(NamedTuple):
    """A compiled form of the three kernels: a block computes ``rows`` x ``columns`` outputs."""

    file: str
    suffix: str                                      # of the kernels' names
    rows: int
    columns: int
    threads: int
    shared: int                                      # bytes of dynamic shared memory


class Tiles(NamedTuple):
    """What there is for one kind of arithmetic; ``narrow`` copies 8 bytes at a time."""

    small: Tile
    wide: Tile
    narrow: Tile


_WIDE_BYTES = 4 * (128 + 128) * SLAB
TENSOR = Tiles(Tile("conv_mma.cu", "_tensor", 64, 64, 128, 0), Tile("conv_wide.cu", "_tensor_wide", 128, 128, 256, _WIDE_BYTES),
               Tile("conv_mma.cu", "_tensor_narrow", 64, 64, 128, 0))  # fmt: skip
FMA = Tiles(Tile("conv_fma.cu", "_fma", 64, 64, 128, 0), Tile("conv_fma.cu", "_fma_wide", 128, 128, 256, _WIDE_BYTES),
            Tile("conv_fma.cu", "_fma", 64, 64, 128, 0))  # fmt: skip


def takes(a: Array, b: Array, *others: Any, **options: Any) -> bool:
    """Arrays of one dtype that are not empty."""
    bias, geom = (None, others[0]) if hasattr(others[0], "groups") else others[:2]
    phases = geom.groups * geom.stride[0] * geom.stride[1]
    return same_dtype(a, b, bias) and a.size > 0 and b.size > 0 and phases <= MAX_BLOCKS_YZ


def takes_tensor(a: Array, b: Array, *others: Any, **options: Any) -> bool:
    """16-bit arrays; float32 where ``precision`` is "tf32"."""
    name = a.dtype.name
    rounds = name != "float32" or "tf32" in (*others[1:3], options.get("precision"))
    return rounds and source.made_for(TENSOR.small.file, name, SINCE) and takes(a, b, *others)


def takes_pipelined(a: Array, b: Array, *others: Any, **options: Any) -> bool:
    """float32."""
    return source.made_for(FMA.small.file, a.dtype.name, SINCE) and takes(a, b, *others)


def _held(per_group: int) -> int:
    """How many channels of a group are held: copies of 8 bytes (16 of float32), each of one pixel."""
    return layout.filled_up(per_group, 4)


def _is_narrow(channels: int, dtype: Any) -> bool:
    """Whether there have to be copies of 8 bytes."""
    return channels * dtype.itemsize % 16 != 0


def choose(gpu: Any, tiles: Tiles, rows: int, columns: int, layers: int, narrow: bool, parts: int = 1) -> Tile:
    """The one of ``tiles`` for ``layers`` products of rows x columns, each of which may be cut into ``parts``.

    The larger one where it gives every processor a block and at most a third more columns are computed than there are.
    """
    if narrow:
        return tiles.narrow
    wide, across = tiles.wide, -(-columns // tiles.wide.columns)
    fills = -(-rows // wide.rows) * across * layers * parts >= gpu.multiprocessors
    return wide if fills and 3 * across * wide.columns <= 4 * columns and 4 * rows >= 3 * wide.rows else tiles.small


def _grid(tile: Tile, rows: int, columns: int) -> tuple[int, int]:
    return -(-rows // tile.rows), -(-columns // tile.columns)


def _parts(gpu: Any, blocks: int, most: int, layers: int) -> int:
    """Into how many parts the inner dimension is cut (split-K): two blocks for every processor."""
    return max(1, min(2 * gpu.multiprocessors // blocks, most, MAX_BLOCKS_YZ // layers))


def _launch(gpu: Any, tile: Tile, entry: str, arguments: tuple[Any, ...], dtype: Any, grid: tuple[int, ...]) -> None:
    launch(gpu, tile.file, entry + tile.suffix, arguments, dtype=dtype, grid=grid, block=(tile.threads,), shared=tile.shared)


def _conv2d(gpu: Any, tiles: Tiles, x: Array, w: Array, b: Array | None, geom: Any, relu: bool) -> Array:
    """A row of the product is an output pixel, a column a filter."""
    channels = _held(geom.C // geom.groups)
    held = geom._replace(C=geom.groups * channels)
    x, w = maps(gpu, x, geom.groups, channels), filters_first(gpu, w, channels)
    (b,) = contiguous(gpu, b)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.O), x.dtype)
    pixels, filters = y.size // geom.O, geom.O // geom.groups
    tile = choose(gpu, tiles, pixels, filters, geom.groups, _is_narrow(channels, x.dtype))
    across = _grid(tile, pixels, filters)
    slabs = geom.kh * geom.kw * channels * x.dtype.itemsize // SLAB
    parts = _parts(gpu, across[0] * across[1] * geom.groups, slabs // SLABS_PER_PART, geom.groups)
    partial = gpu.xp.empty((parts, *y.shape), gpu.xp.float32) if parts > 1 else None
    arguments = (x, w, b, y, partial, parts, pixels, *numbers(held), int(relu))
    _launch(gpu, tile, "conv", arguments, x.dtype, (across[0] * across[1], 1, geom.groups * parts))
    if partial is not None:
        layout.join_parts(gpu, partial, b, y, relu)
    return channels_first(gpu, y)


def _input_grad(gpu: Any, tiles: Tiles, gy: Array, w: Array, geom: Any) -> Array:
    """A row is an input pixel of one phase of the strides, a column an input channel."""
    filters = _held(geom.O // geom.groups)
    held = geom._replace(O=geom.groups * filters)
    gy, w = maps(gpu, gy, geom.groups, filters), inputs_first(gpu, w, geom.groups, filters)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    (sh, sw), channels = geom.stride, geom.C // geom.groups
    pixels, layers = len(gy) * -(-geom.H // sh) * -(-geom.W // sw), geom.groups * sh * sw
    tile = choose(gpu, tiles, pixels, channels, layers, _is_narrow(filters, gy.dtype))
    across = _grid(tile, pixels, channels)
    slabs = -(-geom.kh // sh) * -(-geom.kw // sw) * filters * gy.dtype.itemsize // SLAB
    parts = _parts(gpu, across[0] * across[1] * layers, slabs // SLABS_PER_PART, layers)
    partial = gpu.xp.empty((parts, *gx.shape), gpu.xp.float32) if parts > 1 else None
    arguments = (gy, w, gx, partial, parts, len(gy), *numbers(held))
    _launch(gpu, tile, "conv_input_grad", arguments, gy.dtype, (across[0] * across[1], 1, layers * parts))
    if partial is not None:
        layout.join_parts(gpu, partial, None, gx, False)
    return channels_first(gpu, gx)


def _weight_grad(gpu: Any, tiles: Tiles, gy: Array, x: Array, geom: Any) -> Array:
    """A row is a filter, a column a tap and a channel; the inner dimension, the pixels, is cut into parts."""
    dtype = x.dtype
    channels, filters = _held(geom.C // geom.groups), _held(geom.O // geom.groups)
    held = geom._replace(C=geom.groups * channels, O=geom.groups * filters)
    gy, x = maps(gpu, gy, geom.groups, filters), maps(gpu, x, geom.groups, channels)
    pixels, columns = len(gy) * geom.out_h * geom.out_w, geom.kh * geom.kw * channels
    narrow, most = _is_narrow(channels, dtype) or _is_narrow(filters, dtype), -(-pixels // PIXELS_PER_PART)
    tile = choose(gpu, tiles, filters, columns, geom.groups, narrow, most)
    across = _grid(tile, filters, columns)
    parts = _parts(gpu, across[0] * across[1] * geom.groups, most, geom.groups)
    partial = gpu.xp.empty((parts, held.O, columns), gpu.xp.float32)
    arguments = (gy, x, partial, pixels, -(-pixels // parts), *numbers(held))
    _launch(gpu, tile, "conv_weight_grad", arguments, dtype, (*across, geom.groups * parts))
    return layout.join_filters(gpu, partial, geom, dtype, (filters * columns, columns, 1, channels))


@cuda("conv2d", "tensor", takes_tensor, SINCE)
def conv2d(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    return _conv2d(gpu, TENSOR, x, w, b, geom, relu)


@cuda("conv2d_input_grad", "tensor", takes_tensor, SINCE)
def conv2d_input_grad(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    return _input_grad(gpu, TENSOR, gy, w, geom)


@cuda("conv2d_weight_grad", "tensor", takes_tensor, SINCE)
def conv2d_weight_grad(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    return _weight_grad(gpu, TENSOR, gy, x, geom)


@cuda("conv2d", "pipelined", takes_pipelined, SINCE)
def conv2d_pipelined(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast",
                     relu: bool = False) -> Array:  # fmt: skip
    return _conv2d(gpu, FMA, x, w, b, geom, relu)


@cuda("conv2d_input_grad", "pipelined", takes_pipelined, SINCE)
def conv2d_input_grad_pipelined(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    return _input_grad(gpu, FMA, gy, w, geom)


@cuda("conv2d_weight_grad", "pipelined", takes_pipelined, SINCE)
def conv2d_weight_grad_pipelined(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    return _weight_grad(gpu, FMA, gy, x, geom)
