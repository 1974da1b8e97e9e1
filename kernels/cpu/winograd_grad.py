"""The weight gradient of a stride-1 convolution by Winograd's transforms.

The gradient's transforms are those of the forward pass, transposed: tiles of x and of gy are transformed into planes, each plane
is a matrix product over all tiles, and the sums go back through G'.

There are two ways.  In parts: tiles are transformed strip by strip, and stay in the cache while their products are added to sums
in memory.  At once, where there are more sums than tiles: all tiles are transformed first, then each task computes some sums
over all of them, which never leave its cache.
"""
from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.direct import Channels, Operand, parts_for
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.filters import store_filter
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import pack_rows, zero
from minidl.kernels.cpu.tiles import accumulators, correlate
from minidl.kernels.cpu.transforms import FORMS, Winograd, load_square, two_dimensional
from minidl.kernels.cpu.winograd import transform_tiles
from minidl.kernels.cpu.winograd_shapes import PAD, Shape, cut

PIECE = 64                                           # input channels of a task's sums
RUN = 128                                            # tiles that are summed up in registers: a run of them stays in the L1 cache
ROWS_BYTES = 192 << 10                               # of packed rows while they are transformed


@program
def winograd_weight_grad(isa: ISA, outputs: int, taps: int, tile_channels: int, vectors: int, ragged_in: bool,
                         ragged_out: bool) -> Kernel:
    """partial[part][plane][block][c][lane] = sum over the part's tiles of transformed x times transformed gy."""
    w = FORMS[outputs, taps]
    name = f"winograd{outputs}{taps}_weight_grad_{tile_channels}x{vectors}" + "_in" * ragged_in + "_out" * ragged_out
    k = Kernel(name, isa.width)
    wide, planes = vectors * isa.width, w.size * w.size
    x, g = k.pointer("x", "images", "image_size"), k.pointer("g", "images", "result_size")
    partial = k.pointer("partial", "parts", planes, "partial_plane")
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, padded, height, width, top, left = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "padded", "height", "width", "top", "left")
    result_size, g_first, g_pixel, out_height, out_width, lanes, blocks = k.integers(
        "result_size", "g_first", "g_pixel", "out_height", "out_width", "lanes", "blocks")
    parts, groups, unit, strip, tile_rows, tile_columns, most_tiles, packed_size, scratch_size = k.integers(
        "parts", "groups", "unit", "strip", "tile_rows", "tile_columns", "most_tiles", "packed_size", "scratch_size")
    partial_plane, _ = k.integers("partial_plane", "threads_most")
    in_blocks = padded // k.width
    packed = scratch + k.thread * scratch_size * 4
    in_plane, out_plane = (padded * most_tiles + PAD) * 4, (blocks * wide * most_tiles + PAD) * 4
    sources = packed + packed_size * 4
    gradients = sources + planes * in_plane
    part_bytes, plane_bytes = planes * partial_plane * 4, partial_plane * 4
    in_line, out_line = (tile_columns * outputs + (taps - 1)) * k.bytes, tile_columns * outputs * k.bytes
    one, none = k.same(1), k.same(0)
    with k.parallel(parts * groups) as task:
        group, part = task % groups, task // groups
        first_block, end_block = group * blocks // groups, (group + 1) * blocks // groups
        my_blocks, my_lanes = end_block - first_block, k.minimum(lanes, end_block * wide) - first_block * wide
        mine = partial + part * part_bytes + first_block * (padded * 4 * wide)
        with k.loop(planes) as plane:
            zero(k, mine + plane * plane_bytes, my_blocks * padded * vectors)
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
                pack_rows(k, ragged_out, g + (first + i) * result_size * 4 + g_first + first_block * (4 * wide), out_height,
                          out_width, g_pixel, my_lanes, first_row * outputs, out_rows, none, one, packed, tile_columns * outputs)
                transform_tiles(k, w.gradient, outputs, packed, my_blocks * vectors, out_rows * out_line, out_line, rows,
                                 tile_columns, outputs, gradients, at, tiles, out_plane)
            with k.loop(planes) as plane, k.loop(my_blocks) as block, k.loop(0, channels, tile_channels) as c:
                source = sources + plane * in_plane + c // k.width * tiles * k.bytes + c % k.width * 4
                correlate(k, [none], tile_channels, vectors, source, 0, gradients + plane * out_plane
                          + block * vectors * tiles * k.bytes, 0, k.bytes, tiles * k.bytes, 1, tiles,
                          mine + plane * plane_bytes + (block * padded + c) * (4 * wide), 0)
    return k


