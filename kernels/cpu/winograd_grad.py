"""The weight gradient of a stride-1 convolution by Winograd's transforms.

The gradient's transforms are those of the forward pass, transposed: tiles of x and of gy are transformed into planes, each plane
is a matrix product over all tiles, and the sums go back through G'.
"""
from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.direct import Channels, Operand, parts_for
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import pack_rows, unpack_gradient, zero
from minidl.kernels.cpu.tiles import accumulators, correlate
from minidl.kernels.cpu.transforms import FORMS, Winograd, load_square, store_square, two_dimensional
from minidl.kernels.cpu.winograd import transform_tiles
from minidl.kernels.cpu.winograd_shapes import PAD, Shape, cut


@program
def winograd_weight_grad(isa: ISA, outputs: int, taps: int, tile_channels: int, vectors: int, ragged_in: bool,
                         ragged_out: bool) -> Kernel:
    """partial[part][plane][block][c][lane] = sum over the part's tiles of transformed x times transformed gy."""
    w = FORMS[outputs, taps]
    name = f"winograd{outputs}{taps}_weight_grad_{tile_channels}x{vectors}" + "_in" * ragged_in + "_out" * ragged_out
    k = Kernel(name, isa.width)
    wide, planes = vectors * isa.width, w.size * w.size
    x, g = k.pointer("x", "images", "image_size"), k.pointer("g", "images", "result_size")
    partial = k.pointer("partial", "parts", planes, "blocks", "padded", wide)
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, padded, height, width, top, left = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "padded", "height", "width", "top", "left")
    result_size, g_first, g_pixel, out_height, out_width, lanes, blocks = k.integers(
        "result_size", "g_first", "g_pixel", "out_height", "out_width", "lanes", "blocks")
    parts, unit, strip, tile_rows, tile_columns, most_tiles, packed_size, scratch_size = k.integers(
        "parts", "unit", "strip", "tile_rows", "tile_columns", "most_tiles", "packed_size", "scratch_size")
    k.integer("threads_most")
    in_blocks, out_blocks = padded // k.width, blocks * vectors
    packed = scratch + k.thread * scratch_size * 4
    in_plane, out_plane = (padded * most_tiles + PAD) * 4, (blocks * wide * most_tiles + PAD) * 4
    sources = packed + packed_size * 4
    gradients = sources + planes * in_plane
    part_bytes, plane_bytes = planes * blocks * padded * (4 * wide), blocks * padded * (4 * wide)
    in_line, out_line = (tile_columns * outputs + (taps - 1)) * k.bytes, tile_columns * outputs * k.bytes
    one, none = k.same(1), k.same(0)
    with k.parallel(parts) as part:
        mine = partial + part * part_bytes
        zero(k, mine, planes * blocks * padded * vectors)
        end = (part + 1) * images // parts
        with k.loop(part * images // parts, end, unit) as first, k.loop(0, tile_rows, strip) as first_row:
            count, rows = k.minimum(unit, end - first), k.minimum(strip, tile_rows - first_row)
            tiles = count * rows * tile_columns
            with k.loop(count) as i:
                at = i * rows * tile_columns
                in_rows, out_rows = rows * outputs + (taps - 1), rows * outputs
                pack_rows(k, ragged_in, x + (first + i) * image_size * 4 + x_first, height, width, x_pixel, channels,
                          first_row * outputs - top, in_rows, left, one, packed, tile_columns * outputs + (taps - 1))
                transform_tiles(k, w.image, w.size, packed, in_blocks, in_rows * in_line, in_line, rows, tile_columns,
                                 outputs, sources, at, tiles, in_plane)
                pack_rows(k, ragged_out, g + (first + i) * result_size * 4 + g_first, out_height, out_width, g_pixel, lanes,
                          first_row * outputs, out_rows, none, one, packed, tile_columns * outputs)
                transform_tiles(k, w.gradient, outputs, packed, out_blocks, out_rows * out_line, out_line, rows,
                                 tile_columns, outputs, gradients, at, tiles, out_plane)
            with k.loop(planes) as plane, k.loop(blocks) as block, k.loop(0, channels, tile_channels) as c:
                source = sources + plane * in_plane + c // k.width * tiles * k.bytes + c % k.width * 4
                correlate(k, [none], tile_channels, vectors, source, 0, gradients + plane * out_plane
                          + block * vectors * tiles * k.bytes, 0, k.bytes, tiles * k.bytes, 1, tiles,
                          mine + plane * plane_bytes + (block * padded + c) * (4 * wide), 0)
    return k


@program
def winograd_filter_grad(isa: ISA, outputs: int, taps: int, vectors: int) -> Kernel:
    """packed[tap][block][c] = G' s G with s the sum over parts of partial[part][plane][block][c], in the order of the parts."""
    w = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_filter_grad_{vectors}", isa.width)
    planes = w.size**2
    partial = k.pointer("partial", "parts", planes, "rows", vectors * isa.width)
    packed = k.pointer("packed", taps * taps, "rows", vectors * isa.width)
    parts, rows = k.integers("parts", "rows")
    plane = rows * (vectors * k.bytes)
    with k.parallel(rows * vectors) as i:
        at = partial + i * k.bytes
        with k.loop(1, parts) as part, k.loop(planes) as p:
            sum_at = at + p * plane
            k.store(k.load(sum_at) + k.load(sum_at + part * planes * plane), sum_at)
        square = load_square(k, w.size, at, w.size * plane, plane)
        store_square(k, two_dimensional(k, w.filter_gradient, square), packed + i * k.bytes, taps * plane, plane)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
class _WeightGradient(NamedTuple):
    """What :func:`weight_gradient` works out once per shape."""

    run: Launch
    transform: Launch
    unpack: Launch
    partial: int
    packed: int
    scratch: int


@functools.lru_cache(512)
def _weight_gradient(shape: Shape, form: Winograd, x: Channels, g: Channels, images: int, most: int) -> _WeightGradient:
    isa = engine.host_isa()
    tall, padded = -(-g.size // isa.width), -(-x.size // isa.width) * isa.width
    vectors = 2 if tall % 2 == 0 else 1
    tile_channels = max(n for n in (1, 2, 4, 8, 16) if n <= min(isa.width, accumulators(isa) // vectors))
    blocks, planes = tall // vectors, form.size**2
    size = planes * blocks * padded * vectors * isa.width
    parts = parts_for(images, size)
    strips = cut(shape, form, images, padded, tall * isa.width, parts)
    packed = strips.packed(form, max(padded, tall * isa.width))
    scratch = -(-(packed + planes * ((padded + tall * isa.width) * strips.tiles + 2 * PAD)) // 16) * 16
    build = winograd_weight_grad(form.outputs, form.taps, tile_channels, vectors, x.size % isa.width > 0, g.size % isa.width > 0)
    run = build.prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size, padded=padded,
        height=shape.height, width=shape.width, top=shape.top, left=shape.left, result_size=g.image_size,
        g_first=4 * g.first, g_pixel=g.pixel_bytes, out_height=shape.out_height, out_width=shape.out_width, lanes=g.size,
        blocks=blocks, parts=parts, unit=strips.unit, strip=strips.strip, tile_rows=strips.tile_rows,
        tile_columns=strips.tile_columns, most_tiles=strips.tiles, packed_size=packed,
        scratch_size=scratch, threads_most=most)
    taps = form.taps**2
    transform = winograd_filter_grad(form.outputs, form.taps, vectors).prepare(parts=parts, rows=blocks * padded)
    unpack = unpack_gradient(vectors).prepare(parts=1, taps=taps, all_taps=taps, blocks=blocks, padded=padded, channels=x.size,
                                              lanes=g.size)
    return _WeightGradient(run, transform, unpack, parts * size, taps * blocks * padded * vectors * isa.width,
                           most * scratch)


def weight_gradient(shape: Shape, form: Winograd, x: Operand, g: Operand, gw: np.ndarray) -> None:
    """Write gw (O, C, r, r) of one group."""
    c = _weight_gradient(shape, form, x.channels, g.channels, len(x.array), threads.get_num_threads())
    partial, packed = memory.scratch("partial", c.partial), memory.scratch("filters", c.packed)
    c.run(x=x.array, g=g.array, partial=partial, scratch=memory.scratch("packed", c.scratch))
    c.transform(partial=partial, packed=packed)
    c.unpack(partial=packed, gw=gw)
