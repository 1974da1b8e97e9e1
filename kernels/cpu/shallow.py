"""Convolutions of images with few channels: the first layer of a net.

Where :mod:`direct` keeps a vector of channels per pixel, an image of three channels would be thirteen parts zeros, and a few of
its rows too much for the nearest cache.  Here the packed rows are dense: a row of the filter meets kw * C numbers that follow
each other in memory, whatever the stride, and the pixels of neighbouring outputs are stride * C numbers apart.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.direct import FLOOR, at_least, padded_bias, parts_for, store_tile
from minidl.kernels.cpu.emit import Int, Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import AHEAD, zero
from minidl.kernels.cpu.partial import PartialSums
from minidl.kernels.cpu.tiles import accumulate_taps, choose_tile

MOST_CHANNELS = 8                                    # beyond, half a vector is in use and direct.py's tiles are as good
STRIP_BYTES = 32 << 10                               # of packed rows: they stay in the nearest cache
WRITTEN_OUT = 5                                      # of so many products per output, or less, an inner loop consists: the
                                                     # compiler keeps too many numbers in flight when it sees more at a time


def suits(geom: Any) -> bool:
    """Whether these kernels compute a convolution and its weight gradient."""
    return geom.groups == 1 and geom.C <= MOST_CHANNELS


def pack_dense(k: Kernel, channels: int, planar: bool, image: Pointer, height: Int, width: Int, first: Int, rows: Int, left: Int,
               target: Pointer, line: Int) -> None:
    """Copy rows ``first`` .. of an image into zero-padded rows of ``line`` floats, a multiple of the vector's width.

    The image is (height, width, channels), or (channels, height, width) if ``planar``.
    """
    with k.loop(rows) as r:
        row, to = first + r, target + r * line * 4
        zero(k, to, line // k.width)
        with k.when((row >= 0) & (row < height)):
            if planar:
                count = k.minimum(width, line // channels - left)
                for c in range(channels):
                    source, start = image + (c * height + row) * width * 4, to + (left * channels + c) * 4
                    with k.loop(count) as i:
                        k.copy_float(source + i * 4, start + i * (4 * channels))
            else:
                count = k.minimum(width * channels, line - left * channels)
                source, start = image + row * width * (4 * channels), to + left * (4 * channels)
                with k.loop(count // k.width) as i:
                    k.store(k.load(source + i * k.bytes), start + i * k.bytes)
                done = count // k.width * k.bytes
                rest = k.first_lanes(count % k.width)
                k.store(k.load(source + done, rest), start + done, rest)


@program
def shallow(isa: ISA, pixels: int, vectors: int, channels: int, stride: int, at_once: int, planar: bool, ragged: bool) -> Kernel:
    """y[pixel][lane] = bias + sum over runs of ``at_once`` numbers of the packed rows, of which ``runs`` has the places."""
    name = f"shallow{channels}_{pixels}x{vectors}_by{stride}_{at_once}" + "_planar" * planar + "_ragged" * ragged
    k = Kernel(name, isa.width)
    wide = vectors * isa.width
    x, y = k.pointer("x", "images", "height", "width", channels), k.pointer("y", "images", "out_height", "out_width", "outputs")
    filters, bias = k.pointer("filters", "blocks", "run_count", at_once, wide), k.pointer("bias", "blocks", wide)
    floor, runs = k.pointer("floor", 1), k.pointer("runs", "run_count", element="i64")
    scratch = k.pointer("scratch", "threads_most", "packed_rows", "line")
    images, height, width, top, left, row_step = k.integers("images", "height", "width", "top", "left", "row_step")
    out_height, out_width, outputs, blocks, run_count = k.integers("out_height", "out_width", "outputs", "blocks", "run_count")
    strips, strip, packed_rows, line = k.integers("strips", "strip", "packed_rows", "line")
    k.integer("threads_most")
    packed = scratch + k.thread * packed_rows * line * 4
    least = k.broadcast(floor)
    step, run_bytes = 4 * stride * channels, at_once * 4 * wide
    with k.parallel(images * strips) as task:
        image, low = task // strips, task % strips * strip
        pack_dense(k, channels, planar, x + image * height * width * (4 * channels), height, width, low * row_step - top,
                   packed_rows, left, packed, line)
        with k.loop(blocks) as block:
            start = [k.load(bias + block * (4 * wide) + v * k.bytes) for v in range(vectors)]
            with k.loop(low, k.minimum(low + strip, out_height)) as row, k.loop(0, out_width, pixels) as at:
                column = k.minimum(at, out_width - pixels)       # the last tile starts early instead of ending short
                source = packed + (row - low) * row_step * line * 4 + column * step
                sums = accumulate_taps(k, pixels, vectors, start * pixels, source, runs, run_count,
                                       filters + block * run_count * run_bytes, run_bytes, at_once, 0, step)
                target = y + (((image * out_height + row) * out_width + column) * outputs + block * wide) * 4
                store_tile(k, vectors, at_least(k, least, sums), target, outputs * 4, outputs - block * wide, ragged)
    return k


@program
def shallow_weight_grad(isa: ISA, offsets: tuple[int, ...], together: int, vectors: int, channels: int, stride: int, planar: bool,
                        ragged: bool) -> Kernel:
    """partial[part][block][number][lane] = sum over the part's images and pixels of packed[pixel + number] * gy[pixel][lane].

    Numbers are computed in sets of ``together`` rows of the filter, whose places ``bases`` has, and in each of these ``offsets``.
    """
    at_once = together * len(offsets)
    name = f"shallow_weight_grad{channels}_{together}x{'_'.join(map(str, offsets))}x{vectors}_by{stride}"
    k = Kernel(name + "_planar" * planar + "_ragged" * ragged, isa.width)
    wide, held = vectors * isa.width, at_once * vectors
    x, g = k.pointer("x", "images", "height", "width", channels), k.pointer("g", "images", "out_height", "out_width", "outputs")
    partial = k.pointer("partial", "parts", "blocks", "sets", at_once, wide)
    bases = k.pointer("bases", "sets", together, element="i64")
    scratch = k.pointer("scratch", "threads_most", "packed_rows", "line")
    images, height, width, top, left, row_step = k.integers("images", "height", "width", "top", "left", "row_step")
    out_height, out_width, outputs, blocks, sets, parts = k.integers(
        "out_height", "out_width", "outputs", "blocks", "sets", "parts")
    strip, packed_rows, line = k.integers("strip", "packed_rows", "line")
    k.integer("threads_most")
    packed = scratch + k.thread * packed_rows * line * 4
    step = 4 * stride * channels
    with k.parallel(parts) as part:
        mine = partial + part * blocks * sets * (held * k.bytes)
        zero(k, mine, blocks * sets * held)
        with k.loop(part * images // parts, (part + 1) * images // parts) as image, k.loop(0, out_height, strip) as low:
            pack_dense(k, channels, planar, x + image * height * width * (4 * channels), height, width, low * row_step - top,
                       packed_rows, left, packed, line)
            with k.loop(blocks) as block, k.loop(sets) as number:
                gradient = g + ((image * out_height + low) * out_width * outputs + block * wide) * 4
                last = k.first_lanes(outputs - block * wide - (vectors - 1) * k.width) if ragged else None
                places = [mine + (block * sets + number) * (held * k.bytes) + i * k.bytes for i in range(held)]
                sources = [packed + k.load_integer(bases + (number * together + t) * 8) for t in range(together)]

                def pixel(state: list[Any], last: Any = last) -> list[Any]:
                    sums, sources, g = state[:held], state[held:-1], state[-1]
                    values = [k.load(g + v * k.bytes, last if v == vectors - 1 else None) for v in range(vectors)]
                    for v in range(vectors):         # the first of many passes over gy waits for memory
                        k.prefetch(g + (outputs * (4 * AHEAD) + v * k.bytes))
                    result: list[Vector] = []
                    for source in sources:
                        for offset in offsets:
                            number = k.broadcast(source + 4 * offset)
                            result += [k.fma(number, values[v], sums[len(result) + v]) for v in range(vectors)]
                    return [*result, *(source + step for source in sources), g + outputs * 4]

                def row(state: list[Any]) -> list[Any]:
                    sources = state[held:-1]
                    after = k.carry(out_width, state, pixel)
                    return [*after[:held], *(source + row_step * line * 4 for source in sources), after[-1]]

                start = [*map(k.load, places), *sources, gradient]
                sums = k.carry(k.minimum(strip, out_height - low), start, row)[:held]
                for value, place in zip(sums, places, strict=True):
                    k.store(value, place)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
class _Rows(NamedTuple):
    """How rows are packed: outputs per strip, strips, packed rows behind one, floats of a line."""

    strip: int
    strips: int
    packed: int
    line: int


def _rows(geom: Any, least: int, width: int) -> _Rows:
    """Strips that fit the cache, at least ``least`` of them if there are rows enough."""
    line = (((geom.out_w - 1) * geom.stride[1] + (geom.kw - 1) * geom.dilation[1] + 1) * geom.C + width - 1) // width * width
    extent = (geom.kh - 1) * geom.dilation[0] + 1
    fit = max(1, (STRIP_BYTES // (4 * line) - extent) // geom.stride[0] + 1, min(4, geom.out_h))
    strips = max(-(-geom.out_h // fit), min(least, geom.out_h))
    strip = -(-geom.out_h // strips)
    return _Rows(strip, -(-geom.out_h // strip), (strip - 1) * geom.stride[0] + extent, line)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of ``number`` that is at most ``most``."""
    return max(n for n in range(1, max(most, 1) + 1) if number % n == 0)


