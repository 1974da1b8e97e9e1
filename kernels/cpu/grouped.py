"""Convolutions of many narrow groups, depthwise ones first among them: a lane is a channel.

Where a group has one, two, four or eight channels, going in and coming out, whole groups fit into a vector, and output lane l
needs nothing but the channels of its own group.  Packing writes, for each channel i of a group, a vector whose lane l holds
channel i *of the group of lane l*; from then on a convolution is products of vectors, one per tap and channel of a group, and
no lane is idle.  For a depthwise convolution (Howard et al., "MobileNets", 2017) this is a plain copy.

Every product reads its own vector of pixels, so these kernels are bound by loads (two a cycle), not by multipliers; at large
maps by memory.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.direct import padded_bias, parts_for
from minidl.kernels.cpu.emit import Int, Kernel, Mask, Pointer
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import AHEAD, zero
from minidl.kernels.cpu.partial import PartialSums
from minidl.kernels.cpu.plans import Plan
from minidl.kernels.cpu.tiles import accumulators

SIZES = (1, 2, 4, 8)                                 # channels of a group that these kernels take
STRIP_BYTES = 320 << 10                              # of packed input: a part of a core's L2 cache
_JOB = 5                                             # integers per job in its table


def pack_groups(k: Kernel, size: int, ragged: bool, image: Pointer, height: Int, width: Int, channels: Int, first_block: Int,
                blocks: Int, first: Int, rows: Int, left: Int, target: Pointer, packed_width: Int, plane: Int) -> None:
    """Copy rows ``first`` .. of some blocks of channels of an image into zero-padded planes, ``plane`` bytes apart.

    plane[row][column][i] is a vector whose lane l is channel i of lane l's group.
    """
    mates = [[lane // size * size + i for lane in range(k.width)] for i in range(size)]
    cell = size * k.bytes
    last = k.first_lanes(channels - (first_block + blocks - 1) * k.width) if ragged else None

    def copy(source: Pointer, to: Pointer, mask: Mask | None = None) -> None:
        value = k.load(source, mask)
        k.prefetch(source + channels * (4 * AHEAD))
        for i, lanes in enumerate(mates):
            k.store(value if size == 1 else k.shuffle(value, value, lanes), to + i * k.bytes)

    def one(state: list[Pointer]) -> list[Pointer]:
        source, to = state
        copy(source, to)
        return [source + k.bytes, to + plane]

    def column(state: list[Pointer]) -> list[Pointer]:
        source, to = k.carry(blocks - int(ragged), state, one)
        if ragged:
            copy(source, to, last)
        return [state[0] + channels * 4, state[1] + cell]

    with k.loop(rows) as r:
        row = first + r
        line = target + r * packed_width * cell

        def inside(line: Pointer = line, row: Int = row) -> None:
            low = k.minimum(left, packed_width)
            high = k.maximum(low, k.minimum(width + left, packed_width))
            with k.loop(blocks) as block:
                zero(k, line + block * plane, low * size)
                zero(k, line + block * plane + high * cell, (packed_width - high) * size)
            source = image + ((row * width + low - left) * channels + first_block * k.width) * 4
            k.carry(high - low, [source, line + low * cell], column)

        def outside(line: Pointer = line) -> None:
            with k.loop(blocks) as block:
                zero(k, line + block * plane, packed_width * size)

        k.either((row >= 0) & (row < height), inside, outside)


@program
def grouped(isa: ISA, pixels: int, size: int, stride: int, ragged: bool) -> Kernel:
    """Every job of a plan: y[pixel][lane] = bias + sum over taps and i < size of packed[pixel + tap][i][lane] * filter[lane].

    Neighbouring outputs see pixels that are ``stride`` columns apart.
    """
    k = Kernel(f"grouped{size}_{pixels}_by{stride}" + "_ragged" * ragged, isa.width)
    x, y = k.pointer("x", "images", "image_size"), k.pointer("y", "images", "result_size")
    filters, bias = k.pointer("filters", "blocks", "all_taps", size, isa.width), k.pointer("bias", "blocks", isa.width)
    taps = k.pointer("taps", "all_taps", element="i64")
    jobs = k.pointer("jobs", "job_count", _JOB, element="i64")
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, height, width, channels, blocks = k.integers(
        "images", "image_size", "height", "width", "channels", "blocks")
    top, left, packed_width, row_step = k.integers("top", "left", "packed_width", "row_step")
    result_size, y_pixel, y_row, job_count, all_taps = k.integers("result_size", "y_pixel", "y_row", "job_count", "all_taps")
    strips, strip, packed_rows, unit, plane, scratch_size = k.integers(
        "strips", "strip", "packed_rows", "unit", "plane", "scratch_size")
    k.integer("threads_most")
    packed = scratch + k.thread * scratch_size * 4
    step, cell = stride * size * k.bytes, size * k.bytes
    line = row_step * packed_width * cell
    units = k.ceil_div(blocks, unit)
    with k.parallel(images * strips * units) as task:
        first_block, place = task % units * unit, task // units
        low, image = place % strips * strip, place // strips
        some = k.minimum(unit, blocks - first_block)
        pack_groups(k, size, ragged, x + image * image_size * 4, height, width, channels, first_block, some,
                    low * row_step - top, packed_rows, left, packed, packed_width, plane)
        with k.loop(job_count) as number:
            job = jobs + number * (8 * _JOB)
            count, first_tap, rows, columns, first = (k.load_integer(job + 8 * i) for i in range(_JOB))
            result = y + image * result_size * 4 + first + first_block * k.bytes
            with k.loop(low, k.minimum(low + strip, rows)) as row, k.loop(0, columns, pixels) as at:
                column = k.minimum(at, columns - pixels)         # the last tile starts early instead of ending short
                # All blocks of a tile before the next tile: written one block at a time, results a few KB apart would
                # fall into the same few lines of the cache, and each cost 30 cycles instead of 3.
                with k.loop(some) as block:
                    source = packed + block * plane + (row - low) * line + column * step

                    def tap(state: list, source: Pointer = source) -> list:
                        *sums, offset, w = state
                        here = source + k.load_integer(offset)
                        for i in range(size):
                            weight = k.load(w + i * k.bytes)
                            sums = [k.fma(k.load(here + (p * step + i * k.bytes)), weight, sums[p]) for p in range(pixels)]
                        return [*sums, offset + 8, w + cell]

                    mine = first_block + block
                    start = k.load(bias + mine * k.bytes)
                    w = filters + (mine * all_taps + first_tap) * cell
                    *sums, _, _ = k.carry(count, [start] * pixels + [taps + first_tap * 8, w], tap)
                    target = result + row * y_row + column * y_pixel + block * k.bytes
                    mask = k.first_lanes(channels - mine * k.width) if ragged else None
                    for value in sums:
                        k.store(value, target, mask)
                        target = target + y_pixel
    return k


@program
def grouped_weight_grad(isa: ISA, offsets: tuple[int, ...], together: int, size: int, stride: int, ragged: bool) -> Kernel:
    """partial[part][block][tap][lane] = sum over the part's images and pixels of packed[pixel + tap][lane] * gy[pixel][lane].

    A tap here is a position of the filter and a channel of the group.  They are computed in sets of ``together`` lines of the
    filter, whose places in the packed image a table gives, and in each of these ``offsets``, in vectors.
    """
    at_once = together * len(offsets)
    name = f"grouped_weight_grad{size}_{together}x{'_'.join(map(str, offsets))}_by{stride}" + "_ragged" * ragged
    k = Kernel(name, isa.width)
    x, g = k.pointer("x", "images", "image_size"), k.pointer("g", "images", "result_size")
    partial = k.pointer("partial", "parts", "blocks", "sets", at_once, isa.width)
    bases = k.pointer("bases", "sets", together, element="i64")
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, height, width, channels, blocks = k.integers(
        "images", "image_size", "height", "width", "channels", "blocks")
    top, left, packed_width, row_step = k.integers("top", "left", "packed_width", "row_step")
    result_size, rows, columns, sets, parts = k.integers("result_size", "rows", "columns", "sets", "parts")
    strip, packed_rows, unit, plane, scratch_size = k.integers("strip", "packed_rows", "unit", "plane", "scratch_size")
    k.integer("threads_most")
    packed = scratch + k.thread * scratch_size * 4
    step, cell = stride * size * k.bytes, size * k.bytes
    line = row_step * packed_width * cell
    units, set_bytes = k.ceil_div(blocks, unit), at_once * k.bytes
    with k.parallel(parts * units) as task:
        first_block, part = task % units * unit, task // units
        some = k.minimum(unit, blocks - first_block)
        mine = partial + (part * blocks + first_block) * sets * set_bytes
        zero(k, mine, some * sets * at_once)
        with k.loop(part * images // parts, (part + 1) * images // parts) as image, k.loop(0, rows, strip) as low:
            pack_groups(k, size, ragged, x + image * image_size * 4, height, width, channels, first_block, some,
                        low * row_step - top, packed_rows, left, packed, packed_width, plane)
            gradient = g + (image * result_size * 4 + low * columns * channels * 4 + first_block * k.bytes)
            with k.loop(some) as block, k.loop(sets) as number:
                mask = k.first_lanes(channels - (first_block + block) * k.width) if ragged else None
                places = [mine + (block * sets + number) * set_bytes + t * k.bytes for t in range(at_once)]
                sources = [packed + block * plane + k.load_integer(bases + (number * together + t) * 8) for t in range(together)]

                def pixel(state: list, mask: Mask | None = mask) -> list:
                    sums, sources, g = state[:at_once], state[at_once:-1], state[-1]
                    value = k.load(g, mask)
                    places = [source + offset * k.bytes for source in sources for offset in offsets]
                    sums = [k.fma(k.load(place), value, total) for place, total in zip(places, sums, strict=True)]
                    return [*sums, *(source + step for source in sources), g + channels * 4]

                def row(state: list) -> list:
                    sources = state[at_once:-1]
                    after = k.carry(columns, state, pixel)
                    return [*after[:at_once], *(source + line for source in sources), after[-1]]

                start = [*map(k.load, places), *sources, gradient + block * k.bytes]
                sums = k.carry(k.minimum(strip, rows - low), start, row)[:at_once]
                for value, place in zip(sums, places, strict=True):
                    k.store(value, place)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
class _Layout(NamedTuple):
    """The packed strips of a plan: their columns, rows of results, packed rows behind them; blocks of channels at once, bytes
    from one block to the next, and floats of scratch."""

    columns: int
    strip: int
    rows: int
    unit: int
    plane: int
    scratch: int


@functools.lru_cache(256)
def _layout(plan: Plan, size: int, blocks: int, width: int) -> _Layout:
    columns = plan.packed_width * plan.phases        # in their own order: every product loads a whole vector anyway
    rows = max(job.rows for job in plan.jobs)
    extent = 1 + max((tap.row for job in plan.jobs for tap in job.taps), default=0)
    line = 4 * columns * size * width                # bytes of a row of one block

    def fit(unit: int) -> int:
        return max(1, (STRIP_BYTES // (line * unit) - extent) // plan.row_step + 1)

    unit = min(blocks, 4)                            # 256 bytes of a pixel
    while unit > 1 and fit(unit) < min(rows, 14):
        unit //= 2
    strips = -(-rows // fit(unit))
    strip = -(-rows // strips)                       # all of about the same height
    packed_rows = (strip - 1) * plan.row_step + extent
    plane = line * packed_rows
    plane += 4 * width * (plane // (4 * width) % 2 == 0)     # an odd number of vectors: blocks must not share cache sets
    return _Layout(columns, strip, packed_rows, unit, plane, unit * plane // 4)


class _Convolution(NamedTuple):
    """What :func:`convolve` works out once per shape."""

    run: Launch
    taps: np.ndarray
    weights: np.ndarray
    jobs: np.ndarray
    lanes: int
    scratch: int


@functools.lru_cache(256)
def _convolution(plan: Plan, size: int, channels: int, images: int, most: int) -> _Convolution:
    isa = engine.host_isa()
    blocks = -(-channels // isa.width)
    layout = _layout(plan, size, blocks, isa.width)
    taps: list[int] = []
    weights: list[int] = []
    jobs: list[tuple[int, ...]] = []
    for job in plan.jobs:
        first = 4 * channels * (job.first[0] * plan.out_width + job.first[1])
        jobs.append((len(job.taps), len(taps), job.rows, job.columns, first))
        taps += [4 * isa.width * size * (tap.row * layout.columns + tap.column * plan.phases + tap.phase) for tap in job.taps]
        weights += [tap.weight for tap in job.taps]
    columns = min(job.columns for job in plan.jobs)
    room = 16 if isa.registers >= 32 else 8
    pixels = min(columns, min(range(room // 2, room + 1), key=lambda pixels: -(-columns // pixels) * (pixels + 1)))
    step_h, step_w = plan.out_step
    run = grouped(pixels, size, plan.phases, channels % isa.width > 0).prepare(
        images=images, image_size=plan.height * plan.width * channels, height=plan.height, width=plan.width,
        channels=channels, blocks=blocks, top=plan.top, left=plan.left, packed_width=layout.columns, row_step=plan.row_step,
        result_size=plan.out_height * plan.out_width * channels, y_pixel=4 * step_w * channels,
        y_row=4 * step_h * plan.out_width * channels, job_count=len(jobs), all_taps=len(taps),
        strips=-(-max(job.rows for job in plan.jobs) // layout.strip), strip=layout.strip, packed_rows=layout.rows,
        unit=layout.unit, plane=layout.plane, scratch_size=layout.scratch, threads_most=most)
    return _Convolution(run, np.array(taps, np.int64), np.array(weights, np.intp), np.array(jobs, np.int64),
                        blocks * isa.width, most * layout.scratch)


def _filters(w: np.ndarray, transposed: bool, weights: np.ndarray, lanes: int) -> np.ndarray:
    """[block][tap][i][lane]: what lane's channel multiplies channel i of its group with, 0 for lanes beyond the last."""
    channels, size = w.shape[:2]
    taps = w.reshape(channels // size, size, size, -1).transpose((3, 1, 0, 2) if transposed else (3, 2, 0, 1))
    padded = np.zeros((len(weights), size, lanes), np.float32)
    padded[..., :channels] = taps.reshape(-1, size, channels)[weights]
    width = engine.host_isa().width
    return np.ascontiguousarray(padded.reshape(len(weights), size, lanes // width, width).transpose(2, 0, 1, 3))


def suits(geom: Any) -> bool:
    """Whether these kernels compute a convolution: groups of equal width on both sides, or of one channel (depthwise)."""
    size, outputs = geom.C // geom.groups, geom.O // geom.groups
    return geom.groups > 1 and (size == 1 or size == outputs and size in SIZES and engine.host_isa().width % size == 0)


def convolve(plan: Plan, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, transposed: bool) -> None:
    """Write the plan's outputs into y (N, h, w, C) from x (N, H, W, C) and w (C, size of a group, kh, kw).

    ``transposed`` swaps the roles of the channels within a group: the input gradient.  A depthwise convolution with several
    filters per channel is as many convolutions.
    """
    multiple = len(w) // (y if transposed else x).shape[3] if w.shape[1] == 1 else 1
    if multiple == 1:
        _convolve(plan, x, w, bias, y, transposed)
        return
    for m in range(multiple):
        one = slice(m, None, multiple)
        if transposed:
            part = y if m == 0 else memory.empty(y.shape)
            _convolve(plan, np.ascontiguousarray(x[..., one]), w[one], None, part, True)
            if m:
                y += part
        else:
            part = memory.empty((*y.shape[:3], x.shape[3]))
            _convolve(plan, x, w[one], None if bias is None else bias[one], part, False)
            y[..., one] = part


def _convolve(plan: Plan, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, transposed: bool) -> None:
    c = _convolution(plan, w.shape[1], len(w), len(x), threads.get_num_threads())
    c.run(x=x, y=y, filters=_filters(w, transposed, c.weights, c.lanes), bias=padded_bias(bias, c.lanes), taps=c.taps,
          jobs=c.jobs, scratch=memory.scratch("packed", c.scratch))


@functools.lru_cache(256)
def _weight_gradient(plan: Plan, size: int, channels: int, images: int, kernel_width: int, most: int) -> PartialSums:
    isa, (job,) = engine.host_isa(), plan.jobs
    blocks, room = -(-channels // isa.width), accumulators(isa)
    layout = _layout(plan, size, blocks, isa.width)
    places = [tap.row * layout.columns + tap.column * plan.phases + tap.phase for tap in job.taps]
    # Of a line of the filter all taps at once, or one after the other where they are too many; and of such lines up to three.
    along = kernel_width if kernel_width * size <= room else 1
    firsts = places[::along]
    together = next(n for n in (3, 2, 1) if len(firsts) % n == 0 and n * along * size <= max(room, along * size))
    offsets = tuple((places[v] - places[0]) * size + i for v in range(along) for i in range(size))
    sets, at_once = len(firsts) // together, together * along * size
    parts = parts_for(images, blocks * sets * at_once * isa.width)
    run = grouped_weight_grad(offsets, together, size, plan.phases, channels % isa.width > 0).prepare(
        images=images, image_size=plan.height * plan.width * channels, height=plan.height, width=plan.width,
        channels=channels, blocks=blocks, top=plan.top, left=plan.left, packed_width=layout.columns, row_step=plan.row_step,
        result_size=job.rows * job.columns * channels, rows=job.rows, columns=job.columns, sets=sets, parts=parts,
        strip=layout.strip, packed_rows=layout.rows, unit=layout.unit, plane=layout.plane,
        scratch_size=layout.scratch, threads_most=most)
    bases = np.array(firsts, np.int64) * (4 * isa.width * size)
    return PartialSums(run, bases, (parts, blocks, len(places), size, isa.width), most * layout.scratch)


def weight_gradient(plan: Plan, x: np.ndarray, g: np.ndarray, gw: np.ndarray) -> None:
    """Write gw (C, size of a group, kh, kw): the plan is the forward one."""
    multiple = len(gw) // x.shape[3] if gw.shape[1] == 1 else 1
    if multiple == 1:
        gw[...] = _gradient(plan, x, g, gw.shape)
        return
    for m in range(multiple):
        one = slice(m, None, multiple)
        gw[one] = _gradient(plan, x, np.ascontiguousarray(g[..., one]), (x.shape[3], *gw.shape[1:]))


def _gradient(plan: Plan, x: np.ndarray, g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    channels, size, _, kernel_width = shape
    c = _weight_gradient(plan, size, channels, len(x), kernel_width, threads.get_num_threads())
    _, blocks, _, _, width = c.shape
    return c.total(x, g).transpose(0, 3, 2, 1).reshape(blocks * width, *shape[1:])[:channels]
