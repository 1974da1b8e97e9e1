"""Windows as columns, and back: im2col and its transpose col2im, for those who want the matrix itself.

Row (c, u, v) of the columns is channel c of the image, shifted by the position (u, v) of the filter: copying it is a walk along
rows of pixels, and adding it back the same walk the other way.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.dispatch import takes_col2im, takes_im2col, vector
from minidl.kernels.cpu.emit import Int, Kernel, Mask, Pointer
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, Program, program
from minidl.kernels.cpu.packing import zero


class _Geometry:
    """The integers of both kernels, and where a row of outputs meets a row of pixels."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.planes, self.height, self.width = k.integers("planes", "height", "width")
        self.taps, self.kw, self.stride_h, self.dilation_h, self.dilation_w, self.top, self.left = k.integers(
            "taps", "kw", "stride_h", "dilation_h", "dilation_w", "top", "left")
        self.out_height, self.out_width = k.integers("out_height", "out_width")

    def row(self, tap: Int, i: Int) -> Int:
        """The row of pixels that output row i sees at ``tap``; outside the image, less than 0 or ``height`` and more."""
        return i * self.stride_h + tap // self.kw * self.dilation_h - self.top

    def columns(self, tap: Int, stride: int) -> tuple[Int, Int, Int]:
        """(first and end of the outputs that see a pixel at ``tap``, the first one's pixel)."""
        k, shift = self.k, tap % self.kw * self.dilation_w - self.left           # output j sees pixel j*stride + shift
        low = k.minimum(k.maximum((stride - 1) - shift, 0) // stride, self.out_width)
        high = k.maximum(low, k.minimum(k.maximum(self.width - shift + (stride - 1), 0) // stride, self.out_width))
        return low, high, low * stride + shift


@program
def take_columns(isa: ISA, stride: int) -> Kernel:
    """cols[plane][tap][pixel] = x[plane][where the window of that pixel has that tap], 0 outside."""
    k = Kernel(f"take_columns_by{stride}", isa.width)
    x, cols = k.pointer("x", "planes", "height", "width"), k.pointer("cols", "planes", "taps", "out_height", "out_width")
    s = _Geometry(k)
    with k.parallel(s.planes) as plane, k.loop(s.taps) as tap:
        low, high, first = s.columns(tap, stride)
        with k.loop(s.out_height) as i:
            row = s.row(tap, i)
            target = cols + ((plane * s.taps + tap) * s.out_height + i) * s.out_width * 4

            def inside(row: Int = row, target: Pointer = target, plane: Int = plane) -> None:
                _fill(k, target, low)
                source, to = x + ((plane * s.height + row) * s.width + first) * 4, target + low * 4
                if stride == 1:
                    _by_vectors(k, high - low, lambda at, mask: k.store(k.load(source + at, mask), to + at, mask))
                else:
                    with k.loop(high - low) as j:
                        k.copy_float(source + j * (4 * stride), to + j * 4)
                _fill(k, target + high * 4, s.out_width - high)

            def outside(target: Pointer = target) -> None:
                _fill(k, target, s.out_width)

            k.either((row >= 0) & (row < s.height), inside, outside)
    return k


@program
def add_columns(isa: ISA, stride: int) -> Kernel:
    """x[plane][pixel] = the sum of what all windows have for that pixel, tap after tap."""
    k = Kernel(f"add_columns_by{stride}", isa.width)
    cols, x = k.pointer("cols", "planes", "taps", "out_height", "out_width"), k.pointer("x", "planes", "height", "width")
    s = _Geometry(k)
    one = k.first_lanes(1)
    with k.parallel(s.planes) as plane:
        _fill(k, x + plane * s.height * s.width * 4, s.height * s.width)
        with k.loop(s.taps) as tap:
            low, high, first = s.columns(tap, stride)
            with k.loop(s.out_height) as i:
                row = s.row(tap, i)
                with k.when((row >= 0) & (row < s.height)):
                    source = cols + (((plane * s.taps + tap) * s.out_height + i) * s.out_width + low) * 4
                    to = x + ((plane * s.height + row) * s.width + first) * 4

                    def add(at: Int, mask: Mask | None, source: Pointer = source, to: Pointer = to) -> None:
                        place = to + at * stride
                        k.store(k.load(place, mask) + k.load(source + at, mask), place, mask)

                    if stride == 1:
                        _by_vectors(k, high - low, add)
                    else:
                        with k.loop(high - low) as j:
                            add(j * 4, one)
    return k


def _by_vectors(k: Kernel, count: Int, each: Any) -> None:
    """``each(byte offset, mask)`` for the vectors of ``count`` floats: no mask but for the last, which need not be whole."""
    with k.loop(count // k.width) as i:
        each(i * k.bytes, None)
    rest = count % k.width
    with k.when(rest > 0):
        each(count // k.width * k.bytes, k.first_lanes(rest))


def _fill(k: Kernel, at: Pointer, count: Int) -> None:
    """Fill so many floats with zeros."""
    zero(k, at, count // k.width)
    k.store(k.constant(0), at + count // k.width * k.bytes, k.first_lanes(count % k.width))


@functools.lru_cache(256)
def _prepare(kernel: Callable[[int], Program], geom: Any, images: int) -> Launch:
    return kernel(geom.stride[1]).prepare(
        planes=images * geom.C, height=geom.H, width=geom.W, taps=geom.kh * geom.kw, kw=geom.kw, stride_h=geom.stride[0],
        dilation_h=geom.dilation[0], dilation_w=geom.dilation[1], top=geom.padding[0], left=geom.padding[2],
        out_height=geom.out_h, out_width=geom.out_w)


@vector("im2col", takes_im2col)
def im2col(x: Any, geom: Any) -> Any:
    cols = memory.empty((len(x), geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w))
    _prepare(take_columns, geom, len(x))(x=np.ascontiguousarray(x), cols=cols)
    return cols


@vector("col2im", takes_col2im)
def col2im(cols: Any, geom: Any) -> Any:
    x = memory.empty((len(cols), geom.C, geom.H, geom.W))
    _prepare(add_columns, geom, len(cols))(cols=np.ascontiguousarray(cols), x=x)
    return x
