"""Pooling over channels-last maps: a vector of channels at a time, windows clipped at the border, nothing padded.

The gradients gather: each input pixel adds up what the windows that cover it owe it, in the order of the windows.  So no two
threads write one pixel, and the sum is the same every time.
"""
from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.dispatch import takes_avg_pool, takes_avg_pool_grad, takes_max_pool, takes_max_pool_grad, vector
from minidl.kernels.cpu.emit import Int, Kernel, Number, Pointer
from minidl.kernels.cpu.engine import ISA, host_isa
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.layout import channels_first, channels_last
from minidl.kernels.plain.pool import divisor

_GEOMETRY = ("images", "channels", "height", "width", "kh", "kw", "stride_h", "stride_w", "top", "left", "dilation_h",
             "dilation_w", "out_h", "out_w")
_INT64 = np.dtype(np.int64)


class _Sizes:
    """The parameters that every pooling kernel takes."""

    def __init__(self, k: Kernel) -> None:
        (self.images, self.channels, self.height, self.width, self.kh, self.kw, self.stride_h, self.stride_w, self.top,
         self.left, self.dilation_h, self.dilation_w, self.out_h, self.out_w) = k.integers(*_GEOMETRY)


@functools.lru_cache(256)
def _launch(build: Any, geom: Any, images: int) -> Launch:
    (sh, sw), (top, _, left, _), (dh, dw) = geom.stride, geom.padding, geom.dilation
    values = (images, geom.C, geom.H, geom.W, geom.kh, geom.kw, sh, sw, top, left, dh, dw, geom.out_h, geom.out_w)
    return build(geom.C % host_isa().width > 0).prepare(**dict(zip(_GEOMETRY, values, strict=True)))