@program
def winograd_filter_grad(isa: ISA, outputs: int, taps: int, vectors: int, ragged: bool) -> Kernel:
    """gw = G' s G with s the sum over parts of partial[part][plane][block][c], in the order of the parts."""
    form = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_filter_grad_{vectors}" + "_ragged" * ragged, isa.width)
    planes = form.size**2
    partial = k.pointer("partial", "parts", planes, "plane")
    gw = k.pointer("gw", "lanes", "channels", taps * taps)
    parts, plane, blocks, padded, channels, lanes = k.integers("parts", "plane", "blocks", "padded", "channels", "lanes")
    pieces = padded // k.width                       # of a vector's channels: neighbours in memory, which is read in streams
    with k.parallel(blocks * pieces) as task:
        block, first = task // pieces, task % pieces * k.width
        at = partial + (block * padded + first) * (vectors * k.bytes)
        with k.when(parts > 1), k.loop(planes) as p, k.loop(k.width * vectors) as i:
            sum_at = at + p * plane * 4 + i * k.bytes
            total, _ = k.carry(parts - 1, [k.load(sum_at), sum_at + planes * plane * 4],
                               lambda state: [state[0] + k.load(state[1]), state[1] + planes * plane * 4])
            k.store(total, sum_at)
        with k.loop(k.minimum(k.width, channels - first)) as c:
            for v in range(vectors):
                grid = load_square(k, form.size, at + (c * vectors + v) * k.bytes, form.size * plane * 4, plane * 4)
                store_filter(k, two_dimensional(k, form.filter_gradient, grid), gw, lanes, channels * (taps * taps),
                             k.same(taps * taps), (block * vectors + v) * k.width, first + c, ragged)
    return k


@program
def winograd_planes(isa: ISA, outputs: int, taps: int, of: str, ragged: bool) -> Kernel:
    """Every tile of the images x in planes[plane][block of channels][tile]; ``of`` the "image" or of the "gradient"."""
    form = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_planes_{of}" + "_ragged" * ragged, isa.width)
    step, n = (form.image, form.size) if of == "image" else (form.gradient, outputs)
    x = k.pointer("x", "images", "image_size")
    planes = k.pointer("planes", form.size**2, "plane")
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, height, width, top, left = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "height", "width", "top", "left")
    tile_rows, tile_columns, strip, plane, scratch_size, _ = k.integers(
        "tile_rows", "tile_columns", "strip", "plane", "scratch_size", "threads_most")
    packed, blocks = scratch + k.thread * scratch_size * 4, k.ceil_div(channels, k.width)
    packed_width = tile_columns * outputs + (n - outputs)
    strips = k.ceil_div(tile_rows, strip)
    with k.parallel(images * strips) as task:
        image, first = task // strips, task % strips * strip
        rows = k.minimum(strip, tile_rows - first)
        packed_rows = rows * outputs + (n - outputs)
        pack_rows(k, ragged, x + image * image_size * 4 + x_first, height, width, x_pixel, channels, first * outputs - top,
                  packed_rows, left, k.same(1), packed, packed_width)
        line = packed_width * k.bytes
        transform_tiles(k, step, n, packed, blocks, packed_rows * line, line, rows, tile_columns, outputs, planes,
                        (image * tile_rows + first) * tile_columns, images * tile_rows * tile_columns, plane * 4)
    return k


