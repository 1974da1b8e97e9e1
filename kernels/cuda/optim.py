"""Launches of optim.cu: a step of SGD or Adam for all parameters at once.

While a CUDA graph is captured, the numbers of a step (learning rate, corrections of the moments) go to device memory, and
before each replay the same functions run once more for the new numbers alone (see capture.py).
"""
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.errors import DeviceError
from minidl.kernels.cuda import capture
from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype

FILE = "optim.cu"
CHUNK = 1 << 14                                      # elements of a block of 256 threads: 64 each
TABLES = 16                                          # that are remembered: memory pools give gradients the same places again

_tables: OrderedDict[Any, tuple[Array, int]] = OrderedDict()


def chunk_table(gpu: Any, *lists: Sequence[Array | None], fresh: Sequence[bool]) -> tuple[Array, int]:
    """The chunks of all parameters as optim.cu reads them, and how many there are; remembered by the arrays' addresses."""
    parts = tuple(
        (arrays[0].size, arrays[0].itemsize, new, *(0 if a is None else gpu.address(a) for a in arrays))
        for new, *arrays in zip(fresh, *lists, strict=True)
    )
    key = gpu.name, gpu.device, parts
    found = _tables.pop(key, None) or _new_table(gpu, parts)
    _tables[key] = found
    if len(_tables) > TABLES:
        _tables.popitem(last=False)
    active = capture.current()
    if active is not None:
        active.keep(found[0])
    return found


def _new_table(gpu: Any, parts: tuple[Any, ...]) -> tuple[Array, int]:
    rows = []
    for size, itemsize, new, *addresses in parts:
        addresses += [0] * (4 - len(addresses))
        for first in range(0, size, CHUNK):
            moved = [a and a + first * itemsize for a in addresses]
            rows.append((*moved, min(CHUNK, size - first), int(new)))
    return capture.constant(gpu, np.array(rows, np.uint64).reshape(-1, 6)), len(rows)


def _live(*numbers: float) -> tuple[Array | None, bool]:
    """(the numbers on the device, or None where a launch takes them as they are; whether there is something to launch)."""
    active = capture.current()
    if active is None:
        return None, True
    return active.numbers(*numbers), not active.replaying


def _takes(params: Sequence[Array], grads: Sequence[Array], *states: Sequence[Array | None], **options: Any) -> bool:
    arrays = [a for some in (params, grads, *states) for a in some if a is not None]
    return bool(params) and same_dtype(*arrays) and all(a.flags.c_contiguous for a in arrays)


def _takes_adam(params: Any, grads: Any, m: Any, v: Any, largest: Any, steps: Sequence[float], **options: Any) -> bool:
    return _takes(params, grads, m, v) and not options.get("amsgrad") and len(set(map(float, steps))) == 1


def _sgd(gpu: Any, params: Sequence[Array], grads: Sequence[Array], buffers: list[Array | None], lr: float, momentum: float = 0.0,
         dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False) -> None:  # fmt: skip
    fresh = [buffer is None for buffer in buffers]
    if momentum:
        for number, missing in enumerate(fresh):
            if missing:
                buffers[number] = gpu.xp.empty_like(params[number])
    lists = (params, grads, buffers) if momentum else (params, grads)
    live, to_launch = _live(lr, momentum, dampening, weight_decay)
    if live is not None and momentum and any(fresh):
        raise DeviceError("SGD: a graph would begin its momentum anew at each replay; take a step with it first")
    table, chunks = chunk_table(gpu, *lists, fresh=fresh) if to_launch else (None, 0)
    if chunks:
        arguments = (table, live, lr, momentum, dampening, weight_decay, int(nesterov), int(maximize))
        launch(gpu, FILE, "sgd", arguments, dtype=params[0].dtype, grid=(chunks,))


@cuda("sgd_", "cuda", _takes)
def sgd_(gpu: Any, params: Sequence[Array], grads: Sequence[Array], buffers: list[Array | None], **options: Any) -> None:
    _sgd(gpu, params, grads, buffers, **options)


@cuda("sgd_", "naive", _takes)
def sgd_naive_(gpu: Any, params: Sequence[Array], grads: Sequence[Array], buffers: list[Array | None], **options: Any) -> None:
    for number, (param, grad) in enumerate(zip(params, grads, strict=True)):
        buffer = [buffers[number]]
        _sgd(gpu, [param], [grad], buffer, **options)
        buffers[number] = buffer[0]


def _adam(gpu: Any, decoupled: bool, params: Sequence[Array], grads: Sequence[Array], exp_avgs: Sequence[Array],
          exp_avg_sqs: Sequence[Array], steps: Sequence[float], lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False) -> None:  # fmt: skip
    t = float(steps[0])
    step_size, root = lr / (1 - beta1**t), math.sqrt(1 - beta2**t)
    live, to_launch = _live(lr, step_size, beta1, beta2, root, eps, weight_decay)
    lists = params, grads, exp_avgs, exp_avg_sqs
    table, chunks = chunk_table(gpu, *lists, fresh=[False] * len(params)) if to_launch else (None, 0)
    if chunks:
        arguments = (table, live, lr, step_size, beta1, beta2, root, eps, weight_decay, int(decoupled), int(maximize))
        launch(gpu, FILE, "adam", arguments, dtype=params[0].dtype, grid=(chunks,))


@cuda("adam_", "cuda", _takes_adam)
def adam_(gpu: Any, params: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, largest: Any, steps: Any, **options: Any) -> None:
    _adam(gpu, False, params, grads, exp_avgs, exp_avg_sqs, steps, **options)


@cuda("adamw_", "cuda", _takes_adam)
def adamw_(gpu: Any, params: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, largest: Any, steps: Any, **options: Any) -> None:
    _adam(gpu, True, params, grads, exp_avgs, exp_avg_sqs, steps, **options)
