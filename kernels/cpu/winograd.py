"""Convolution with stride 1 by Winograd's transforms, 3x3 and 5x5, in strips that stay in the cache.

A task is a strip of tile rows of a few images.  Its input is packed with its padding, every tile of n x n pixels (n = m + r - 1
of F(m, r)) is transformed into one vector in each of n^2 planes, each plane is multiplied by its plane of transformed filters,
and the products are transformed back.  Planes are laid out [plane][block of channels][tile][lane] and lie a cache line more than
their size apart: at a distance of a multiple of 4 KB their addresses would collide in the cache.

Transformed filters take n^2 / r^2 times the memory of filters.  Many tiles share them, so they are made beforehand; where there
are few tiles and many filters, writing and reading them would take longer than the products, and each task transforms
what it needs, a piece at a time, in its cache.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.direct import FLOOR, Channels, Operand, at_least, filter_steps, padded_bias
from minidl.kernels.cpu.emit import Int, Kernel, Number, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.filters import filter_reader
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import pack_rows, zero
from minidl.kernels.cpu.tiles import accumulate, choose_tile
from minidl.kernels.cpu.transforms import FORMS, Winograd, load_square, store_square, two_dimensional
from minidl.kernels.cpu.winograd_shapes import FILTER_BYTES, PAD, Shape, cut

PIECE = 64                                           # channels whose filters a task transforms at a time
FEW_TILES = 256                                      # of a batch: up to so many, tasks transform large filters themselves


def transform_tiles(k: Kernel, step: Any, n: int, packed: Pointer, blocks: Int, block_bytes: Int, line: Int, rows: Int,
                    columns: Int, outputs: int, planes: Pointer, first: Int, tiles: Int, plane_bytes: Int) -> None:
    """Transform the n x n vectors of every tile (``outputs`` pixels apart) into the planes, from tile ``first`` on."""
    with k.loop(blocks) as block, k.loop(rows) as row, k.loop(columns) as column:
        source = packed + block * block_bytes + row * (outputs * line) + column * (outputs * k.bytes)
        values = two_dimensional(k, step, load_square(k, n, source, line, k.bytes))
        target = planes + (block * tiles + first + row * columns + column) * k.bytes
        store_square(k, [[v for line in values for v in line]], target, 0, plane_bytes)


@program
def winograd(isa: ISA, outputs: int, taps: int, pixels: int, vectors: int, filters: str, ragged_in: bool,
             ragged_out: bool) -> Kernel:
    """y = bias + x convolved with filters, at least ``floor``.

    ``filters`` are "transformed" already, or w, of which each task transforms a piece at a time, "straight" or "turned".
    """
    form = FORMS[outputs, taps]
    name = f"winograd{outputs}{taps}_{pixels}x{vectors}_{filters}" + "_in" * ragged_in + "_out" * ragged_out
    k = Kernel(name, isa.width)
    wide, planes = vectors * isa.width, form.size**2
    x, y = k.pointer("x", "images", "image_size"), k.pointer("y", "images", "result_size")
    in_pieces = filters != "transformed"
    w = k.pointer("w", "w_size") if in_pieces else k.pointer("w", planes, "blocks", "channels", wide)
    floor, bias = k.pointer("floor", 1), k.pointer("bias", "blocks", wide)
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, height, width, top, left = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "height", "width", "top", "left")
    result_size, y_first, y_pixel, out_height, out_width, lanes, blocks = k.integers(
        "result_size", "y_first", "y_pixel", "out_height", "out_width", "lanes", "blocks")
    unit, strip, groups, tile_rows, tile_columns, most_tiles, packed_size, scratch_size = k.integers(
        "unit", "strip", "groups", "tile_rows", "tile_columns", "most_tiles", "packed_size", "scratch_size")
    lane_step, channel_step = k.integers("lane_step", "channel_step")
    k.integers("w_size", "threads_most")
    in_blocks, kept_blocks = k.ceil_div(channels, k.width), 1 if in_pieces else blocks
    in_plane, out_plane = (in_blocks * most_tiles * k.width + PAD) * 4, (most_tiles * wide * kept_blocks + PAD) * 4
    piece_plane = (PIECE * wide + PAD) * 4
    packed = scratch + k.thread * scratch_size * 4
    sources = packed + packed_size * 4
    products = sources + planes * in_plane
    pieces = products + planes * out_plane
    packed_width = tile_columns * outputs + (taps - 1)
    strips, least = k.ceil_div(tile_rows, strip), k.broadcast(floor)
    with k.parallel(k.ceil_div(images, unit) * strips * groups) as task:
        group, place = task % groups, task // groups
        first_block, end_block = group * blocks // groups, (group + 1) * blocks // groups
        first_image, first_row = place // strips * unit, place % strips * strip
        count, rows = k.minimum(unit, images - first_image), k.minimum(strip, tile_rows - first_row)
        tiles = k.ceil_div(count * rows * tile_columns, pixels) * pixels         # the last ones may be nobody's
        with k.loop(count) as i:
            packed_rows = rows * outputs + (taps - 1)
            pack_rows(k, ragged_in, x + (first_image + i) * image_size * 4 + x_first, height, width, x_pixel, channels,
                      first_row * outputs - top, packed_rows, left, k.same(1), packed, packed_width)
            line = packed_width * k.bytes
            transform_tiles(k, form.image, form.size, packed, in_blocks, packed_rows * line, line, rows, tile_columns,
                            outputs, sources, i * rows * tile_columns, tiles, in_plane)

        def multiply(source: Pointer, w: Pointer, channels: Number, target: Pointer, add: bool) -> None:
            """target[vector][tile] = sums of products of all tiles, in one plane, with one block of filters."""
            with k.loop(0, tiles, pixels) as tile:
                at = target + tile * k.bytes
                places = [at + p * k.bytes + v * tiles * k.bytes for p in range(pixels) for v in range(vectors)]
                start = [k.load(place) if add else k.constant(0) for place in places]
                sums = accumulate(k, pixels, vectors, start, source + tile * k.bytes, w, channels, tiles * k.bytes)
                for value, place in zip(sums, places, strict=True):
                    k.store(value, place)

        def finish(first: Int, end: Int, products: Pointer) -> None:
            """Transform the products of vectors ``first`` .. ``end`` of lanes back into y."""
            with k.loop(count) as i, k.loop(rows) as row, k.loop(tile_columns) as column:
                h, v0 = (first_row + row) * outputs, column * outputs
                corner = y + (first_image + i) * result_size * 4 + y_first + (h * out_width + v0) * y_pixel
                source = products + ((i * rows + row) * tile_columns + column) * k.bytes
                with k.loop(first, end) as vector:
                    at = source + (vector - first) * tiles * k.bytes
                    grid = load_square(k, form.size, at, form.size * out_plane, out_plane)
                    offset = k.load(bias + vector * k.bytes)
                    lines = two_dimensional(k, form.result, grid)
                    values = [at_least(k, least, [value + offset for value in line]) for line in lines]
                    _store_tile(k, values, corner + vector * k.bytes, out_width * y_pixel, y_pixel, out_height - h,
                                out_width - v0, lanes - vector * k.width, ragged_out)

        last_vector = k.ceil_div(lanes, k.width)
        if in_pieces:
            with k.loop(first_block, end_block) as block:
                read = [filter_reader(k, w, taps, filters == "turned", lanes, lane_step, channel_step,
                                      block * wide + v * k.width) for v in range(vectors)]
                with k.loop(planes) as plane:
                    zero(k, products + plane * out_plane, tiles * vectors)
                with k.loop(0, channels, PIECE) as first:
                    here = k.minimum(PIECE, channels - first)
                    with k.loop(here) as c:
                        for v in range(vectors):
                            _store_filter(k, form, read[v](first + c), pieces + (c * vectors + v) * k.bytes, piece_plane)
                    with k.loop(planes) as plane:
                        multiply(sources + plane * in_plane + first * tiles * 4, pieces + plane * piece_plane, here,
                                 products + plane * out_plane, True)
                finish(block * vectors, k.minimum((block + 1) * vectors, last_vector), products)
        else:
            with k.loop(planes) as plane, k.loop(first_block, end_block) as block:
                multiply(sources + plane * in_plane, w + (plane * blocks + block) * channels * (4 * wide), channels,
                         products + plane * out_plane + block * vectors * tiles * k.bytes, False)
            finish(first_block * vectors, k.minimum(end_block * vectors, last_vector),
                   products + first_block * vectors * tiles * k.bytes)
    return k


def _store_filter(k: Kernel, form: Winograd, taps: list[list[Vector]], at: Pointer, plane: Number) -> None:
    """Write a vector of transformed filters into each plane."""
    store_square(k, two_dimensional(k, form.filter, taps), at, form.size * plane, plane)


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
def winograd_filters(isa: ISA, outputs: int, taps: int, vectors: int, turned: bool) -> Kernel:
    """transformed[plane][block][c] = G g G' of the filters of w, ``vectors`` vectors of lanes to a block."""
    form = FORMS[outputs, taps]
    k = Kernel(f"winograd{outputs}{taps}_filters_{vectors}" + "_turned" * turned, isa.width)
    w = k.pointer("w", "w_size")
    transformed = k.pointer("transformed", form.size**2, "blocks", "channels", vectors * isa.width)
    blocks, channels, lanes, lane_step, channel_step = k.integers("blocks", "channels", "lanes", "lane_step", "channel_step")
    k.integer("w_size")
    plane = blocks * channels * (vectors * k.bytes)
    pieces = k.ceil_div(channels, 16)                # enough tasks for all threads
    with k.parallel(blocks * vectors * pieces) as task:
        vector, piece = task // pieces, task % pieces
        read = filter_reader(k, w, taps, turned, lanes, lane_step, channel_step, vector * k.width)
        at = transformed + vector // vectors * (channels * vectors * k.bytes) + vector % vectors * k.bytes
        with k.loop(piece * channels // pieces, (piece + 1) * channels // pieces) as c:
            _store_filter(k, form, read(c), at + c * (vectors * k.bytes), plane)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
class _Convolution(NamedTuple):
    """What :func:`convolve` works out once per shape; ``transform`` is None where the tasks transform the filters."""

    transform: Launch | None
    run: Launch
    filters: int
    bias: int
    scratch: int


@functools.lru_cache(512)
def _convolution(shape: Shape, form: Winograd, x: Channels, y: Channels, images: int, steps: tuple[int, int], w_size: int,
                 turned: bool, most: int) -> _Convolution:
    isa, planes = engine.host_isa(), form.size**2
    tall, in_channels = -(-y.size // isa.width), -(-x.size // isa.width) * isa.width
    strips = cut(shape, form, images, in_channels, tall * isa.width, 2 * most)
    pixels, vectors = choose_tile(isa, max(8, strips.tiles), tall)
    blocks, wide = tall // vectors, vectors * isa.width
    tiles, count = -(-strips.tiles // pixels) * pixels, strips.count(images)
    large = 4 * planes * x.size * tall * isa.width > FILTER_BYTES
    few = images * strips.tile_rows * strips.tile_columns <= FEW_TILES
    how = ("turned" if turned else "straight") if large and few else "transformed"
    at_once = wide if how != "transformed" else tall * isa.width
    packed = strips.packed(form, in_channels)
    scratch = packed + planes * (in_channels * tiles + at_once * tiles + 2 * PAD)
    scratch += planes * (PIECE * wide + PAD) if how != "transformed" else 0
    scratch = -(-scratch // 16) * 16
    lane_step, channel_step = steps
    common = {"blocks": blocks, "channels": x.size, "lanes": y.size, "lane_step": lane_step, "channel_step": channel_step,
              "w_size": w_size}
    run = winograd(form.outputs, form.taps, pixels, vectors, how, x.size % isa.width > 0, y.size % isa.width > 0).prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, height=shape.height,
        width=shape.width, top=shape.top, left=shape.left, result_size=y.image_size, y_first=4 * y.first,
        y_pixel=y.pixel_bytes, out_height=shape.out_height, out_width=shape.out_width, unit=strips.unit, strip=strips.strip,
        groups=1 if count >= most else min(blocks, most), tile_rows=strips.tile_rows, tile_columns=strips.tile_columns,
        most_tiles=tiles, packed_size=packed, scratch_size=scratch, threads_most=most, **common)
    transform = winograd_filters(form.outputs, form.taps, vectors, turned).prepare(**common) if how == "transformed" else None
    return _Convolution(transform, run, planes * blocks * x.size * wide, blocks * wide, most * scratch)


def convolve(shape: Shape, form: Winograd, x: Operand, w: np.ndarray, bias: np.ndarray | None, y: Operand,
             transposed: bool, relu: bool = False) -> None:
    """Write the convolution of x into y.  ``w`` is the group's (O, C, r, r); ``transposed`` swaps the roles of O and C."""
    c = _convolution(shape, form, x.channels, y.channels, len(x.array), filter_steps(w, transposed), w.size, transposed,
                     threads.get_num_threads())
    filters = w
    if c.transform:
        filters = memory.scratch("filters", c.filters)
        c.transform(w=w, transformed=filters)
    c.run(x=x.array, y=y.array, w=filters, floor=FLOOR[relu], bias=padded_bias(bias, c.bias),
          scratch=memory.scratch("packed", c.scratch))