def _run(geom: Any, most: int) -> int:
    """How many numbers of a row of the filter, which follow each other in the image, are taken at once: at most ``most``."""
    return _divisor(geom.kw * geom.C, most) if geom.dilation[1] == 1 else _divisor(geom.C, most)


def _places(geom: Any, run: int, line: int) -> list[int]:
    """Where in the packed rows the runs of the filter begin, for the first output."""
    starts = [(v * geom.dilation[1] * geom.C + c) for v in range(geom.kw) for c in range(geom.C)][::run]
    return [u * geom.dilation[0] * line + start for u in range(geom.kh) for start in starts]


class _Convolution(NamedTuple):
    """What :func:`convolve` works out once per shape."""

    run: Launch
    runs: np.ndarray
    blocks: int
    wide: int
    scratch: int


@functools.lru_cache(256)
def _convolution(geom: Any, planar: bool, most: int) -> _Convolution:
    isa = engine.host_isa()
    tall = -(-geom.O // isa.width)
    pixels, vectors = choose_tile(isa, geom.out_w, tall)
    rows = _rows(geom, -(-2 * most // geom.N), isa.width)
    at_once = _run(geom, WRITTEN_OUT)
    runs = 4 * np.array(_places(geom, at_once, rows.line), np.int64)
    run = shallow(pixels, vectors, geom.C, geom.stride[1], at_once, planar, geom.O % isa.width > 0).prepare(
        images=geom.N, height=geom.H, width=geom.W, top=geom.padding[0], left=geom.padding[2], row_step=geom.stride[0],
        out_height=geom.out_h, out_width=geom.out_w, outputs=geom.O, blocks=tall // vectors, run_count=len(runs),
        strips=rows.strips, strip=rows.strip, packed_rows=rows.packed, line=rows.line, threads_most=most)
    return _Convolution(run, runs, tall // vectors, vectors * isa.width, most * rows.packed * rows.line)


def _memory(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """x (N, C, H, W) as the kernels take it, and whether that is (N, C, H, W) in memory instead of (N, H, W, C)."""
    if x.flags.c_contiguous:
        return x, True
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)), False


def convolve(geom: Any, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, relu: bool) -> None:
    """Write y (N, oh, ow, O) from x (N, C, H, W), whose batch is not empty."""
    images, planar = _memory(x)
    c = _convolution(geom, planar, threads.get_num_threads())
    lanes = np.zeros((w[0].size, c.blocks * c.wide), np.float32)                 # [row, column, channel][lane]
    lanes[:, : geom.O] = w.transpose(2, 3, 1, 0).reshape(-1, geom.O)
    filters = np.ascontiguousarray(lanes.reshape(-1, c.blocks, c.wide).transpose(1, 0, 2))
    c.run(x=images, y=y, filters=filters, floor=FLOOR[relu], bias=padded_bias(bias, c.blocks * c.wide), runs=c.runs,
          scratch=memory.scratch("packed", c.scratch))


@functools.lru_cache(256)
def _weight_gradient(geom: Any, planar: bool, most: int) -> PartialSums:
    isa = engine.host_isa()
    tall, rows = -(-geom.O // isa.width), _rows(geom, 1, isa.width)
    at_once, together, vectors = _gradient_tile(isa, geom, tall)
    bases = 4 * np.array(_places(geom, at_once, rows.line), np.int64)
    offsets = tuple(v * geom.dilation[1] * geom.C + c for v in range(geom.kw) for c in range(geom.C))[:at_once]
    sets, blocks = len(bases) // together, tall // vectors
    parts = parts_for(geom.N, w_size := blocks * vectors * isa.width * len(bases) * at_once)
    run = shallow_weight_grad(offsets, together, vectors, geom.C, geom.stride[1], planar, geom.O % isa.width > 0).prepare(
        images=geom.N, height=geom.H, width=geom.W, top=geom.padding[0], left=geom.padding[2], row_step=geom.stride[0],
        out_height=geom.out_h, out_width=geom.out_w, outputs=geom.O, blocks=blocks, sets=sets, parts=parts,
        strip=rows.strip, packed_rows=rows.packed, line=rows.line, threads_most=most)
    shape = (parts, blocks, w_size // (blocks * vectors * isa.width), vectors * isa.width)
    return PartialSums(run, bases, shape, most * rows.packed * rows.line)


def _gradient_tile(isa: ISA, geom: Any, tall: int) -> tuple[int, int, int]:
    """(numbers of a row of the filter, rows of it, vectors of gy) at once: as many sums as there are registers for.

    With few vectors of gy every product reads its own number; with more of them a product needs fewer loads.
    """
    room, found = isa.registers - 5, []
    for vectors in (n for n in (1, 2, 4) if tall % n == 0):
        run = _run(geom, room // vectors)
        whole = geom.kw * geom.C == run
        together = _divisor(geom.kh, min(room // (vectors * run), 5)) if whole else 1
        sums = run * together * vectors
        # Loads (two a cycle) or products (two a cycle) per sum, or their latency when there are few sums.
        cycles = max(sums, run * together + vectors, 9) / sums
        found.append((cycles, -sums, (run, together, vectors)))
    return min(found)[-1]


def weight_gradient(geom: Any, x: np.ndarray, g: np.ndarray, gw: np.ndarray) -> None:
    """Write gw (O, C, kh, kw) from x (N, C, H, W) and g (N, oh, ow, O), whose batches are not empty."""
    images, planar = _memory(x)
    c = _weight_gradient(geom, planar, threads.get_num_threads())
    lanes = c.total(images, g).transpose(0, 2, 1).reshape(-1, geom.kh, geom.kw, geom.C)[: geom.O]
    gw[...] = lanes.transpose(0, 3, 1, 2)
