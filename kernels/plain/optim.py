"""One step of an optimiser over many parameters, in place, by torch's update formulas.

Every kernel takes parallel lists of arrays and writes the parameters and their state, never the gradients.  Large
contiguous arrays are walked in blocks, all passes over a block before the next: parameter, gradient and state are read from
memory once.  The scratch arrays are shared by all blocks.  float16 parameters and states are updated in float32.
"""
import math
from collections.abc import Iterator, Sequence
from typing import Any

from minidl.kernels.plain.arrays import Array, wide
from minidl.kernels.registry import plain

BLOCK = 1 << 15  # elements: with two states and two scratch arrays, 768 KB of float32


class _Scratch:
    """Two work arrays of any shape, cut from memory that is allocated once per call."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.memory: dict[Any, Array] = {}

    def like(self, values: Array) -> tuple[Array, Array]:
        flat = self.memory.get(values.dtype)
        if flat is None or flat.shape[1] < values.size:
            flat = self.memory[values.dtype] = self.xp.empty((2, values.size), values.dtype)
        return flat[0, : values.size].reshape(values.shape), flat[1, : values.size].reshape(values.shape)


def _blocks(arrays: tuple[Array, ...]) -> Iterator[tuple[Array, ...]]:
    """Views of the same elements of all arrays: of at most BLOCK where all are contiguous, else whole."""
    if all(a.flags.c_contiguous for a in arrays):
        flat = [a.reshape(-1) for a in arrays]
        for start in range(0, flat[0].size, BLOCK):
            yield tuple(a[start : start + BLOCK] for a in flat)
    elif arrays[0].size:
        yield arrays


def _walk(
    xp: Any,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[Sequence[Array]],
    weight_decay: float,
    maximize: bool,
) -> Iterator[tuple[int, tuple[Array, ...]]]:
    """For each block of each parameter: its number and (parameter, gradient, *states, scratch, scratch).

    The gradient has its sign and weight decay, and is in the first scratch array if either changed it.
    """
    memory = _Scratch(xp)
    for number, arrays in enumerate(zip(params, grads, *states, strict=True)):
        for views in _blocks(arrays):
            acc = wide(xp, views[0].dtype)
            work = tuple(a.astype(acc, copy=False) for a in views)
            a, b = memory.like(work[0])
            p, g = work[:2]
            if maximize:
                g = xp.negative(g, out=a)
            if weight_decay:
                xp.multiply(p, acc.type(weight_decay), out=b)
                g = xp.add(g, b, out=a)
            yield number, (p, g, *work[2:], a, b)
            for view, values in zip((views[0], *views[2:]), (p, *work[2:]), strict=True):
                if values is not view:
                    view[...] = values  # float16: the float32 copy, rounded once


def _lerp(xp: Any, average: Array, value: Array, weight: float, scratch: Array) -> None:
    """average += weight * (value - average), from the nearer end as torch's lerp."""
    if weight < 0.5:
        xp.subtract(value, average, out=scratch)
        scratch *= weight
        average += scratch
    else:
        xp.subtract(average, value, out=scratch)
        scratch *= 1 - weight
        xp.add(value, scratch, out=average)


def _decay_square(xp: Any, average: Array, value: Array, keep: float, scratch: Array) -> None:
    """average = keep * average + (1 - keep) * value^2."""
    xp.multiply(value, value, out=scratch)
    scratch *= 1 - keep
    average *= keep
    average += scratch


@plain("sgd_")
def sgd_(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], buffers: list[Array | None], *, lr: float,
    momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
) -> None:
    if not momentum:
        for _, (p, g, a, _) in _walk(xp, params, grads, (), weight_decay, maximize):
            p -= xp.multiply(g, lr, out=a)
        return
    fresh = {number for number, buffer in enumerate(buffers) if buffer is None}
    for number in fresh:
        buffers[number] = xp.empty_like(params[number])
    states: Any = (buffers,)
    for number, (p, g, v, a, b) in _walk(xp, params, grads, states, weight_decay, maximize):
        if number in fresh:
            v[...] = g
        else:
            v *= momentum
            v += g if not dampening else xp.multiply(g, 1 - dampening, out=b)
        step = v
        if nesterov:
            xp.multiply(v, momentum, out=b)
            step = xp.add(g, b, out=b)
        p -= xp.multiply(step, lr, out=a)


