"""Stochastic gradient descent over all parameters in one launch: each is read and written once."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels.cpu.dispatch import takes_optimizer, vector
from minidl.kernels.cpu.emit import Int, Kernel, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import LaunchError, program

_PIECE = 1 << 12                                     # elements of a task
_FIELDS = 5                                          # of a row of the table: parameter, gradient, buffer, first element, elements
_OPTIONS = 6                                         # sign, weight decay, momentum, 1 - dampening, share of g, share of v


@program
def sgd(isa: ISA, momentum: bool) -> Kernel:
    """g = sign*g + decay*p;  v = momentum*v + damped*g;  p += share_g*g + share_v*v, for every piece in a table."""
    k = Kernel("sgd" + "_momentum" * momentum, isa.width)
    table = k.pointer("table", "pieces", _FIELDS, element="i64")
    options, pieces = k.pointer("options", _OPTIONS), k.integer("pieces")
    sign, decay, keep, damped, share_g, share_v = (k.broadcast(options + 4 * i) for i in range(_OPTIONS))
    with k.parallel(pieces) as piece:
        row = table + piece * (8 * _FIELDS)
        p, g, v = (k.load_pointer(row + 8 * i) for i in range(3))
        first, count = k.load_integer(row + 24), k.load_integer(row + 32)

        def step(at: Int, mask: Any = None, p=p, g=g, v=v) -> None:
            old = k.load(p + at, mask)
            gradient: Vector = k.fma(decay, old, sign * k.load(g + at, mask))
            change = share_g * gradient
            if momentum:
                velocity = k.fma(keep, k.load(v + at, mask), damped * gradient)
                k.store(velocity, v + at, mask)
                change = k.fma(share_v, velocity, change)
            k.store(old + change, p + at, mask)

        whole = count // isa.width
        with k.loop(whole) as i:
            step((first + i * isa.width) * 4)
        with k.when(count % isa.width > 0):
            step((first + whole * isa.width) * 4, k.first_lanes(count % isa.width))
    return k


def _table(params: Sequence[np.ndarray], grads: Sequence[np.ndarray], buffers: Sequence[np.ndarray | None]) -> np.ndarray:
    """One row per piece of a parameter."""
    rows = []
    for p, g, v in zip(params, grads, buffers, strict=True):
        if g.size != p.size or v is not None and v.size != p.size:
            raise LaunchError(f"sgd_: a parameter of shape {p.shape} has a gradient or buffer of another size")
        addresses = p.ctypes.data, g.ctypes.data, 0 if v is None else v.ctypes.data
        rows += [(*addresses, first, min(_PIECE, p.size - first)) for first in range(0, p.size, _PIECE)]
    return np.array(rows, np.int64).reshape(-1, _FIELDS)


@vector("sgd_", takes_optimizer)
def sgd_(
    params: Any, grads: Any, buffers: Any, *, lr: float, momentum: float = 0.0, dampening: float = 0.0,
    weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
) -> None:
    sign = -1.0 if maximize else 1.0
    fresh = [i for i, buffer in enumerate(buffers) if buffer is None] if momentum else []
    for i in fresh:
        buffers[i] = np.zeros_like(params[i])
    share_g, share_v = (-lr if nesterov or not momentum else 0.0), (-lr * momentum if nesterov else -lr if momentum else 0.0)

    def run(numbers: list[int], keep: float, damped: float) -> None:
        if numbers:
            table = _table([params[i] for i in numbers], [grads[i] for i in numbers], [buffers[i] for i in numbers])
            options = np.array([sign, weight_decay, keep, damped, share_g, share_v], np.float32)
            sgd(bool(momentum))(table=table, options=options, pieces=len(table), alone=len(table) < 4)

    run(fresh, 0.0, 1.0)                             # the first velocity is the gradient itself, undamped
    run([i for i in range(len(params)) if i not in set(fresh)], momentum, 1 - dampening)
