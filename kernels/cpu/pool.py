"""Pooling over channels-last maps: a vector of channels at a time, windows clipped at the border, nothing padded.

Small windows that lie inside the image, all but those at its border, are unrolled: three additions of a 2x2 mean cost less than
the two loops around them.

The gradients gather: each input pixel adds up what the windows that cover it owe it, in the order of the windows.  So no two
threads write one pixel, and the sum is the same every time.  Windows that do not overlap own their pixels: there the gradient is
dealt out instead, without a search.
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
_UNROLLED = 16                                       # pixels of the largest window that is unrolled
Window = tuple[int, int]


class _Sizes:
    """The parameters that every pooling kernel takes."""

    def __init__(self, k: Kernel) -> None:
        (self.images, self.channels, self.height, self.width, self.kh, self.kw, self.stride_h, self.stride_w, self.top,
         self.left, self.dilation_h, self.dilation_w, self.out_h, self.out_w) = k.integers(*_GEOMETRY)


@functools.lru_cache(256)
def _launch(build: Any, geom: Any, images: int, unrolled: bool) -> Launch:
    (sh, sw), (top, _, left, _), (dh, dw) = geom.stride, geom.padding, geom.dilation
    values = (images, geom.C, geom.H, geom.W, geom.kh, geom.kw, sh, sw, top, left, dh, dw, geom.out_h, geom.out_w)
    window = (geom.kh, geom.kw) if unrolled else None
    return build(geom.C % host_isa().width > 0, window).prepare(**dict(zip(_GEOMETRY, values, strict=True)))


def _small(geom: Any) -> bool:
    return geom.kh * geom.kw <= _UNROLLED


@functools.lru_cache(256)
def _disjoint(geom: Any) -> tuple[bool, bool]:
    """Whether small windows lie inside the image and no two share a pixel; and whether they leave no pixel out."""
    (sh, sw), (kh, kw) = geom.stride, (geom.kh, geom.kw)
    inside = not any(geom.padding) and (geom.out_h - 1) * sh + kh <= geom.H and (geom.out_w - 1) * sw + kw <= geom.W
    apart = kh <= sh and kw <= sw and tuple(geom.dilation) == (1, 1)
    covering = (sh, sw) == (kh, kw) and (geom.out_h * kh, geom.out_w * kw) == (geom.H, geom.W)
    return inside and apart and _small(geom), covering


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


def _offsets(s: _Sizes, window: Window | None) -> list[Any]:
    """The pixels of an unrolled window, in row order, as distances from its first one."""
    kh, kw = window or (0, 0)
    return [u * (s.dilation_h * s.width) + v * s.dilation_w for u in range(kh) for v in range(kw)]


def _name(name: str, ragged: bool, window: Window | None) -> str:
    return name + (f"_{window[0]}x{window[1]}" if window else "") + "_ragged" * ragged


def _mask(k: Kernel, channels: Int, block: Int, ragged: bool) -> Any:
    return k.first_lanes(channels - block * k.width) if ragged else None


def _windows(k: Kernel, s: _Sizes, window: Window | None, clipped: Any, whole: Any) -> None:
    """Run ``whole(image, output, flat)`` for each window inside its image, ``clipped(..., rows, columns)`` for the others.

    ``output`` is the place of the window in its image, ``flat`` that of its first pixel in the image.
    """
    with k.parallel(s.images * s.out_h) as task:
        image, out_row = task // s.out_h, task % s.out_h
        row, rows = _inside(k, out_row, s.stride_h, s.top, s.dilation_h, s.kh, s.height)
        with k.loop(s.out_w) as out_column:
            start, output = out_column * s.stride_w - s.left, out_row * s.out_w + out_column

            def at_the_border(out_column: Int = out_column, output: Int = output) -> None:
                column, columns = _inside(k, out_column, s.stride_w, s.left, s.dilation_w, s.kw, s.width)
                clipped(image, output, row * s.width + column, rows, columns)

            def inside(start: Int = start, output: Int = output) -> None:
                whole(image, output, row * s.width + start)

            if window is None:
                at_the_border()
            else:
                fits = (start >= 0) & (start + (window[1] - 1) * s.dilation_w < s.width) & rows.equals(window[0])
                k.either(fits, inside, at_the_border)


@program
def max_pool(isa: ISA, ragged: bool, window: Window | None) -> Kernel:
    """y = the largest of each window; index = its flat position.  The first maximum wins, the first NaN beats all."""
    k = Kernel(_name("max_pool", ragged, window), isa.width)
    x = k.pointer("x", "images", "height", "width", "channels")
    y = k.pointer("y", "images", "out_h", "out_w", "channels")
    indices = k.pointer("indices", "images", "out_h", "out_w", "channels", element="i64")
    s = _Sizes(k)
    pixel = s.channels * 4

    def better(best: Any, winner: Any, at: Pointer, flat: Int, mask: Any) -> tuple[Any, Any]:
        value = k.load(at, mask)
        wins = (value > best) | (value.unordered() & best.equals(best))
        return k.select(wins, value, best), k.select(wins, k.spread(flat), winner)

    def store(image: Int, output: Int, block: Int, best: Any, winner: Any, mask: Any) -> None:
        target = (image * (s.out_h * s.out_w) + output) * s.channels + block * k.width
        k.store(best, y + target * 4, mask)
        k.store(k.convert(winner, "i64"), indices + target * 8, mask)

    def clipped(image: Int, output: Int, flat: Int, rows: Int, columns: Int) -> None:
        corner = x + (image * (s.height * s.width) + flat) * pixel
        with k.loop(k.ceil_div(s.channels, k.width)) as block:
            mask = _mask(k, s.channels, block, ragged)

            def along(state: list[Any]) -> list[Any]:
                best, winner, at, flat = state
                return [*better(best, winner, at, flat, mask), at + s.dilation_w * pixel, flat + s.dilation_w]

            def down(state: list[Any]) -> list[Any]:
                best, winner, at, flat = state
                best, winner, _, _ = k.carry(columns, [best, winner, at, flat], along)
                return [best, winner, at + s.dilation_h * s.width * pixel, flat + s.dilation_h * s.width]

            start = [k.constant(-math.inf), k.spread(flat), corner + block * k.bytes, flat]
            best, winner, _, _ = k.carry(rows, start, down)
            store(image, output, block, best, winner, mask)

    def whole(image: Int, output: Int, flat: Int) -> None:
        corner, offsets = x + (image * (s.height * s.width) + flat) * pixel, _offsets(s, window)
        with k.loop(k.ceil_div(s.channels, k.width)) as block:
            mask, at = _mask(k, s.channels, block, ragged), corner + block * k.bytes
            best, winner = k.load(at, mask), k.spread(flat)
            for offset in offsets[1:]:
                best, winner = better(best, winner, at + offset * pixel, flat + offset, mask)
            store(image, output, block, best, winner, mask)

    _windows(k, s, window, clipped, whole)
    return k


@program
def avg_pool(isa: ISA, ragged: bool, window: Window | None) -> Kernel:
    """y = the sum of each window / divisor."""
    k = Kernel(_name("avg_pool", ragged, window), isa.width)
    x = k.pointer("x", "images", "height", "width", "channels")
    y = k.pointer("y", "images", "out_h", "out_w", "channels")
    divisors = k.pointer("divisors", "out_h", "out_w")
    s = _Sizes(k)
    pixel = s.channels * 4

    def store(image: Int, output: Int, block: Int, total: Any, mask: Any) -> None:
        mean = total / k.broadcast(divisors + output * 4)
        k.store(mean, y + ((image * (s.out_h * s.out_w) + output) * s.channels + block * k.width) * 4, mask)

    def clipped(image: Int, output: Int, flat: Int, rows: Int, columns: Int) -> None:
        corner = x + (image * (s.height * s.width) + flat) * pixel
        with k.loop(k.ceil_div(s.channels, k.width)) as block:
            mask = _mask(k, s.channels, block, ragged)

            def along(state: list[Any]) -> list[Any]:
                return [state[0] + k.load(state[1], mask), state[1] + s.dilation_w * pixel]

            def down(state: list[Any]) -> list[Any]:
                total, at = state
                return [k.carry(columns, [total, at], along)[0], at + s.dilation_h * s.width * pixel]

            total, _ = k.carry(rows, [k.constant(0), corner + block * k.bytes], down)
            store(image, output, block, total, mask)

    def whole(image: Int, output: Int, flat: Int) -> None:
        corner, offsets = x + (image * (s.height * s.width) + flat) * pixel, _offsets(s, window)
        with k.loop(k.ceil_div(s.channels, k.width)) as block:
            mask, at = _mask(k, s.channels, block, ragged), corner + block * k.bytes
            total = k.load(at, mask)
            for offset in offsets[1:]:
                total = total + k.load(at + offset * pixel, mask)
            store(image, output, block, total, mask)

    _windows(k, s, window, clipped, whole)
    return k


@program
def max_pool_grad(isa: ISA, ragged: bool, window: Window | None = None) -> Kernel:
    """gx[pixel] = the sum of gy over the windows whose index is the pixel; with ``window``, these do not overlap."""
    k = Kernel(_name("max_pool_grad", ragged, window), isa.width)
    g = k.pointer("g", "images", "out_h", "out_w", "channels")
    indices = k.pointer("indices", "images", "out_h", "out_w", "channels", element="i64")
    gx = k.pointer("gx", "images", "height", "width", "channels")
    s = _Sizes(k)

    def owed(at: Int, block: Int, mask: Any) -> Any:
        position = at * s.channels + block * k.width
        value, winner = k.load(g + position * 4, mask), k.load(indices + position * 8, mask, "i64")
        return lambda flat: k.select(winner.equals(k.spread(flat, "i64")), value, k.constant(0))

    _gather(k, s, gx, owed, ragged) if window is None else _deal(k, s, gx, owed, ragged, window)
    return k


@program
def avg_pool_grad(isa: ISA, ragged: bool, window: Window | None = None) -> Kernel:
    """gx[pixel] = the sum of gy / divisor over the windows that cover the pixel; with ``window``, these do not overlap."""
    k = Kernel(_name("avg_pool_grad", ragged, window), isa.width)
    g = k.pointer("g", "images", "out_h", "out_w", "channels")
    divisors = k.pointer("divisors", "out_h", "out_w")
    gx = k.pointer("gx", "images", "height", "width", "channels")
    s = _Sizes(k)

    def owed(at: Int, block: Int, mask: Any) -> Any:
        share = k.load(g + (at * s.channels + block * k.width) * 4, mask)
        share = share / k.broadcast(divisors + at % (s.out_h * s.out_w) * 4)
        return lambda flat: share

    _gather(k, s, gx, owed, ragged) if window is None else _deal(k, s, gx, owed, ragged, window)
    return k


def _gather(k: Kernel, s: _Sizes, gx: Pointer, owed: Any, ragged: bool) -> None:
    """gx[pixel] = sum of ``owed(window, block, mask)(pixel)`` over the windows that cover the pixel."""
    with k.parallel(s.images * s.height) as task:
        image, row = task // s.height, task % s.height
        first_row, rows = _covering(k, row, s.stride_h, s.top, s.kh, s.out_h)
        with k.loop(s.width) as column, k.loop(k.ceil_div(s.channels, k.width)) as block:
            first_column, columns = _covering(k, column, s.stride_w, s.left, s.kw, s.out_w)
            mask, flat = _mask(k, s.channels, block, ragged), row * s.width + column

            def along(state: list[Any], flat: Int = flat, block: Int = block, mask: Any = mask) -> list[Any]:
                total, at = state
                return [total + owed(at, block, mask)(flat), at + 1]

            def down(state: list[Any], columns: Number = columns) -> list[Any]:
                total, at = state
                return [k.carry(columns, [total, at], along)[0], at + s.out_w]

            start = (image * s.out_h + first_row) * s.out_w + first_column
            total, _ = k.carry(rows, [k.constant(0), start], down)
            k.store(total, gx + ((task * s.width + column) * s.channels + block * k.width) * 4, mask)


def _deal(k: Kernel, s: _Sizes, gx: Pointer, owed: Any, ragged: bool, window: Window) -> None:
    """gx[pixel] = ``owed(window, block, mask)(pixel)`` for every pixel of every window; none belongs to two."""
    with k.parallel(s.images * s.out_h) as task:
        image, row = task // s.out_h, task % s.out_h * s.stride_h
        with k.loop(s.out_w) as out_column, k.loop(k.ceil_div(s.channels, k.width)) as block:
            flat, mask = row * s.width + out_column * s.stride_w, _mask(k, s.channels, block, ragged)
            share = owed(task * s.out_w + out_column, block, mask)
            corner = gx + ((image * s.height * s.width + flat) * s.channels + block * k.width) * 4
            for offset in _offsets(s, window):
                k.store(share(flat + offset), corner + offset * s.channels * 4, mask)


@functools.lru_cache(64)
def _divisors(geom: Any, count_include_pad: bool) -> np.ndarray:
    return divisor(np, geom, count_include_pad, np.dtype(np.float32))


@vector("max_pool2d", takes_max_pool)
def max_pool2d(x: Any, geom: Any) -> Any:
    shape = (len(x), geom.out_h, geom.out_w, geom.C)
    y, indices = memory.empty(shape), memory.empty(shape, _INT64)
    _launch(max_pool, geom, len(x), _small(geom))(x=channels_last(x), y=y, indices=indices)
    return channels_first(y), channels_first(indices)


def _gradient(build: Any, geom: Any, images: int, **arrays: np.ndarray) -> np.ndarray:
    gx = memory.empty((images, geom.H, geom.W, geom.C))
    disjoint, covering = _disjoint(geom)
    if disjoint and not covering:
        gx.fill(0)
    _launch(build, geom, images, disjoint)(gx=gx, **arrays)
    return channels_first(gx)


@vector("max_pool2d_grad", takes_max_pool_grad)
def max_pool2d_grad(gy: Any, indices: Any, geom: Any) -> Any:
    winners = np.ascontiguousarray(indices.transpose(0, 2, 3, 1))
    return _gradient(max_pool_grad, geom, len(gy), g=channels_last(gy), indices=winners)


@vector("avg_pool2d", takes_avg_pool)
def avg_pool2d(x: Any, geom: Any, count_include_pad: bool = True) -> Any:
    y = memory.empty((len(x), geom.out_h, geom.out_w, geom.C))
    _launch(avg_pool, geom, len(x), _small(geom))(x=channels_last(x), y=y, divisors=_divisors(geom, count_include_pad))
    return channels_first(y)


@vector("avg_pool2d_grad", takes_avg_pool_grad)
def avg_pool2d_grad(gy: Any, geom: Any, count_include_pad: bool = True) -> Any:
    return _gradient(avg_pool_grad, geom, len(gy), g=channels_last(gy), divisors=_divisors(geom, count_include_pad))
