"""Images and filters in the order that the tiles read them."""
from __future__ import annotations

from minidl.kernels.cpu.emit import Int, Kernel, Mask, Number, Pointer
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.filters import lane_reader
from minidl.kernels.cpu.launch import program

AHEAD = 32                                           # pixels: the processor's own prefetching stops at the end of a page

def zero(k: Kernel, at: Pointer, vectors: Number) -> None:
    """Fill so many vectors with zeros."""
    nothing = k.constant(0)
    with k.loop(vectors) as i:
        k.store(nothing, at + i * k.bytes)


def pack_rows(k: Kernel, ragged: bool, image: Pointer, height: Int, width: Int, pixel: Int, channels: Int, first: Int,
              rows: Int, left: Int, phases: Int, target: Pointer, packed_width: Int) -> None:
    """Copy rows ``first`` .. of an image (height, width, channels) into zero-padded blocks.

    target[block][row][phase][column] is a vector of channels; column j of phase p is column j*phases + p - left of the image,
    and 0 outside it.  ``pixel`` is the number of bytes from one pixel of the image to the next.  ``ragged``: channels need not
    be a multiple of the width; the lanes beyond them are 0.
    """
    blocks = k.ceil_div(channels, k.width)
    last = k.first_lanes(channels - (blocks - 1) * k.width) if ragged else None
    line = packed_width * k.bytes
    plane = rows * phases * line

    def one(state: list[Pointer]) -> list[Pointer]:
        source, to = state
        k.store(k.load(source), to)
        k.prefetch(source + pixel * AHEAD)
        return [source + k.bytes, to + plane]

    def column(state: list[Pointer]) -> list[Pointer]:
        # All channels of a pixel, then the next pixel: memory is read in its own order.
        source, to = k.carry(blocks - int(ragged), state, one)
        if ragged:
            k.store(k.load(source, last), to)
        return [state[0] + phases * pixel, state[1] + k.bytes]

    with k.loop(rows) as r, k.loop(phases) as phase:
        row, start = first + r, target + (r * phases + phase) * line

        def inside(row: Int = row, phase: Int = phase, start: Pointer = start) -> None:
            low = k.minimum((left - phase + (phases - 1)) // phases, packed_width)
            high = k.maximum(low, k.minimum((width - 1 + left - phase + phases) // phases, packed_width))
            with k.loop(blocks) as block:
                zero(k, start + block * plane, low)
                zero(k, start + block * plane + high * k.bytes, packed_width - high)
            source = image + (row * width + low * phases + phase - left) * pixel
            k.carry(high - low, [source, start + low * k.bytes], column)

        def outside(start: Pointer = start) -> None:
            with k.loop(blocks) as block:
                zero(k, start + block * plane, packed_width)

        k.either((row >= 0) & (row < height), inside, outside)


def pack_pixels(k: Kernel, ragged: bool, source: Pointer, pixels: Int, pixel: Int, channels: Int, count: Int, vectors: int,
                target: Pointer, block_bytes: Int) -> None:
    """Copy ``count`` vectors of channels of pixels that are ``pixel`` bytes apart into blocks of ``vectors``, [block][pixel][v].

    ``ragged``: of the last vector only the first of ``channels`` exist; the others become 0.
    """
    blocks = count // vectors

    def copy(source: Pointer, to: Pointer, last: Mask | None) -> None:
        for v in range(vectors):
            k.store(k.load(source + v * k.bytes, last if v == vectors - 1 else None), to + v * k.bytes)

    def one(state: list[Pointer]) -> list[Pointer]:
        source, to = state
        copy(source, to, None)
        for v in range(vectors):
            k.prefetch(source + (pixel * AHEAD + v * k.bytes))
        return [source + vectors * k.bytes, to + block_bytes]

    last = k.first_lanes(channels - (count - 1) * k.width) if ragged else None

    def each(state: list[Pointer]) -> list[Pointer]:
        source, to = k.carry(blocks - int(ragged), state, one)
        if ragged:
            copy(source, to, last)
        return [state[0] + pixel, state[1] + vectors * k.bytes]

    k.carry(pixels, [source, target], each)


@program
def pack_filters(isa: ISA, vectors: int, count: int) -> Kernel:
    """packed[place of tap][block][c][lane] = w[lane * lane_step + c * channel_step + tap], for all ``count`` taps with a place.

    A block is ``vectors`` vectors of lanes, of which nobody reads those beyond the last.  For the forward pass lanes are output
    channels and c input channels; for the input gradient the other way round.
    """
    k = Kernel(f"pack_filters_{vectors}_{count}", isa.width)
    w, places = k.pointer("w", "w_size"), k.pointer("places", count, element="i64")
    packed = k.pointer("packed", "taps", "blocks", "channels", vectors * isa.width)
    _, blocks, channels, lanes, lane_step, channel_step, _ = k.integers(
        "taps", "blocks", "channels", "lanes", "lane_step", "channel_step", "w_size")
    pieces = k.ceil_div(channels, 16)                # enough tasks for all threads
    with k.parallel(blocks * vectors * pieces) as task:
        vector, piece = task // pieces, task % pieces
        read = lane_reader(k, w, count, lanes, lane_step, channel_step, vector * k.width)
        column = packed + (vector // vectors * channels * vectors + vector % vectors) * k.bytes
        with k.loop(piece * channels // pieces, (piece + 1) * channels // pieces) as c:
            for tap, value in enumerate(read(c)):
                place = k.load_integer(places + 8 * tap)
                with k.when(place >= 0):
                    k.store(value, column + (place * blocks * channels + c) * (vectors * k.bytes))
    return k


@program
def unpack_gradient(isa: ISA, vectors: int) -> Kernel:
    """gw[set][o][c][tap] = sum over parts, in their order, of partial[part][set][tap][block][c][lane], o being the lane.

    A part has ``all_taps`` taps, of which the first ``taps`` count.
    """
    k = Kernel(f"unpack_gradient_{vectors}", isa.width)
    wide = vectors * isa.width
    partial = k.pointer("partial", "parts", "sets", "all_taps", "blocks", "padded", wide)
    gw = k.pointer("gw", "sets", "lanes", "channels", "taps")
    parts, sets, taps, all_taps, blocks, padded, channels, lanes = k.integers(
        "parts", "sets", "taps", "all_taps", "blocks", "padded", "channels", "lanes")
    set_bytes, some = all_taps * blocks * padded * (4 * wide), 16
    part_bytes = sets * set_bytes
    runs = k.ceil_div(channels, some)
    with k.parallel(sets * blocks * runs) as task:
        number, place = task // (blocks * runs), task % (blocks * runs)
        block, first = place // runs, place % runs * some
        mine, result = partial + number * set_bytes, gw + number * lanes * channels * taps * 4
        end = k.minimum(first + some, channels)

        def line(tap: Int, c: Int, block: Int = block, mine: Pointer = mine) -> Pointer:
            return mine + ((tap * blocks + block) * padded + c) * (4 * wide)

        with k.when(parts > 1), k.loop(taps) as tap, k.loop(first * vectors, end * vectors) as i:
            at = line(tap, k.same(0)) + i * k.bytes
            total, _ = k.carry(parts - 1, [k.load(at), at + part_bytes],
                               lambda state: [state[0] + k.load(state[1]), state[1] + part_bytes])
            k.store(total, at)
        # One lane after the other, so that gw is written along: steps of many KB between writes cost 30 cycles each.
        with k.loop(k.minimum(wide, lanes - block * wide)) as lane, k.loop(first, end) as c, k.loop(taps) as tap:
            k.copy_float(line(tap, c) + lane * 4, result + (((block * wide + lane) * channels + c) * taps + tap) * 4)
    return k
