"""Softmax along an axis: a row is read into the cache once, and the passes over it run there."""
from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidl.kernels.cpu import engine, functions, memory
from minidl.kernels.cpu.dispatch import takes_softmax, takes_softmax_grad, vector
from minidl.kernels.cpu.emit import Kernel, Pointer, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.lanes import Row, contiguous, keep, largest, total
from minidl.kernels.cpu.launch import Launch, Program, program


def row_maximum(k: Kernel, row: Row, x: Pointer) -> Vector:
    """The largest number of a row.  NaN does not win, but x - maximum then has it."""
    low = k.constant(-math.inf)

    def step(state: list[Any], at: Any, mask: Any) -> list[Any]:
        value = keep(k, k.load(x + at, mask), mask, -math.inf)
        return [k.select(value > state[0], value, state[0])]
    return largest(k, row.fold([low], step)[0])


def exponentials(k: Kernel, row: Row, x: Pointer, shift: Vector, y: Pointer | None = None) -> Vector:
    """The sum of e^(x - shift) over a row; the terms go to ``y``, if there is one."""
    def step(state: list[Any], at: Any, mask: Any) -> list[Any]:
        power = functions.exp(k, k.load(x + at, mask) - shift)
        if y is not None:
            k.store(power, y + at, mask)
        return [state[0] + keep(k, power, mask)]
    return total(k, row.fold([k.constant(0)], step)[0])


@program
def softmax_kernel(isa: ISA, ragged: bool, logarithm: bool) -> Kernel:
    """y = e^(x - max) / sum, or its logarithm, of every row."""
    k = Kernel(("log_softmax" if logarithm else "softmax") + "_ragged" * ragged, isa.width)
    x, y = k.pointers("x", "y", size=["rows", "length"])
    rows, length = k.integers("rows", "length")
    row = Row(k, length, ragged)
    with k.parallel(rows) as i:
        source, target = x + i * length * 4, y + i * length * 4
        highest = row_maximum(k, row, source)
        if logarithm:
            above = functions.log(k, exponentials(k, row, source, highest))
            row.each(lambda at, mask: k.store(k.load(source + at, mask) - highest - above, target + at, mask))
        else:
            share = k.constant(1) / exponentials(k, row, source, highest, target)
            row.each(lambda at, mask: k.store(k.load(target + at, mask) * share, target + at, mask))
    return k


@program
def softmax_grad_kernel(isa: ISA, ragged: bool, logarithm: bool) -> Kernel:
    """gx = y (g - sum(g y)) of every row; for the logarithm g - e^y sum(g)."""
    k = Kernel(("log_softmax_grad" if logarithm else "softmax_grad") + "_ragged" * ragged, isa.width)
    g, y, gx = k.pointers("g", "of", "gx", size=["rows", "length"])
    rows, length = k.integers("rows", "length")
    row = Row(k, length, ragged)
    with k.parallel(rows) as i:
        start = i * length * 4

        def step(state: list[Any], at: Any, mask: Any) -> list[Any]:
            gradient = k.load(g + start + at, mask)
            return [state[0] + gradient if logarithm else k.fma(gradient, k.load(y + start + at, mask), state[0])]
        along = total(k, row.fold([k.constant(0)], step)[0])

        def act(at: Any, mask: Any) -> None:
            gradient, result = k.load(g + start + at, mask), k.load(y + start + at, mask)
            value = gradient - functions.exp(k, result) * along if logarithm else result * (gradient - along)
            k.store(value, gx + start + at, mask)
        row.each(act)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
@functools.lru_cache(512)
def _launch(build: Any, logarithm: bool, rows: int, length: int) -> Launch:
    compiled: Program = build(length % engine.host_isa().width > 0, logarithm)
    return compiled.prepare(rows=rows, length=length)


def _along(build: Any, logarithm: bool, names: tuple[str, ...], result: str, axis: int, *arrays: Any) -> Any:
    """Run a kernel along ``axis``; arrays in which that axis is not the innermost one of memory are copied once."""
    sources = [contiguous(np.moveaxis(a, axis, -1)) for a in arrays]
    y = memory.empty(sources[0].shape)
    length = y.shape[-1]
    _launch(build, logarithm, y.size // length, length)(**dict(zip(names, sources, strict=True)), **{result: y})
    return np.moveaxis(y, -1, axis)


@vector("softmax", takes_softmax)
def softmax(x: Any, axis: int) -> Any:
    return _along(softmax_kernel, False, ("x",), "y", axis, x)


@vector("log_softmax", takes_softmax)
def log_softmax(x: Any, axis: int) -> Any:
    return _along(softmax_kernel, True, ("x",), "y", axis, x)


@vector("softmax_grad", takes_softmax_grad)
def softmax_grad(gy: Any, y: Any, axis: int) -> Any:
    return _along(softmax_grad_kernel, False, ("g", "of"), "gx", axis, gy, y)


@vector("log_softmax_grad", takes_softmax_grad)
def log_softmax_grad(gy: Any, y: Any, axis: int) -> Any:
    return _along(softmax_grad_kernel, True, ("g", "of"), "gx", axis, gy, y)
