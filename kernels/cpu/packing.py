"""Images and filters in the order that the tiles read them."""
from __future__ import annotations

from minidl.kernels.cpu.emit import Int, Kernel, Number, Pointer
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import program


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
    nothing = k.constant(0)
    with k.loop(k.ceil_div(channels, k.width)) as block:
        mask = k.first_lanes(channels - block * k.width) if ragged else None
        with k.loop(rows) as r, k.loop(phases) as phase:
            row = first + r
            line = target + ((block * rows + r) * phases + phase) * packed_width * k.bytes

            def inside(line: Pointer = line, row: Int = row, phase: Int = phase, block: Int = block, mask=mask) -> None:
                low = k.minimum((left - phase + (phases - 1)) // phases, packed_width)
                high = k.maximum(low, k.minimum((width - 1 + left - phase + phases) // phases, packed_width))
                source = image + (row * width + low * phases + phase - left) * pixel + block * k.bytes
                zero(k, line, low)

                def copy(state: list[Pointer]) -> list[Pointer]:
                    k.store(k.load(state[0], mask), state[1])
                    return [state[0] + phases * pixel, state[1] + k.bytes]

                k.carry(high - low, [source, line + low * k.bytes], copy)
                zero(k, line + high * k.bytes, packed_width - high)

            def outside(line: Pointer = line) -> None:
                with k.loop(packed_width) as j:
                    k.store(nothing, line + j * k.bytes)

            k.either((row >= 0) & (row < height), inside, outside)


@program
def pack_filters(isa: ISA, vectors: int) -> Kernel:
    """packed[tap][block][c][lane] = w[lane * lane_step + c * channel_step + offset of tap], 0 for lanes beyond the last.

    A block is ``vectors`` vectors of lanes.  For the forward pass lanes are output channels and c input channels; for the
    input gradient the other way round.
    """
    k = Kernel(f"pack_filters_{vectors}", isa.width)
    w, offsets = k.pointer("w", "w_size"), k.pointer("offsets", "taps", element="i64")
    wide = vectors * isa.width
    packed = k.pointer("packed", "taps", "blocks", "channels", wide)
    taps, blocks, channels, lanes, lane_step, channel_step = k.integers(
        "taps", "blocks", "channels", "lanes", "lane_step", "channel_step")
    k.integer("w_size")
    with k.parallel(taps * blocks) as task:
        block = task % blocks
        source = w + k.load_integer(offsets + task // blocks * 8) * 4 + block * wide * lane_step * 4
        target = packed + task * channels * (4 * wide)
        count = k.minimum(wide, lanes - block * wide)
        with k.loop(channels) as c:
            line = target + c * (4 * wide)
            zero(k, line, vectors)
            with k.loop(count) as lane:
                k.copy_float(source + (lane * lane_step + c * channel_step) * 4, line + lane * 4)
    return k


@program
def unpack_gradient(isa: ISA, vectors: int) -> Kernel:
    """gw[o][c][tap] = sum over parts of partial[part][tap][block][c][lane], o being the lane; sums in the order of the parts.

    A part has ``all_taps`` taps, of which the first ``taps`` count.
    """
    k = Kernel(f"unpack_gradient_{vectors}", isa.width)
    wide = vectors * isa.width
    partial = k.pointer("partial", "parts", "all_taps", "blocks", "padded", wide)
    gw = k.pointer("gw", "lanes", "channels", "taps")
    parts, taps, all_taps, blocks, padded, channels, lanes = k.integers(
        "parts", "taps", "all_taps", "blocks", "padded", "channels", "lanes")
    part_bytes = all_taps * blocks * padded * (4 * wide)
    with k.parallel(blocks * channels) as task:
        block, c = task // channels, task % channels
        count = k.minimum(wide, lanes - block * wide)
        with k.loop(taps) as tap:
            line = partial + ((tap * blocks + block) * padded + c) * (4 * wide)
            for v in range(vectors):
                at = line + v * k.bytes
                total, _ = k.carry(parts - 1, [k.load(at), at + part_bytes],
                                   lambda state: [state[0] + k.load(state[1]), state[1] + part_bytes])
                k.store(total, at)
            with k.loop(count) as lane:
                k.copy_float(line + lane * 4, gw + (((block * wide + lane) * channels + c) * taps + tap) * 4)
    return k