def _adam(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], exp_avgs: Sequence[Array], exp_avg_sqs: Sequence[Array],
    max_exp_avg_sqs: Sequence[Array], steps: Sequence[float], *, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, amsgrad: bool, maximize: bool, decoupled: bool,
) -> None:
    states = (exp_avgs, exp_avg_sqs, max_exp_avg_sqs) if amsgrad else (exp_avgs, exp_avg_sqs)
    coupled = 0.0 if decoupled else weight_decay
    for number, (p, g, m, v, *rest) in _walk(xp, params, grads, states, coupled, maximize):
        b = rest[-1]  # the other scratch array may hold the gradient
        if decoupled and weight_decay:
            p *= 1 - lr * weight_decay
        _lerp(xp, m, g, 1 - beta1, b)
        _decay_square(xp, v, g, beta2, b)
        second = xp.maximum(rest[0], v, out=rest[0]) if amsgrad else v
        t = steps[number]
        xp.sqrt(second, out=b)
        b /= math.sqrt(1 - beta2**t)
        b += eps
        xp.divide(m, b, out=b)
        b *= lr / (1 - beta1**t)
        p -= b


@plain("adam_")
def adam_(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], exp_avgs: Sequence[Array], exp_avg_sqs: Sequence[Array],
    max_exp_avg_sqs: Sequence[Array], steps: Sequence[float], *, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False,
) -> None:
    _adam(xp, params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, lr=lr, beta1=beta1, beta2=beta2, eps=eps,
          weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize, decoupled=False)


@plain("adamw_")
def adamw_(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], exp_avgs: Sequence[Array], exp_avg_sqs: Sequence[Array],
    max_exp_avg_sqs: Sequence[Array], steps: Sequence[float], *, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False,
) -> None:
    _adam(xp, params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, lr=lr, beta1=beta1, beta2=beta2, eps=eps,
          weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize, decoupled=True)


@plain("rmsprop_")
def rmsprop_(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], square_avgs: Sequence[Array], grad_avgs: Sequence[Array],
    buffers: Sequence[Array], *, lr: float, alpha: float, eps: float, weight_decay: float = 0.0, momentum: float = 0.0,
    centered: bool = False, maximize: bool = False,
) -> None:
    states = [square_avgs]
    if centered:
        states.append(grad_avgs)
    if momentum:
        states.append(buffers)
    for _, (p, g, v, *rest) in _walk(xp, params, grads, states, weight_decay, maximize):
        b = rest[-1]
        _decay_square(xp, v, g, alpha, b)
        if centered:
            mean = rest[0]
            _lerp(xp, mean, g, 1 - alpha, b)
            xp.multiply(mean, mean, out=b)
            xp.subtract(v, b, out=b)
            xp.sqrt(b, out=b)
        else:
            xp.sqrt(v, out=b)
        b += eps
        xp.divide(g, b, out=b)
        if momentum:
            buffer = rest[1] if centered else rest[0]
            buffer *= momentum
            buffer += b
            xp.multiply(buffer, lr, out=b)
        else:
            b *= lr
        p -= b


@plain("adagrad_")
def adagrad_(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], state_sums: Sequence[Array], steps: Sequence[float], *,
    lr: float, lr_decay: float = 0.0, weight_decay: float = 0.0, eps: float = 1e-10, maximize: bool = False,
) -> None:
    for number, (p, g, s, _, b) in _walk(xp, params, grads, (state_sums,), weight_decay, maximize):
        xp.multiply(g, g, out=b)
        s += b
        xp.sqrt(s, out=b)
        b += eps
        xp.divide(g, b, out=b)
        b *= lr / (1 + (steps[number] - 1) * lr_decay)
        p -= b


@plain("adadelta_")
def adadelta_(
    xp: Any, params: Sequence[Array], grads: Sequence[Array], square_avgs: Sequence[Array], acc_deltas: Sequence[Array], *,
    lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, maximize: bool = False,
) -> None:
    for _, (p, g, v, u, a, b) in _walk(xp, params, grads, (square_avgs, acc_deltas), weight_decay, maximize):
        _decay_square(xp, v, g, rho, b)
        xp.add(u, eps, out=b)
        xp.sqrt(b, out=b)
        step = xp.multiply(b, g, out=a)
        xp.add(v, eps, out=b)
        xp.sqrt(b, out=b)
        step /= b
        _decay_square(xp, u, step, rho, b)
        p -= xp.multiply(step, lr, out=b)