@program
def winograd_sums(isa: ISA, outputs: int, taps: int, tile_channels: int, vectors: int, ragged: bool) -> Kernel:
    """gw = G' s G with s[plane] the sum over tiles of sources[plane] times gradients[plane].

    A task is a block of output channels and a piece of the input's: its sums over all tiles stay in its cache.
    """
    form = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_sums_{tile_channels}x{vectors}" + "_ragged" * ragged, isa.width)
    planes, wide = form.size**2, vectors * isa.width
    sources, gradients = k.pointer("sources", planes, "source_plane"), k.pointer("gradients", planes, "gradient_plane")
    gw, scratch = k.pointer("gw", "lanes", "channels", taps * taps), k.pointer("scratch", "threads_most", planes * PIECE * wide)
    tiles, source_plane, gradient_plane, channels, lanes, blocks = k.integers(
        "tiles", "source_plane", "gradient_plane", "channels", "lanes", "blocks")
    k.integer("threads_most")
    sums, sums_plane, none = scratch + k.thread * (planes * PIECE * wide * 4), PIECE * wide * 4, k.same(0)
    with k.parallel(blocks * k.ceil_div(channels, PIECE)) as task:
        block, piece = task % blocks, task // blocks * PIECE
        count = k.minimum(PIECE, channels - piece)
        zero(k, sums, planes * PIECE * vectors)
        with k.loop(planes) as plane, k.loop(0, tiles, RUN) as first:
            x = sources + plane * source_plane * 4 + (piece * tiles * 4 + first * k.bytes)
            g = gradients + plane * gradient_plane * 4 + (block * vectors * tiles + first) * k.bytes
            length = k.minimum(RUN, tiles - first)
            with k.loop(0, count, tile_channels) as c:
                source = x + (c // k.width * tiles * k.bytes + c % k.width * 4)
                target = sums + plane * sums_plane + c * (4 * wide)
                correlate(k, [none], tile_channels, vectors, source, 0, g, 0, k.bytes, tiles * k.bytes, 1, length, target, 0)
        with k.loop(count) as c:
            for v in range(vectors):
                grid = load_square(k, form.size, sums + (c * vectors + v) * k.bytes, form.size * sums_plane, sums_plane)
                store_filter(k, two_dimensional(k, form.filter_gradient, grid), gw, lanes, channels * (taps * taps),
                             k.same(taps * taps), block * wide + v * k.width, piece + c, ragged)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
class _InParts(NamedTuple):
    """What :func:`_in_parts` works out once per shape."""

    run: Launch
    transform: Launch
    partial: int
    scratch: int


class _AtOnce(NamedTuple):
    """What :func:`_at_once` works out once per shape."""

    images: Launch
    gradients: Launch
    run: Launch
    sources: int
    products: int
    packed: int
    scratch: int


def _tile(isa: ISA, tall: int) -> tuple[int, int]:
    """(input channels, vectors of output channels) of a register tile; channels do not straddle a vector."""
    vectors = 2 if tall % 2 == 0 else 1
    return max(n for n in (1, 2, 4, 8, 16) if n <= min(isa.width, accumulators(isa) // vectors)), vectors


@functools.lru_cache(512)
def _in_parts(shape: Shape, form: Winograd, x: Channels, g: Channels, images: int, most: int) -> _InParts:
    isa = engine.host_isa()
    tall, padded = -(-g.size // isa.width), -(-x.size // isa.width) * isa.width
    tile_channels, vectors = _tile(isa, tall)
    blocks, planes = tall // vectors, form.size**2
    plane = blocks * padded * vectors * isa.width + PAD
    size = planes * plane
    parts = parts_for(images, size)
    strips = cut(shape, form, images, padded, tall * isa.width, parts)
    packed = strips.packed(form, max(padded, tall * isa.width))
    scratch = -(-(packed + planes * ((padded + tall * isa.width) * strips.tiles + 2 * PAD)) // 16) * 16
    build = winograd_weight_grad(form.outputs, form.taps, tile_channels, vectors, x.size % isa.width > 0, g.size % isa.width > 0)
    run = build.prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size, padded=padded,
        height=shape.height, width=shape.width, top=shape.top, left=shape.left, result_size=g.image_size,
        g_first=4 * g.first, g_pixel=g.pixel_bytes, out_height=shape.out_height, out_width=shape.out_width, lanes=g.size,
        blocks=blocks, parts=parts, groups=1 if parts >= most else min(blocks, most), unit=strips.unit, strip=strips.strip,
        tile_rows=strips.tile_rows, tile_columns=strips.tile_columns, most_tiles=strips.tiles, packed_size=packed,
        scratch_size=scratch, partial_plane=plane, threads_most=most)
    transform = winograd_filter_grad(form.outputs, form.taps, vectors, g.size % isa.width > 0).prepare(
        parts=parts, plane=plane, blocks=blocks, padded=padded, channels=x.size, lanes=g.size)
    return _InParts(run, transform, parts * size, most * scratch)


@functools.lru_cache(512)
def _at_once(shape: Shape, form: Winograd, x: Channels, g: Channels, images: int, most: int) -> _AtOnce:
    isa = engine.host_isa()
    tall, padded = -(-g.size // isa.width), -(-x.size // isa.width) * isa.width
    tile_channels, vectors = _tile(isa, tall)
    rows, columns = -(-shape.out_height // form.outputs), -(-shape.out_width // form.outputs)
    tiles = images * rows * columns
    source_plane, gradient_plane = padded * tiles + PAD, tall * isa.width * tiles + PAD
    border, m = form.taps - 1, form.outputs
    strip = max(1, min(rows, (ROWS_BYTES // (4 * padded * (columns * m + border)) - border) // m))
    packed = max(padded * (strip * m + border) * (columns * m + border), tall * isa.width * strip * m * columns * m)
    common = {"images": images, "tile_rows": rows, "tile_columns": columns, "strip": strip, "scratch_size": packed,
              "threads_most": most}
    of_images = winograd_planes(m, form.taps, "image", x.size % isa.width > 0).prepare(
        image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size, height=shape.height,
        width=shape.width, top=shape.top, left=shape.left, plane=source_plane, **common)
    of_gradients = winograd_planes(m, form.taps, "gradient", g.size % isa.width > 0).prepare(
        image_size=g.image_size, x_first=4 * g.first, x_pixel=g.pixel_bytes, channels=g.size, height=shape.out_height,
        width=shape.out_width, top=0, left=0, plane=gradient_plane, **common)
    run = winograd_sums(m, form.taps, tile_channels, vectors, g.size % isa.width > 0).prepare(
        tiles=tiles, source_plane=source_plane, gradient_plane=gradient_plane, channels=x.size, lanes=g.size,
        blocks=tall // vectors, threads_most=most)
    planes = form.size**2
    return _AtOnce(of_images, of_gradients, run, planes * source_plane, planes * gradient_plane, most * packed,
                   most * planes * PIECE * vectors * isa.width)


def weight_gradient(shape: Shape, form: Winograd, x: Operand, g: Operand, gw: np.ndarray) -> None:
    """Write gw (O, C, r, r) of one group."""
    arguments = shape, form, x.channels, g.channels, len(x.array), threads.get_num_threads()
    if _sums_at_once(*arguments[:-1]):
        c = _at_once(*arguments)
        sources, gradients = memory.empty((c.sources,)), memory.empty((c.products,))
        packed = memory.scratch("packed", c.packed)
        c.images(x=x.array, planes=sources, scratch=packed)
        c.gradients(x=g.array, planes=gradients, scratch=packed)
        c.run(sources=sources, gradients=gradients, gw=gw, scratch=memory.scratch("partial", c.scratch))
    else:
        p = _in_parts(*arguments)
        partial = memory.scratch("partial", p.partial)
        p.run(x=x.array, g=g.array, partial=partial, scratch=memory.scratch("packed", p.scratch))
        p.transform(partial=partial, gw=gw)


def _sums_at_once(shape: Shape, form: Winograd, x: Channels, g: Channels, images: int) -> bool:
    """Whether planes of tiles take less memory than planes of sums."""
    tiles = images * -(-shape.out_height // form.outputs) * -(-shape.out_width // form.outputs)
    return tiles * (x.size + g.size) < x.size * g.size
