"""Elementwise operations on arrays that are dense in one order of memory: one pass, on all threads."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels.cpu import layout
from minidl.kernels.cpu.dispatch import takes_pair, takes_relu, vector
from minidl.kernels.cpu.emit import Int, Kernel, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, Program, program

_PIECE = 1 << 12                                     # elements of a task: one page of memory, four times


def elementwise(isa: ISA, name: str, inputs: tuple[str, ...], formula: Callable[..., Vector]) -> Kernel:
    """y = formula(k, *inputs), element by element."""
    k = Kernel(name, isa.width)
    sources = [k.pointer(source, "n") for source in inputs]
    y, n = k.pointer("y", "n"), k.integer("n")

    def step(at: Int, mask: Any = None) -> None:
        k.store(formula(k, *[k.load(source + at, mask) for source in sources]), y + at, mask)

    with k.parallel(k.ceil_div(n, _PIECE)) as task:
        first = task * _PIECE
        count = k.minimum(_PIECE, n - first)
        whole = count // isa.width
        with k.loop(whole) as i:
            step((first + i * isa.width) * 4)
        with k.when(count % isa.width > 0):
            step((first + whole * isa.width) * 4, k.first_lanes(count % isa.width))
    return k


@program
def relu_kernel(isa: ISA) -> Kernel:
    """max(x, 0); NaN stays NaN."""
    def formula(k: Kernel, x: Vector) -> Vector:
        nothing = k.constant(0)
        return k.select(nothing > x, nothing, x)
    return elementwise(isa, "relu", ("x",), formula)


@program
def relu_grad_kernel(isa: ISA) -> Kernel:
    """g where y > 0, else 0."""
    def formula(k: Kernel, g: Vector, y: Vector) -> Vector:
        nothing = k.constant(0)
        return k.select(y > nothing, g, nothing)
    return elementwise(isa, "relu_grad", ("g", "of"), formula)


@program
def tanh_grad_kernel(isa: ISA) -> Kernel:
    """g * (1 - y * y)."""
    return elementwise(isa, "tanh_grad", ("g", "of"), lambda k, g, y: g * (k.constant(1) - y * y))


@program
def add_kernel(isa: ISA) -> Kernel:
    """a + b."""
    return elementwise(isa, "add", ("a", "b"), lambda k, a, b: a + b)


@functools.lru_cache(512)
def _launch(build: Callable[[], Program], n: int) -> Launch:
    return build().prepare(n=n)


def run(kernel: Callable[[], Program], names: tuple[str, ...], *arrays: Any) -> Any:
    """Apply a kernel to arrays of one shape; the result has the memory order of the last."""
    order = layout.flat(*arrays)
    if order is None:                                # mixed orders: bring all to the last one's
        arrays = tuple(layout.as_ordered(a, arrays[-1]) for a in arrays)
        order = layout.flat(*arrays)
    if order is None:                                # the last one is not dense: C order
        arrays = tuple(np.ascontiguousarray(a) for a in arrays)
        order = list(arrays)
    y = layout.like(arrays[-1])
    target = y if y.flags.c_contiguous else (layout.flat(y) or [y])[0]
    _launch(kernel, y.size)(**dict(zip(names, order, strict=True)), y=target)
    return y


@vector("relu", takes_relu)
def relu(x: Any) -> Any:
    return run(relu_kernel, ("x",), x)


@vector("relu_grad", takes_pair)
def relu_grad(gy: Any, y: Any) -> Any:
    return run(relu_grad_kernel, ("g", "of"), gy, y)


@vector("tanh_grad", takes_pair)
def tanh_grad(gy: Any, y: Any) -> Any:
    return run(tanh_grad_kernel, ("g", "of"), gy, y)


@vector("add", takes_pair)
def add(a: Any, b: Any) -> Any:
    return run(add_kernel, ("a", "b"), a, b)
