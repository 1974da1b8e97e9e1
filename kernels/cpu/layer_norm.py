"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450): rows, each normalised by its own mean and deviation.

The statistics of a row take two passes over it in the cache: a mean, then sums about that mean, which correct the mean itself
and lose no digits to a large one.  The gradients of weight and bias are sums over all rows: float32 within CHUNK rows, the
chunks in float64 and in order, so that they do not depend on the threads.
"""
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidl.kernels.cpu import engine, memory
from minidl.kernels.cpu.dispatch import takes_layer_norm, takes_layer_norm_grad, vector
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.lanes import Row, contiguous, keep, put, total
from minidl.kernels.cpu.launch import Launch, Program, program

CHUNK = 64                                           # rows


@program
def layer_norm_kernel(isa: ISA, ragged: bool) -> Kernel:
    """y = (x - mean) * invstd * w + b, and the mean and invstd of every row."""
    k = Kernel("layer_norm" + "_ragged" * ragged, isa.width)
    x, y = k.pointers("x", "y", size=["rows", "length"])
    w, b = k.pointers("w", "b", size=["length"])
    mean, invstd = k.pointers("mean", "invstd", size=["rows"])
    options = k.pointer("options", 2)
    rows, length = k.integers("rows", "length")
    eps, share = k.broadcast(options), k.broadcast(options + 4)      # share = 1 / length
    row = Row(k, length, ragged)
    with k.parallel(rows) as i:
        source, target = x + i * length * 4, y + i * length * 4
        rough = total(k, row.fold([k.constant(0)], lambda s, at, mask: [s[0] + k.load(source + at, mask)])[0]) * share

        def about(state: list[Any], at: Any, mask: Any, rough: Any = rough) -> list[Any]:
            centred = keep(k, k.load(source + at, mask) - rough, mask)
            return [state[0] + centred, k.fma(centred, centred, state[1])]
        missed, squares = (total(k, s) * share for s in row.fold([k.constant(0)] * 2, about))
        centre = rough + missed
        variance = squares - missed * missed
        variance = k.select(k.constant(0) > variance, k.constant(0), variance)
        scale = k.constant(1) / k.square_root(variance + eps)
        put(k, centre, mean + i * 4)
        put(k, scale, invstd + i * 4)

        def act(at: Any, mask: Any, centre: Any = centre, scale: Any = scale) -> None:
            normal = (k.load(source + at, mask) - centre) * scale
            k.store(k.fma(normal, k.load(w + at, mask), k.load(b + at, mask)), target + at, mask)
        row.each(act)
    return k


@program
def layer_norm_grad_kernel(isa: ISA, ragged: bool) -> Kernel:
    """gx of every row, and per chunk of rows the sums of g * xhat and of g: gx = invstd (gw - mean(gw) - xhat mean(gw xhat))."""
    k = Kernel("layer_norm_grad" + "_ragged" * ragged, isa.width)
    g, x, gx = k.pointers("g", "x", "gx", size=["rows", "length"])
    w, mean, invstd = k.pointer("w", "length"), *k.pointers("mean", "invstd", size=["rows"])
    sums, options = k.pointer("sums", "chunks", 2, "length"), k.pointer("options", 2)
    rows, length, chunk, chunks = k.integers("rows", "length", "chunk", "chunks")
    share, row, line = k.broadcast(options + 4), Row(k, length, ragged), length * 4
    with k.parallel(chunks) as task:
        by_weight = sums + task * line * 2
        by_bias = by_weight + line

        def clear(at: Any, mask: Any, by_weight: Any = by_weight, by_bias: Any = by_bias) -> None:
            for target in (by_weight, by_bias):
                k.store(k.constant(0), target + at, mask)
        row.each(clear)
        with k.loop(task * chunk, k.minimum((task + 1) * chunk, rows)) as i:
            start, centre, scale = i * line, k.broadcast(mean + i * 4), k.broadcast(invstd + i * 4)

            def add(state: list[Any], at: Any, mask: Any, start: Any = start, centre: Any = centre, scale: Any = scale,
                    by_weight: Any = by_weight, by_bias: Any = by_bias) -> list[Any]:
                gradient, normal = k.load(g + start + at, mask), (k.load(x + start + at, mask) - centre) * scale
                k.store(k.fma(gradient, normal, k.load(by_weight + at, mask)), by_weight + at, mask)
                k.store(gradient + k.load(by_bias + at, mask), by_bias + at, mask)
                weighted = gradient * k.load(w + at, mask)
                return [state[0] + weighted, k.fma(weighted, normal, state[1])]
            level, along = (total(k, s) * share for s in row.fold([k.constant(0)] * 2, add))

            def act(at: Any, mask: Any, start: Any = start, centre: Any = centre, scale: Any = scale, level: Any = level,
                    along: Any = along) -> None:
                normal = (k.load(x + start + at, mask) - centre) * scale
                rest = k.load(g + start + at, mask) * k.load(w + at, mask) - level - normal * along
                k.store(rest * scale, gx + start + at, mask)
            row.each(act)
    return k


# ------------------------------------------------------------------------------------------------------------ launch code
@functools.lru_cache(512)
def _launch(build: Any, rows: int, length: int) -> Launch:
    compiled: Program = build(length % engine.host_isa().width > 0)
    chunks = {"chunk": CHUNK, "chunks": -(-rows // CHUNK)} if build is layer_norm_grad_kernel else {}
    return compiled.prepare(rows=rows, length=length, **chunks)


def _options(length: int, eps: float = 0.0) -> np.ndarray:
    return np.array([eps, 1 / length], np.float32)


def _vector(values: Any, length: int, otherwise: float) -> np.ndarray:
    return np.full(length, otherwise, np.float32) if values is None else np.ascontiguousarray(values)


@vector("layer_norm", takes_layer_norm)
def layer_norm(x: Any, w: Any, b: Any, ndim: int, eps: float) -> Any:
    outer, length = x.shape[: x.ndim - ndim], int(np.prod(x.shape[x.ndim - ndim :]))
    rows, kept = x.size // length, outer + (1,) * ndim
    y, mean, invstd = memory.empty(x.shape), memory.empty(kept), memory.empty(kept)
    _launch(layer_norm_kernel, rows, length)(
        x=contiguous(x), y=y, w=_vector(w, length, 1), b=_vector(b, length, 0), mean=mean, invstd=invstd,
        options=_options(length, eps))
    return y, mean, invstd


@vector("layer_norm_grad", takes_layer_norm_grad)
def layer_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any, ndim: int) -> Any:
    inner = x.shape[x.ndim - ndim :]
    length = int(np.prod(inner))
    rows = x.size // length
    gx, sums = memory.empty(x.shape), memory.empty((-(-rows // CHUNK), 2, length))
    _launch(layer_norm_grad_kernel, rows, length)(
        g=contiguous(gy), x=contiguous(x), gx=gx, w=_vector(w, length, 1), mean=np.ascontiguousarray(mean),
        invstd=np.ascontiguousarray(invstd), sums=sums, options=_options(length))
    gw, gb = sums.sum(axis=0, dtype=np.float64).astype(np.float32)
    return gx, gw.reshape(inner), gb.reshape(inner)
