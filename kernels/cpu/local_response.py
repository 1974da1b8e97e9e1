"""Local response normalisation (Krizhevsky et al. 2012, section 3.3): sums of squares over neighbouring channels of a pixel.

Channels are neighbours in memory, so a neighbour is the same vector loaded a few floats further on, with a mask where the row
ends.  The gradient takes two passes over a chunk of rows: what each channel passes on, into scratch, and its sums.
"""
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory, threads
from minidl.kernels.cpu.dispatch import takes_local_response_norm, takes_local_response_norm_grad, vector
from minidl.kernels.cpu.emit import Int, Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.functions import exp, log
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.layout import channels_first, channels_last

CHUNK = 64                                           # rows of a task: with scratch and results they stay in the cache


class _Norm:
    """The parameters of both kernels, and their formulas."""

    def __init__(self, k: Kernel, size: int, roots: bool) -> None:
        self.kernel, self.roots = k, roots
        self.back, self.ahead = size // 2, (size - 1) // 2
        options = k.pointer("options", 4)
        self.rows, self.channels = k.integers("rows", "channels")
        self.share, self.k, self.power, self.slope = (k.broadcast(options + 4 * i) for i in range(4))

    def neighbours(self, block: Int, back: int, ahead: int) -> list[tuple[int, Any]]:
        """(distance in bytes, mask of the lanes that have it) of every neighbour of a vector of channels."""
        k, found = self.kernel, []
        for distance in range(-back, ahead + 1):
            first = block * k.width + distance
            mask = (k.lane_numbers() > k.spread(-1 - first)) & k.first_lanes(self.channels - first)
            found.append((4 * distance, mask))
        return found

    def base(self, at: Pointer, neighbours: list[tuple[int, Any]]) -> Vector:
        """k + share * (the sum of the neighbours' squares)."""
        k, total = self.kernel, self.kernel.constant(0)
        for distance, mask in neighbours:
            x = k.load(at + distance, mask)
            total = k.fma(x, x, total)
        return k.fma(total, self.share, self.k)

    def scale(self, base: Vector) -> Vector:
        """base ^ -beta; AlexNet's 0.75 takes two roots."""
        k = self.kernel
        if self.roots:
            root = k.square_root(base)
            return k.constant(1) / (root * k.square_root(root))
        return exp(k, log(k, base) * self.power)

    def chunk(self, task: Int) -> tuple[Int, Int]:
        """The first row of a task, and how many it has."""
        first = task * CHUNK
        return first, self.kernel.minimum(CHUNK, self.rows - first)


@program
def local_response(isa: ISA, size: int, roots: bool) -> Kernel:
    """y = x * base ^ -beta."""
    k = Kernel(f"local_response_{size}" + "_roots" * roots, isa.width)
    x, y = k.pointers("x", "y", size=["rows", "channels"])
    norm = _Norm(k, size, roots)
    row_bytes = norm.channels * 4
    with k.parallel(k.ceil_div(norm.rows, CHUNK)) as task:
        first, count = norm.chunk(task)
        with k.loop(k.ceil_div(norm.channels, k.width)) as block:
            neighbours = norm.neighbours(block, norm.back, norm.ahead)
            mask, start = k.first_lanes(norm.channels - block * k.width), first * row_bytes + block * k.bytes
            with k.loop(count) as row:
                at = start + row * row_bytes
                k.store(k.load(x + at, mask) * norm.scale(norm.base(x + at, neighbours)), y + at, mask)
    return k


@program
def local_response_grad(isa: ISA, size: int, roots: bool) -> Kernel:
    """gx = g * base ^ -beta - slope * x * (the sum of g * x * base ^ (-beta - 1) over the channels whose window holds x)."""
    k = Kernel(f"local_response_grad_{size}" + "_roots" * roots, isa.width)
    g, x, gx = k.pointers("g", "x", "gx", size=["rows", "channels"])
    scratch = k.pointer("scratch", "threads_most", CHUNK, "channels")
    norm = _Norm(k, size, roots)
    k.integer("threads_most")
    row_bytes = norm.channels * 4
    passed = scratch + k.thread * CHUNK * row_bytes
    with k.parallel(k.ceil_div(norm.rows, CHUNK)) as task:
        first, count = norm.chunk(task)
        for last in (False, True):
            with k.loop(k.ceil_div(norm.channels, k.width)) as block:
                # The window of a channel reaches back and ahead; those that hold it lie the other way round.
                reach = (norm.ahead, norm.back) if last else (norm.back, norm.ahead)
                neighbours, column = norm.neighbours(block, *reach), block * k.bytes
                mask = k.first_lanes(norm.channels - block * k.width)
                with k.loop(count) as row:
                    at, mine = (first + row) * row_bytes + column, row * row_bytes + column
                    value = k.load(x + at, mask)
                    if last:
                        total = k.constant(0)
                        for distance, there in neighbours:
                            total = total + k.load(passed + mine + distance, there)
                        k.store(k.load(gx + at, mask) - norm.slope * value * total, gx + at, mask)
                    else:
                        base = norm.base(x + at, neighbours)
                        direct = k.load(g + at, mask) * norm.scale(base)
                        k.store(direct, gx + at, mask)
                        k.store(direct * value / base, passed + mine, mask)
    return k


@functools.lru_cache(64)
def _options(size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    return np.array([alpha / size, k, -beta, 2 * beta * alpha / size], np.float32)


@functools.lru_cache(64)
def _launch(build: Any, size: int, roots: bool, rows: int, channels: int, **integers: int) -> Launch:
    return build(size, roots).prepare(rows=rows, channels=channels, **integers)


@vector("local_response_norm", takes_local_response_norm)
def local_response_norm(x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    images = channels_last(x)
    y = memory.empty(images.shape)
    launch = _launch(local_response, size, beta == 0.75, x.size // x.shape[1], x.shape[1])
    launch(x=images, y=y, options=_options(size, alpha, beta, k))
    return channels_first(y)


@vector("local_response_norm_grad", takes_local_response_norm_grad)
def local_response_norm_grad(gy: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    images, gradients, most, channels = channels_last(x), channels_last(gy), threads.get_num_threads(), x.shape[1]
    gx = memory.empty(images.shape)
    launch = _launch(local_response_grad, size, beta == 0.75, x.size // channels, channels, threads_most=most)
    launch(g=gradients, x=images, gx=gx, options=_options(size, alpha, beta, k),
           scratch=memory.scratch("local_response", most * CHUNK * channels))
    return channels_first(gx)
