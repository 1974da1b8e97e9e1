"""Direct convolution: any filter, stride, padding, dilation and number of channels.

A task is a strip of rows of one image.  Its input is packed into scratch that stays in the cache (no im2col: every pixel is
copied about once, and padding costs nothing in the inner loop); then tiles of outputs are computed in registers, over all taps
and channels, and stored once.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.emit import Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.packing import pack_filters, pack_pixels, pack_rows, unpack_gradient
from minidl.kernels.cpu.plans import Plan
from minidl.kernels.cpu.tiles import accumulate_taps, accumulators, choose_tile, correlate

STRIP_BYTES = 192 << 10                              # of packed input: a part of a core's L2 cache
BOTH_BYTES = 384 << 10                               # of packed input and gradient
MOST_BYTES = 2 << 20                                 # of the same, where there are many partial sums
PARTIAL_BYTES = 5 << 19                              # of partial weight gradients: they are written, read and added up
MANY_WEIGHTS = 1 << 18
PARTS = 16                                           # at most so many: fixed, so that sums do not depend on the threads
# What a result is at least: nothing, or 0 after a ReLU.  A run-time number, so that there is one kernel for both.
FLOOR = {relu: np.array([0 if relu else -np.inf], np.float32) for relu in (False, True)}
_JOB = 6                                             # integers per job in its table


@program
def direct(isa: ISA, pixels: int, vectors: int, ragged_in: bool, ragged_out: bool) -> Kernel:
    """Every job of a plan, per set of channels: result pixel = bias + sum over taps and channels of packed pixel * filter."""
    k = Kernel(f"direct_{pixels}x{vectors}" + "_in" * ragged_in + "_out" * ragged_out, isa.width)
    x, y = k.pointer("x", "images", "image_size"), k.pointer("y", "images", "result_size")
    wide = vectors * isa.width
    filters = k.pointer("filters", "sets", "all_taps", "blocks", "channels", wide)
    floor, bias = k.pointer("floor", 1), k.pointer("bias", "sets", "blocks", wide)
    taps = k.pointer("taps", "all_taps", element="i64")
    jobs = k.pointer("jobs", "job_count", _JOB, element="i64")
    scratch = k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, height, width = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "height", "width")
    top, left, phases, packed_width, row_step = k.integers("top", "left", "phases", "packed_width", "row_step")
    result_size, y_first, y_pixel, y_row, outputs, blocks = k.integers(
        "result_size", "y_first", "y_pixel", "y_row", "outputs", "blocks")
    job_count, strips, strip, packed_rows, groups, scratch_size = k.integers(
        "job_count", "strips", "strip", "packed_rows", "groups", "scratch_size")
    sets, all_taps, _ = k.integers("sets", "all_taps", "threads_most")
    packed = scratch + k.thread * scratch_size * 4
    block_stride = packed_rows * phases * packed_width * k.bytes
    line_stride = row_step * phases * packed_width * k.bytes
    tap_stride = blocks * channels * (4 * wide)
    least = k.broadcast(floor)
    with k.parallel(images * strips * groups * sets) as task:
        group, place = task % groups, task // groups
        number, place = place % sets, place // sets
        low = place % strips * strip
        image = place // strips
        mine = x + image * image_size * 4 + x_first + number * channels * 4
        pack_rows(k, ragged_in, mine, height, width, x_pixel, channels, low * row_step - top, packed_rows, left, phases, packed,
                  packed_width)
        first_filter, first_bias = filters + number * all_taps * tap_stride, bias + number * blocks * (4 * wide)
        with k.loop(job_count) as j:
            job = jobs + j * (8 * _JOB)
            count, first_tap, rows, columns, first = (k.load_integer(job + 8 * i) for i in range(5))
            result = y + image * result_size * 4 + y_first + first + number * outputs * 4
            with k.loop(group * blocks // groups, (group + 1) * blocks // groups) as block:
                w = first_filter + first_tap * tap_stride + block * channels * (4 * wide)
                start = [k.load(first_bias + block * (4 * wide) + v * k.bytes) for v in range(vectors)]
                with k.loop(low, k.minimum(low + strip, rows)) as row, k.loop(0, columns, pixels) as at:
                    column = k.minimum(at, columns - pixels)     # the last tile starts early instead of ending short
                    source = packed + (row - low) * line_stride + column * k.bytes
                    sums = accumulate_taps(k, pixels, vectors, start * pixels, source, taps + first_tap * 8, count, w,
                                           tap_stride, channels, block_stride)
                    target = result + row * y_row + column * y_pixel + block * (4 * wide)
                    store_tile(k, vectors, at_least(k, least, sums), target, y_pixel, outputs - block * wide, ragged_out)
    return k


def at_least(k: Kernel, floor: Vector, values: list[Any]) -> list[Any]:
    """The larger of each value and ``floor``; NaN stays NaN."""
    return [k.select(floor > value, floor, value) for value in values]


def store_tile(k: Kernel, vectors: int, sums: list[Any], target: Pointer, pixel: Any, lanes: Any, ragged: bool) -> None:
    """Write a tile: pixels are ``pixel`` bytes apart; of a ragged tile only the first ``lanes`` channels exist."""
    def store(mask: Any) -> None:
        at = target
        for i in range(0, len(sums), vectors):
            for v in range(vectors):
                k.store(sums[i + v], at + v * k.bytes, mask if v == vectors - 1 else None)
            at = at + pixel

    if not ragged:
        store(None)
        return
    last = lanes - (vectors - 1) * k.width
    k.either(last >= k.width, lambda: store(None), lambda: store(k.first_lanes(last)))


@program
def direct_weight_grad(
    isa: ISA, taps_at_once: int, tile_channels: int, vectors: int, ragged_in: bool, ragged_out: bool
) -> Kernel:
    """partial[part][tap][block][c][lane] = sum over the part's images and pixels of x[pixel + tap][c] * gy[pixel][lane]."""
    name = f"direct_weight_grad_{taps_at_once}x{tile_channels}x{vectors}" + "_in" * ragged_in + "_out" * ragged_out
    k = Kernel(name, isa.width)
    wide = vectors * isa.width
    x, g = k.pointer("x", "images", "image_size"), k.pointer("g", "images", "result_size")
    partial = k.pointer("partial", "parts", "sets", "all_taps", "blocks", "padded", wide)
    taps, scratch = k.pointer("taps", "all_taps", element="i64"), k.pointer("scratch", "threads_most", "scratch_size")
    images, image_size, x_first, x_pixel, channels, padded, height, width = k.integers(
        "images", "image_size", "x_first", "x_pixel", "channels", "padded", "height", "width")
    top, left, phases, packed_width, row_step = k.integers("top", "left", "phases", "packed_width", "row_step")
    result_size, g_first, g_pixel, outputs, blocks, rows, columns = k.integers(
        "result_size", "g_first", "g_pixel", "outputs", "blocks", "rows", "columns")
    all_taps, parts, strip, packed_rows, groups, scratch_size = k.integers(
        "all_taps", "parts", "strip", "packed_rows", "groups", "scratch_size")
    sets, _ = k.integers("sets", "threads_most")
    packed = scratch + k.thread * scratch_size * 4
    line = phases * packed_width * k.bytes
    panels = packed + k.ceil_div(channels, k.width) * packed_rows * line
    panel = (strip * columns * wide + k.width) * 4               # not a multiple of 4 KB, which would share cache lines
    block_bytes = padded * (4 * wide)
    tap_bytes = blocks * block_bytes
    with k.parallel(parts * sets * groups) as task:
        group, number = task % groups, task // groups
        part, set_ = number // sets, number % sets
        first_block, end_block = group * blocks // groups, (group + 1) * blocks // groups
        mine = partial + number * all_taps * tap_bytes
        nothing = k.constant(0)
        with k.loop(all_taps) as tap, k.loop(first_block * padded * vectors, end_block * padded * vectors) as i:
            k.store(nothing, mine + tap * tap_bytes + i * k.bytes)
        with k.loop(part * images // parts, (part + 1) * images // parts) as image, k.loop(0, rows, strip) as low:
            pack_rows(k, ragged_in, x + (image * image_size + set_ * channels) * 4 + x_first, height, width, x_pixel, channels,
                      low * row_step - top, packed_rows, left, phases, packed, packed_width)
            high = k.minimum(strip, rows - low)
            gradient = g + ((image * result_size + set_ * outputs) * 4 + low * columns * g_pixel + g_first)
            pack_pixels(k, ragged_out, gradient + first_block * (4 * wide), high * columns, g_pixel,
                        outputs - first_block * wide, (end_block - first_block) * vectors, vectors, panels, panel)
            with k.loop(first_block, end_block) as block, k.loop(0, all_taps, taps_at_once) as tap:
                offsets = [k.load_integer(taps + (tap + t) * 8) for t in range(taps_at_once)]
                with k.loop(0, channels, tile_channels) as c:
                    source = packed + c // k.width * (packed_rows * line) + c % k.width * 4
                    correlate(k, offsets, tile_channels, vectors, source, row_step * line,
                              panels + (block - first_block) * panel, columns * (4 * wide), 4 * wide, k.bytes, high, columns,
                              mine + tap * tap_bytes + block * block_bytes + c * (4 * wide), tap_bytes)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
class Channels(NamedTuple):
    """Some channels of an array (N, H, W, all channels): one group's."""

    first: int
    size: int
    of: int
    image_size: int

    @property
    def pixel_bytes(self) -> int:
        return 4 * self.of


class Operand(NamedTuple):
    """A channels-last array, and which of its channels to work on."""

    array: np.ndarray
    channels: Channels


def operand(array: np.ndarray, first: int, count: int) -> Operand:
    """Channels first .. first + count - 1 of a channels-last array."""
    n, h, w, c = array.shape
    return Operand(array, Channels(first, count, c, h * w * c))


class _Strips(NamedTuple):
    """How the rows of a plan are cut: outputs per strip, packed rows behind them, floats of scratch."""

    strip: int
    packed_rows: int
    scratch: int


@functools.lru_cache(512)
def _strips(plan: Plan, channels: int, width: int, least: int, room: int = STRIP_BYTES, beside: int = 0) -> _Strips:
    """Strips that fit ``room`` bytes, and at least ``least`` of them if there are rows enough.

    ``beside``: floats per row of results that lie there, too.
    """
    rows = max(job.rows for job in plan.jobs)
    extent = 1 + max((tap.row for job in plan.jobs for tap in job.taps), default=0)
    line = -(-channels // width) * plan.phases * plan.packed_width * width       # floats of one packed row
    fit = max(1, (room // 4 - (extent - plan.row_step) * line) // (plan.row_step * line + beside))
    strip = min(rows, fit, max(1, -(-rows // least)))
    packed_rows = (strip - 1) * plan.row_step + extent
    return _Strips(strip, packed_rows, packed_rows * line)


@functools.lru_cache(512)
def _tables(plan: Plan, vector_bytes: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(byte offsets of the taps in the packed strip, offsets of the weights in a filter, the jobs)."""
    line = plan.phases * plan.packed_width
    taps: list[int] = []
    weights: list[int] = []
    jobs: list[tuple[int, ...]] = []
    for job in plan.jobs:
        first = 4 * columns * (job.first[0] * plan.out_width + job.first[1])
        jobs.append((len(job.taps), len(taps), job.rows, job.columns, first, 0))
        taps += [(tap.row * line + tap.phase * plan.packed_width + tap.column) * vector_bytes for tap in job.taps]
        weights += [tap.weight for tap in job.taps]
    return np.array(taps, np.int64), np.array(weights, np.int64), np.array(jobs, np.int64)


class _Convolution(NamedTuple):
    """What :func:`convolve` works out once per shape."""

    pack: Launch
    run: Launch
    filters: int
    bias: int
    scratch: int
    taps: np.ndarray
    places: np.ndarray
    jobs: np.ndarray


@functools.lru_cache(512)
def _convolution(
    plan: Plan, x: Channels, y: Channels, sets: int, images: int, steps: tuple[int, int], w_taps: int, w_size: int, most: int
) -> _Convolution:
    """``steps``: floats of w from one output lane to the next, and from one summed channel to the next."""
    isa = engine.host_isa()
    tall = -(-y.size // isa.width)
    pixels, vectors = choose_tile(isa, min(job.columns for job in plan.jobs), tall)
    blocks, wide = tall // vectors, vectors * isa.width
    strips = _strips(plan, x.size, isa.width, -(-2 * most // images))
    count = -(-max(job.rows for job in plan.jobs) // strips.strip)
    taps, weights, jobs = _tables(plan, 4 * isa.width, y.of)
    places = np.full(w_taps, -1, np.int64)           # of the numbers of a filter among the packed taps
    places[weights] = np.arange(len(weights))
    pack = pack_filters(vectors, w_taps).prepare(taps=len(taps), blocks=blocks, channels=x.size, lanes=y.size,
                                                 lane_step=steps[0], channel_step=steps[1], w_size=w_size)
    step_h, step_w = plan.out_step
    run = direct(pixels, vectors, x.size % isa.width > 0, y.size % isa.width > 0).prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size,
        height=plan.height, width=plan.width, top=plan.top, left=plan.left, phases=plan.phases,
        packed_width=plan.packed_width, row_step=plan.row_step, result_size=y.image_size, y_first=4 * y.first,
        y_pixel=step_w * y.pixel_bytes, y_row=step_h * plan.out_width * y.pixel_bytes, outputs=y.size, blocks=blocks,
        job_count=len(jobs), strips=count, strip=strips.strip, packed_rows=strips.packed_rows,
        groups=1 if images * count * sets >= most else min(blocks, most), scratch_size=strips.scratch, all_taps=len(taps),
        sets=sets, threads_most=most)
    return _Convolution(pack, run, len(taps) * blocks * x.size * wide, blocks * wide, most * strips.scratch, taps, places, jobs)


def filter_steps(w: np.ndarray, transposed: bool) -> tuple[int, int]:
    """(floats from one output lane to the next, from one summed channel to the next) in w (O, C, kh, kw)."""
    o_step, c_step = w.strides[0] // 4, w.strides[1] // 4
    return (c_step, o_step) if transposed else (o_step, c_step)


def padded_bias(bias: np.ndarray | None, size: int) -> np.ndarray:
    """The bias with zeros up to whole tiles."""
    padded = np.zeros(size, np.float32)
    if bias is not None:
        padded[: len(bias)] = bias
    return padded


def convolve(plan: Plan, x: Operand, w: np.ndarray, bias: np.ndarray | None, y: Operand, transposed: bool,
             relu: bool = False, groups: int = 1) -> None:
    """Write the plan's outputs into y.  ``w`` is (O, C / groups, kh, kw); ``transposed`` swaps the roles of O and C.

    The operands name the channels of the first group; those of the others follow.
    """
    outputs = len(w) // groups
    c = _convolution(plan, x.channels, y.channels, groups, len(x.array), filter_steps(w, transposed), w[0, 0].size,
                     w.size // groups, threads.get_num_threads())
    filters = memory.scratch("filters", groups * c.filters)
    biases = np.zeros((groups, c.bias), np.float32)
    if bias is not None:
        biases[:, : y.channels.size] = bias.reshape(groups, -1)
    for group in range(groups):
        c.pack(w=w[group * outputs : (group + 1) * outputs], places=c.places, packed=filters[group * c.filters :])
    c.run(x=x.array, y=y.array, filters=filters, floor=FLOOR[relu], bias=biases, taps=c.taps, jobs=c.jobs,
          scratch=memory.scratch("packed", c.scratch))


def parts_for(images: int, size: int) -> int:
    """Into how many parts, each with ``size`` partial sums, a batch is split: a power of two."""
    most = max(1, min(images, PARTS, PARTIAL_BYTES // (4 * size)))
    return 1 << (most.bit_length() - 1)


class _WeightGradient(NamedTuple):
    """What :func:`weight_gradient` works out once per shape."""

    run: Launch
    unpack: Launch
    partial: int
    scratch: int
    taps: np.ndarray


@functools.lru_cache(512)
def _weight_gradient(plan: Plan, x: Channels, g: Channels, sets: int, images: int, most: int) -> _WeightGradient:
    isa, (job,) = engine.host_isa(), plan.jobs
    tall = -(-g.size // isa.width)
    taps_at_once, tile_channels, vectors = _gradient_tile(isa, len(job.taps), x.size, tall)
    blocks, padded = tall // vectors, -(-x.size // isa.width) * isa.width
    taps, _, _ = _tables(plan, 4 * isa.width, g.of)
    real, taps = len(taps), np.pad(taps, (0, -len(taps) % taps_at_once))
    size = len(taps) * blocks * padded * vectors * isa.width
    parts = parts_for(images, sets * size)
    # Every strip reads and writes all partial sums: where those leave the cache, so may the strip.
    room = max(BOTH_BYTES, min(2 * size, MOST_BYTES))
    strips = _strips(plan, x.size, isa.width, 1, room, job.columns * tall * isa.width)
    scratch = strips.scratch + blocks * (strips.strip * job.columns * vectors + 1) * isa.width
    run = direct_weight_grad(taps_at_once, tile_channels, vectors, x.size % isa.width > 0, g.size % isa.width > 0).prepare(
        images=images, image_size=x.image_size, x_first=4 * x.first, x_pixel=x.pixel_bytes, channels=x.size, padded=padded,
        height=plan.height, width=plan.width, top=plan.top, left=plan.left, phases=plan.phases,
        packed_width=plan.packed_width, row_step=plan.row_step, result_size=g.image_size, g_first=4 * g.first,
        g_pixel=g.pixel_bytes, outputs=g.size, blocks=blocks, rows=job.rows, columns=job.columns, all_taps=len(taps),
        parts=parts, strip=strips.strip, packed_rows=strips.packed_rows, groups=1 if parts * sets >= most else min(blocks, most),
        scratch_size=scratch, sets=sets, threads_most=most)
    unpack = unpack_gradient(vectors).prepare(parts=parts, sets=sets, taps=real, all_taps=len(taps), blocks=blocks,
                                              padded=padded, channels=x.size, lanes=g.size)
    return _WeightGradient(run, unpack, parts * sets * size, most * scratch, taps)


def weight_gradient(plan: Plan, x: Operand, g: Operand, gw: np.ndarray, groups: int = 1) -> None:
    """Write gw (O, C / groups, kh, kw): the plan is the forward one, the operands name the channels of the first group."""
    c = _weight_gradient(plan, x.channels, g.channels, groups, len(x.array), threads.get_num_threads())
    partial = memory.scratch("partial", c.partial)
    c.run(x=x.array, g=g.array, partial=partial, taps=c.taps, scratch=memory.scratch("packed", c.scratch))
    c.unpack(partial=partial, gw=gw)


def thinned(geom: Any, x: Operand) -> tuple[Any, Operand]:
    """A 1x1 convolution that skips pixels as one that visits all: a pixel then is s pixels of a row, an image's row s rows."""
    (sh, sw) = geom.stride
    if (geom.kh, geom.kw, geom.padding) != (1, 1, (0, 0, 0, 0)) or sh != sw or sh == 1:
        return geom, x
    return geom._replace(H=geom.out_h, stride=(1, 1)), x._replace(channels=x.channels._replace(of=sh * x.channels.of))


def merged(geom: Any, x: np.ndarray, g: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """A 1x1 convolution with many weights: its pixels as those of one image with a row per image, so that strips may be long."""
    pointwise = (geom.kh, geom.kw, geom.stride, geom.padding) == (1, 1, (1, 1), (0, 0, 0, 0)) and geom.out_h == geom.H
    if not pointwise or geom.out_w != geom.W or geom.groups > 1 or geom.C * geom.O < MANY_WEIGHTS:
        return geom, x, g
    n, pixels = len(x), geom.H * geom.W
    one = geom._replace(N=1, H=n, W=pixels, out_h=n, out_w=pixels)
    return one, x.reshape(1, n, pixels, geom.C), g.reshape(1, n, pixels, geom.O)


def _gradient_tile(isa: ISA, taps: int, channels: int, tall: int) -> tuple[int, int, int]:
    """(taps, channels, vectors) per tile: enough independent sums to hide the latency of a product, little of it wasted.

    Channels never straddle a vector.  Taps need not be divided evenly: the last group is filled up, its excess thrown away.
    """
    room, found = accumulators(isa), []
    for vectors in (1, 2) if tall % 2 == 0 else (1,):
        for tile_channels in (n for n in range(1, min(isa.width, room) + 1) if isa.width % n == 0 or n == channels):
            for together in range(1, 9):             # each tap keeps an address in a register
                sums, loads = together * tile_channels * vectors, together * tile_channels + vectors
                if sums <= room:
                    # Products and loads (two of each a cycle), or the latency of few sums; and some steps per pixel.
                    cycles = max(sums, loads, 9) + 2
                    computed = -(-taps // together) * together * -(-channels // tile_channels) * tile_channels
                    found.append((cycles / sums * computed, together, (together, tile_channels, vectors)))
    return min(found)[-1]
