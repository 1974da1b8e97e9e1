"""Convolution with stride 1 by Winograd's transforms, 3x3 and 5x5, in strips that stay in the cache.

A task is a strip of tile rows of a few images.  Its input is packed with its padding, every tile of n x n pixels (n = m + r - 1 of
F(m, r)) is transformed into one vector in each of n^2 planes, each plane is multiplied by its plane of transformed filters, and the products are
transformed back.  Planes are laid out [plane][block of channels][tile][lane] and lie a cache line more than their size apart:
at a distance of a multiple of 4 KB their addresses would collide in the cache.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.direct import Channels, Operand, filter_steps, padded_bias, parts_for
from minidl.kernels.cpu.emit import Int, Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import pack_filters, pack_rows, unpack_gradient, zero
from minidl.kernels.cpu.tiles import accumulate, accumulators, choose_tile, correlate
from minidl.kernels.cpu.transforms import FORMS, Winograd, load_square, store_square, two_dimensional

STRIP_BYTES = 320 << 10                              # of planes: a part of a core's L2 cache
FILTER_BYTES = 1 << 20                               # filters beyond this come from outside the cache for every strip:
MANY_TILES = 32                                      # then so many tiles share them, though their planes leave the cache
_PAD = 16                                            # floats between planes


def _transform_tiles(k: Kernel, step: Any, n: int, packed: Pointer, blocks: Int, block_bytes: Int, line: Int, rows: Int,
                     columns: Int, outputs: int, planes: Pointer, first: Int, tiles: Int, plane_bytes: Int) -> None:
    """Transform the n x n vectors of every tile (``outputs`` pixels apart) into the planes, from tile ``first`` on."""
    with k.loop(blocks) as block, k.loop(rows) as row, k.loop(columns) as column:
        source = packed + block * block_bytes + row * (outputs * line) + column * (outputs * k.bytes)
        values = two_dimensional(k, step, load_square(k, n, source, line, k.bytes))
        target = planes + (block * tiles + first + row * columns + column) * k.bytes
        store_square(k, [[v for line in values for v in line]], target, 0, plane_bytes)


@program
def winograd(isa: ISA, outputs: int, taps: int, pixels: int, vectors: int, ragged_in: bool, ragged_out: bool) -> Kernel:
    """y = bias + x convolved with the transformed filters."""
    w = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_{pixels}x{vectors}" + "_in" * ragged_in + "_out" * ragged_out, isa.width)
    wide, planes = vectors * isa.width, w.size * w.size
    x, y = k.pointer("x", "images", "image_size"), k.pointer("y", "images", "result_size")
    filters, bias = k.pointer("filters", planes, "blocks", "channels", wide), k.pointer("bias", "blocks", wide)
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, height, width, top, left = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "height", "width", "top", "left")
    result_size, y_first, y_pixel, out_height, out_width, lanes, blocks = k.integers(
        "result_size", "y_first", "y_pixel", "out_height", "out_width", "lanes", "blocks")
    unit, strip, tile_rows, tile_columns, most_tiles, packed_size, scratch_size = k.integers(
        "unit", "strip", "tile_rows", "tile_columns", "most_tiles", "packed_size", "scratch_size")
    k.integer("threads_most")
    in_blocks = k.ceil_div(channels, k.width)
    packed = scratch + k.thread * scratch_size * 4
    in_plane, out_plane = (in_blocks * most_tiles * k.width + _PAD) * 4, (blocks * most_tiles * wide + _PAD) * 4
    sources = packed + packed_size * 4
    products = sources + planes * in_plane
    packed_width = tile_columns * outputs + (taps - 1)
    strips = k.ceil_div(tile_rows, strip)
    with k.parallel(k.ceil_div(images, unit) * strips) as task:
        first_image, first_row = task // strips * unit, task % strips * strip
        count, rows = k.minimum(unit, images - first_image), k.minimum(strip, tile_rows - first_row)
        tiles = k.maximum(count * rows * tile_columns, pixels)
        with k.loop(count) as i:
            packed_rows = rows * outputs + (taps - 1)
            pack_rows(k, ragged_in, x + (first_image + i) * image_size * 4 + x_first, height, width, x_pixel, channels,
                      first_row * outputs - top, packed_rows, left, k.same(1), packed, packed_width)
            line = packed_width * k.bytes
            _transform_tiles(k, w.image, w.size, packed, in_blocks, packed_rows * line, line, rows, tile_columns, outputs,
                             sources, i * rows * tile_columns, tiles, in_plane)
        with k.loop(planes) as plane, k.loop(blocks) as block, k.loop(0, tiles, pixels) as at:
            tile = k.minimum(at, tiles - pixels)
            sums = accumulate(k, pixels, vectors, [k.constant(0)] * (pixels * vectors),
                              sources + plane * in_plane + tile * k.bytes,
                              filters + (plane * blocks + block) * channels * (4 * wide), channels, tiles * k.bytes)
            target = products + plane * out_plane + (block * vectors * tiles + tile) * k.bytes
            for v in range(vectors):
                store_square(k, [sums[v::vectors]], target, 0, k.bytes)
                target = target + tiles * k.bytes
        with k.loop(count) as i, k.loop(rows) as row, k.loop(tile_columns) as column:
            h, v0 = (first_row + row) * outputs, column * outputs
            corner = y + (first_image + i) * result_size * 4 + y_first + (h * out_width + v0) * y_pixel
            source = products + ((i * rows + row) * tile_columns + column) * k.bytes
            with k.loop(k.ceil_div(lanes, k.width)) as vector:
                grid = load_square(k, w.size, source + vector * tiles * k.bytes, w.size * out_plane, out_plane)
                offset = k.load(bias + vector * k.bytes)
                values = [[value + offset for value in line] for line in two_dimensional(k, w.result, grid)]
                _store_tile(k, values, corner + vector * k.bytes, out_width * y_pixel, y_pixel, out_height - h,
                            out_width - v0, lanes - vector * k.width, ragged_out)
    return k


def _store_tile(k: Kernel, values: list[list[Vector]], at: Pointer, row: Int, pixel: Int, high: Int, across: Int, lanes: Int,
                ragged: bool) -> None:
    """Write a tile; at the edges of the map only the first ``high`` rows and ``across`` pixels of it exist."""
    n = len(values)
    whole = (high >= n) & (across >= n)
    if ragged:
        whole = whole & (lanes >= k.width)

    def edge() -> None:
        mask = k.first_lanes(lanes) if ragged else None
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                with k.when((high > i) & (across > j)):
                    k.store(value, at + i * row + j * pixel, mask)

    k.either(whole, lambda: store_square(k, values, at, row, pixel), edge)


@program
def winograd_filters(isa: ISA, outputs: int, taps: int, vectors: int) -> Kernel:
    """transformed[plane][block][c] = G g G' of the packed filters [tap][block][c]."""
    w = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_filters_{vectors}", isa.width)
    packed = k.pointer("packed", taps * taps, "rows", vectors * isa.width)
    transformed, rows = k.pointer("transformed", w.size**2, "rows", vectors * isa.width), k.integer("rows")
    plane = rows * (vectors * k.bytes)
    with k.parallel(rows * vectors) as i:
        values = two_dimensional(k, w.filter, load_square(k, taps, packed + i * k.bytes, taps * plane, plane))
        store_square(k, values, transformed + i * k.bytes, w.size * plane, plane)
    return k


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
    in_plane, out_plane = (padded * most_tiles + _PAD) * 4, (blocks * wide * most_tiles + _PAD) * 4
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
                _transform_tiles(k, w.image, w.size, packed, in_blocks, in_rows * in_line, in_line, rows, tile_columns,
                                 outputs, sources, at, tiles, in_plane)
                pack_rows(k, ragged_out, g + (first + i) * result_size * 4 + g_first, out_height, out_width, g_pixel, lanes,
                          first_row * outputs, out_rows, none, one, packed, tile_columns * outputs)
                _transform_tiles(k, w.gradient, outputs, packed, out_blocks, out_rows * out_line, out_line, rows,
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
class Shape(NamedTuple):
    """A convolution of stride 1: an image (height, width), zeros before it, and the result's size."""

    height: int
    width: int
    top: int
    left: int
    out_height: int
    out_width: int


def suits(geom: Any, transposed: bool = False) -> Winograd | None:
    """The form that needs the fewest products for a geometry; None if direct convolution needs hardly more."""
    taps = geom.kh
    if (geom.kw, *geom.stride, *geom.dilation) != (taps, 1, 1, 1, 1):
        return None
    if min(geom.C, geom.O) // geom.groups < 8:       # nothing to save in the products, and the transforms remain
        return None
    if transposed and max(geom.padding) > taps - 1:  # the padding of the transposed convolution would be negative
        return None
    high, across = (geom.H, geom.W) if transposed else (geom.out_h, geom.out_w)

    def gain(form: Winograd) -> float:
        tiles = -(-high // form.outputs) * -(-across // form.outputs)
        return taps**2 * high * across / (tiles * form.size**2)

    best = max((form for form in FORMS.values() if form.taps == taps), key=gain, default=None)
    return best if best and gain(best) > 1.5 else None


class _Strips(NamedTuple):
    """How the tiles of a batch are cut: images and tile rows per task, and the scratch behind them in floats."""

    tile_rows: int
    tile_columns: int
    unit: int
    strip: int
    most_tiles: int
    packed: int
    scratch: int


@functools.lru_cache(512)
def _strips(shape: Shape, form: Winograd, images: int, in_channels: int, out_channels: int, pixels_least: int, least: int) -> _Strips:
    m, planes = form.outputs, form.size**2
    rows, columns = -(-shape.out_height // m), -(-shape.out_width // m)
    fit = max(1, STRIP_BYTES // (4 * planes * (in_channels + out_channels)))
    if 4 * planes * in_channels * out_channels > FILTER_BYTES:
        fit = max(fit, MANY_TILES)
    if rows * columns <= fit:
        unit, strip = min(max(1, fit // (rows * columns)), max(1, images // least)), rows
    else:
        unit, strip = 1, max(1, min(rows, fit // columns))
    tiles = max(unit * strip * columns, pixels_least)
    border = form.taps - 1
    packed = max(in_channels, out_channels) * (strip * m + border) * (columns * m + border)
    scratch = packed + planes * ((in_channels + out_channels) * tiles + 2 * _PAD)
    return _Strips(rows, columns, unit, strip, tiles, packed, -(-scratch // 16) * 16)


@functools.cache
def _offsets(taps: int, turned: bool) -> np.ndarray:
    """The taps of a filter in order, or turned by 180 degrees."""
    order = np.arange(taps * taps, dtype=np.int64)
    return order[::-1].copy() if turned else order


class _Convolution(NamedTuple):
    """What :func:`convolve` works out once per shape."""

    pack: Launch
    transform: Launch
    run: Launch
    packed: int
    filters: int
    bias: int
    scratch: int


@functools.lru_cache(512)
def _convolution(shape: Shape, form: Winograd, x: Channels, y: Channels, images: int, steps: tuple[int, int], w_size: int,
                 most: int) -> _Convolution:
    isa = engine.host_isa()
    tall = -(-y.size // isa.width)
    strips = _strips(shape, form, images, -(-x.size // isa.width) * isa.width, tall * isa.width, 16, 2 * most)
    pixels, vectors = choose_tile(isa, max(8, strips.unit * strips.strip * strips.tile_columns), tall)
    blocks, wide = tall // vectors, vectors * isa.width
    pack = pack_filters(vectors).prepare(taps=form.taps**2, blocks=blocks, channels=x.size, lanes=y.size, lane_step=steps[0],
                                         channel_step=steps[1], w_size=w_size)
    transform = winograd_filters(form.outputs, form.taps, vectors).prepare(rows=blocks * x.size)
    run = winograd(form.outputs, form.taps, pixels, vectors, x.size % isa.width > 0, y.size % isa.width > 0).prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size,
        height=shape.height, width=shape.width, top=shape.top, left=shape.left, result_size=y.image_size,
        y_first=4 * y.first, y_pixel=y.pixel_bytes, out_height=shape.out_height, out_width=shape.out_width, lanes=y.size,
        blocks=blocks, unit=strips.unit, strip=strips.strip, tile_rows=strips.tile_rows, tile_columns=strips.tile_columns,
        most_tiles=strips.most_tiles, packed_size=strips.packed, scratch_size=strips.scratch, threads_most=most)
    size = blocks * x.size * wide
    return _Convolution(pack, transform, run, form.taps**2 * size, form.size**2 * size, blocks * wide, most * strips.scratch)


def convolve(shape: Shape, form: Winograd, x: Operand, w: np.ndarray, bias: np.ndarray | None, y: Operand,
             transposed: bool) -> None:
    """Write the convolution of x into y.  ``w`` is the group's (O, C, r, r); ``transposed`` swaps the roles of O and C."""
    c = _convolution(shape, form, x.channels, y.channels, len(x.array), filter_steps(w, transposed), w.size,
                     threads.get_num_threads())
    packed, filters = memory.scratch("filters", c.packed), memory.scratch("transformed", c.filters)
    c.pack(w=w, offsets=_offsets(form.taps, transposed), packed=packed)
    c.transform(packed=packed, transformed=filters)
    c.run(x=x.array, y=y.array, filters=filters, bias=padded_bias(bias, c.bias), scratch=memory.scratch("packed", c.scratch))


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
    strips = _strips(shape, form, images, padded, tall * isa.width, 1, parts)
    build = winograd_weight_grad(form.outputs, form.taps, tile_channels, vectors, x.size % isa.width > 0, g.size % isa.width > 0)
    run = build.prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size, padded=padded,
        height=shape.height, width=shape.width, top=shape.top, left=shape.left, result_size=g.image_size,
        g_first=4 * g.first, g_pixel=g.pixel_bytes, out_height=shape.out_height, out_width=shape.out_width, lanes=g.size,
        blocks=blocks, parts=parts, unit=strips.unit, strip=strips.strip, tile_rows=strips.tile_rows,
        tile_columns=strips.tile_columns, most_tiles=strips.most_tiles, packed_size=strips.packed,
        scratch_size=strips.scratch, threads_most=most)
    taps = form.taps**2
    transform = winograd_filter_grad(form.outputs, form.taps, vectors).prepare(parts=parts, rows=blocks * padded)
    unpack = unpack_gradient(vectors).prepare(parts=1, taps=taps, all_taps=taps, blocks=blocks, padded=padded, channels=x.size,
                                              lanes=g.size)
    return _WeightGradient(run, transform, unpack, parts * size, taps * blocks * padded * vectors * isa.width,
                           most * strips.scratch)


def weight_gradient(shape: Shape, form: Winograd, x: Operand, g: Operand, gw: np.ndarray) -> None:
    """Write gw (O, C, r, r) of one group."""
    c = _weight_gradient(shape, form, x.channels, g.channels, len(x.array), threads.get_num_threads())
    partial, packed = memory.scratch("partial", c.partial), memory.scratch("filters", c.packed)
    c.run(x=x.array, g=g.array, partial=partial, scratch=memory.scratch("packed", c.scratch))
    c.transform(partial=partial, packed=packed)
    c.unpack(partial=packed, gw=gw)