def _inside(k: Kernel, at: Int, stride: Int, before: Int, dilation: Int, window: Int, size: Int) -> tuple[Int, Int]:
    """The positions of window ``at`` that lie inside an axis of ``size`` pixels: the first pixel, and how many."""
    start = at * stride - before
    skipped = k.ceil_div(k.maximum(0 - start, 0), dilation)
    end = k.minimum(window, k.maximum(size - 1 - start + dilation, 0) // dilation)
    return start + skipped * dilation, end - skipped


def _covering(k: Kernel, at: Int, stride: Int, before: Int, window: Int, outputs: Int) -> tuple[Int, Int]:
    """The windows (of dilation 1) that cover pixel ``at``: the first, and how many."""
    first = k.ceil_div(k.maximum(at + before - window + 1, 0), stride)
    last = k.minimum((at + before) // stride, outputs - 1)
    return first, last - first + 1


def _mask(k: Kernel, channels: Int, block: Int, ragged: bool) -> Any:
    return k.first_lanes(channels - block * k.width) if ragged else None


@program
def max_pool(isa: ISA, ragged: bool) -> Kernel:
    """y = the largest of each window; index = its flat position.  The first maximum wins, the first NaN beats all."""
    k = Kernel("max_pool" + "_ragged" * ragged, isa.width)
    x = k.pointer("x", "images", "height", "width", "channels")
    y = k.pointer("y", "images", "out_h", "out_w", "channels")
    indices = k.pointer("indices", "images", "out_h", "out_w", "channels", element="i64")
    s = _Sizes(k)
    pixel = s.channels * 4
    with k.parallel(s.images * s.out_h) as task:
        image, out_row = task // s.out_h, task % s.out_h
        row, rows = _inside(k, out_row, s.stride_h, s.top, s.dilation_h, s.kh, s.height)
        with k.loop(s.out_w) as out_column, k.loop(k.ceil_div(s.channels, k.width)) as block:
            column, columns = _inside(k, out_column, s.stride_w, s.left, s.dilation_w, s.kw, s.width)
            mask = _mask(k, s.channels, block, ragged)

            def along(state: list[Any], mask: Any = mask) -> list[Any]:
                best, winner, at, flat = state
                value = k.load(at, mask)
                better = (value > best) | (value.unordered() & best.equals(best))
                return [k.select(better, value, best), k.select(better, k.spread(flat), winner),
                        at + s.dilation_w * pixel, flat + s.dilation_w]

            def down(state: list[Any], columns: Int = columns) -> list[Any]:
                best, winner, at, flat = state
                best, winner, _, _ = k.carry(columns, [best, winner, at, flat], along)
                return [best, winner, at + s.dilation_h * s.width * pixel, flat + s.dilation_h * s.width]

            flat = row * s.width + column
            corner = x + (image * s.height * s.width + flat) * pixel + block * k.bytes
            best, winner, _, _ = k.carry(rows, [k.constant(-math.inf), k.spread(flat), corner, flat], down)
            target = (task * s.out_w + out_column) * s.channels + block * k.width
            k.store(best, y + target * 4, mask)
            k.store(k.convert(winner, "i64"), indices + target * 8, mask)
    return k


@program
def max_pool_grad(isa: ISA, ragged: bool) -> Kernel:
    """gx[pixel] = the sum of gy over the windows whose index is the pixel."""
    k = Kernel("max_pool_grad" + "_ragged" * ragged, isa.width)
    g = k.pointer("g", "images", "out_h", "out_w", "channels")
    indices = k.pointer("indices", "images", "out_h", "out_w", "channels", element="i64")
    gx = k.pointer("gx", "images", "height", "width", "channels")
    s = _Sizes(k)

    def owed(at: Int, flat: Int, block: Int, mask: Any) -> Any:
        position = at * s.channels + block * k.width
        won = k.load(indices + position * 8, mask, "i64").equals(k.spread(flat, "i64"))
        return k.select(won, k.load(g + position * 4, mask), k.constant(0))

    _gather(k, s, gx, owed, ragged)
    return k


@program
def avg_pool(isa: ISA, ragged: bool) -> Kernel:
    """y = the sum of each window / divisor."""
    k = Kernel("avg_pool" + "_ragged" * ragged, isa.width)
    x = k.pointer("x", "images", "height", "width", "channels")
    y = k.pointer("y", "images", "out_h", "out_w", "channels")
    divisors = k.pointer("divisors", "out_h", "out_w")
    s = _Sizes(k)
    pixel = s.channels * 4
    with k.parallel(s.images * s.out_h) as task:
        image, out_row = task // s.out_h, task % s.out_h
        row, rows = _inside(k, out_row, s.stride_h, s.top, s.dilation_h, s.kh, s.height)
        with k.loop(s.out_w) as out_column, k.loop(k.ceil_div(s.channels, k.width)) as block:
            column, columns = _inside(k, out_column, s.stride_w, s.left, s.dilation_w, s.kw, s.width)
            mask = _mask(k, s.channels, block, ragged)

            def along(state: list[Any], mask: Any = mask) -> list[Any]:
                return [state[0] + k.load(state[1], mask), state[1] + s.dilation_w * pixel]

            def down(state: list[Any], columns: Int = columns) -> list[Any]:
                total, at = state
                return [k.carry(columns, [total, at], along)[0], at + s.dilation_h * s.width * pixel]

            corner = x + ((image * s.height + row) * s.width + column) * pixel + block * k.bytes
            total, _ = k.carry(rows, [k.constant(0), corner], down)
            mean = total / k.broadcast(divisors + (out_row * s.out_w + out_column) * 4)
            k.store(mean, y + ((task * s.out_w + out_column) * s.channels + block * k.width) * 4, mask)
    return k


@program
def avg_pool_grad(isa: ISA, ragged: bool) -> Kernel:
    """gx[pixel] = the sum of gy / divisor over the windows that cover the pixel."""
    k = Kernel("avg_pool_grad" + "_ragged" * ragged, isa.width)
    g = k.pointer("g", "images", "out_h", "out_w", "channels")
    divisors = k.pointer("divisors", "out_h", "out_w")
    gx = k.pointer("gx", "images", "height", "width", "channels")
    s = _Sizes(k)

    def owed(at: Int, flat: Int, block: Int, mask: Any) -> Any:
        share = k.broadcast(divisors + at % (s.out_h * s.out_w) * 4)
        return k.load(g + (at * s.channels + block * k.width) * 4, mask) / share

    _gather(k, s, gx, owed, ragged)
    return k


def _gather(k: Kernel, s: _Sizes, gx: Pointer, owed: Any, ragged: bool) -> None:
    """gx[pixel] = sum of ``owed(window, pixel, block, mask)`` over the windows that cover the pixel."""
    with k.parallel(s.images * s.height) as task:
        image, row = task // s.height, task % s.height
        first_row, rows = _covering(k, row, s.stride_h, s.top, s.kh, s.out_h)
        with k.loop(s.width) as column, k.loop(k.ceil_div(s.channels, k.width)) as block:
            first_column, columns = _covering(k, column, s.stride_w, s.left, s.kw, s.out_w)
            mask, flat = _mask(k, s.channels, block, ragged), row * s.width + column

            def along(state: list[Any], flat: Int = flat, block: Int = block, mask: Any = mask) -> list[Any]:
                total, at = state
                return [total + owed(at, flat, block, mask), at + 1]

            def down(state: list[Any], columns: Number = columns) -> list[Any]:
                total, at = state
                return [k.carry(columns, [total, at], along)[0], at + s.out_w]

            start = (image * s.out_h + first_row) * s.out_w + first_column
            total, _ = k.carry(rows, [k.constant(0), start], down)
            k.store(total, gx + ((task * s.width + column) * s.channels + block * k.width) * 4, mask)


@functools.lru_cache(64)
def _divisors(geom: Any, count_include_pad: bool) -> np.ndarray:
    return divisor(np, geom, count_include_pad, np.dtype(np.float32))


@vector("max_pool2d", takes_max_pool)
def max_pool2d(x: Any, geom: Any) -> Any:
    shape = (len(x), geom.out_h, geom.out_w, geom.C)
    y, indices = memory.empty(shape), memory.empty(shape, _INT64)
    _launch(max_pool, geom, len(x))(x=channels_last(x), y=y, indices=indices)
    return channels_first(y), channels_first(indices)


@vector("max_pool2d_grad", takes_max_pool_grad)
def max_pool2d_grad(gy: Any, indices: Any, geom: Any) -> Any:
    gx = memory.empty((len(gy), geom.H, geom.W, geom.C))
    winners = np.ascontiguousarray(indices.transpose(0, 2, 3, 1))
    _launch(max_pool_grad, geom, len(gy))(g=channels_last(gy), indices=winners, gx=gx)
    return channels_first(gx)


@vector("avg_pool2d", takes_avg_pool)
def avg_pool2d(x: Any, geom: Any, count_include_pad: bool = True) -> Any:
    y = memory.empty((len(x), geom.out_h, geom.out_w, geom.C))
    _launch(avg_pool, geom, len(x))(x=channels_last(x), y=y, divisors=_divisors(geom, count_include_pad))
    return channels_first(y)


@vector("avg_pool2d_grad", takes_avg_pool_grad)
def avg_pool2d_grad(gy: Any, geom: Any, count_include_pad: bool = True) -> Any:
    gx = memory.empty((len(gy), geom.H, geom.W, geom.C))
    _launch(avg_pool_grad, geom, len(gy))(g=channels_last(gy), divisors=_divisors(geom, count_include_pad), gx=gx)
    return channels_first(gx)
