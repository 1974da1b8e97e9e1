"""Optimiser steps as their formulas, one parameter at a time, each quantity with a name of its own."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


def _wide(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _gradient(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    return _wide(-g if maximize else g) + weight_decay * _wide(p)


@reference("sgd_")
def sgd_(
    params: Sequence[Array], grads: Sequence[Array], buffers: list[Array | None], *, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
) -> None:
    for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
        g = _gradient(p, grad, weight_decay, maximize)
        step = g
        if momentum:
            old = buffers[i]
            velocity = g if old is None else momentum * _wide(old) + (1 - dampening) * g
            if old is None:
                buffers[i] = np.array(velocity, p.dtype)
            else:
                old[...] = velocity
            step = g + momentum * velocity if nesterov else velocity
        p[...] = _wide(p) - lr * step


def _adam(
    params: Sequence[Array], grads: Sequence[Array], exp_avgs: Sequence[Array], exp_avg_sqs: Sequence[Array],
    max_exp_avg_sqs: Sequence[Array], steps: Sequence[float], *, lr: float, beta1: float, beta2: float, eps: float,
    coupled: float, decoupled: float, amsgrad: bool, maximize: bool,
) -> None:
    for i, (p, grad, m, v, t) in enumerate(zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)):
        g = _gradient(p, grad, coupled, maximize)
        first = beta1 * _wide(m) + (1 - beta1) * g
        second = beta2 * _wide(v) + (1 - beta2) * g * g
        m[...], v[...] = first, second
        if amsgrad:
            second = np.maximum(_wide(max_exp_avg_sqs[i]), second)
            max_exp_avg_sqs[i][...] = second
        unbiased_first, unbiased_second = first / (1 - beta1**t), second / (1 - beta2**t)
        p[...] = (1 - lr * decoupled) * _wide(p) - lr * unbiased_first / (np.sqrt(unbiased_second) + eps)


@reference("adam_")
def adam_(*lists: Any, weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False, **options: Any) -> None:
    _adam(*lists, coupled=weight_decay, decoupled=0.0, amsgrad=amsgrad, maximize=maximize, **options)


@reference("adamw_")
def adamw_(*lists: Any, weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False, **options: Any) -> None:
    _adam(*lists, coupled=0.0, decoupled=weight_decay, amsgrad=amsgrad, maximize=maximize, **options)


@reference("rmsprop_")
def rmsprop_(
    params: Sequence[Array], grads: Sequence[Array], square_avgs: Sequence[Array], grad_avgs: Sequence[Array],
    buffers: Sequence[Array], *, lr: float, alpha: float, eps: float, weight_decay: float = 0.0, momentum: float = 0.0,
    centered: bool = False, maximize: bool = False,
) -> None:
    for i, (p, grad, v) in enumerate(zip(params, grads, square_avgs, strict=True)):
        g = _gradient(p, grad, weight_decay, maximize)
        square = alpha * _wide(v) + (1 - alpha) * g * g
        v[...] = square
        if centered:
            mean = alpha * _wide(grad_avgs[i]) + (1 - alpha) * g
            grad_avgs[i][...] = mean
            square = square - mean * mean
        step = g / (np.sqrt(square) + eps)
        if momentum:
            step = momentum * _wide(buffers[i]) + step
            buffers[i][...] = step
        p[...] = _wide(p) - lr * step


@reference("adagrad_")
def adagrad_(
    params: Sequence[Array], grads: Sequence[Array], state_sums: Sequence[Array], steps: Sequence[float], *, lr: float,
    lr_decay: float = 0.0, weight_decay: float = 0.0, eps: float = 1e-10, maximize: bool = False,
) -> None:
    for p, grad, s, t in zip(params, grads, state_sums, steps, strict=True):
        g = _gradient(p, grad, weight_decay, maximize)
        total = _wide(s) + g * g
        s[...] = total
        p[...] = _wide(p) - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(total) + eps)


@reference("adadelta_")
def adadelta_(
    params: Sequence[Array], grads: Sequence[Array], square_avgs: Sequence[Array], acc_deltas: Sequence[Array], *,
    lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, maximize: bool = False,
) -> None:
    for p, grad, v, u in zip(params, grads, square_avgs, acc_deltas, strict=True):
        g = _gradient(p, grad, weight_decay, maximize)
        square = rho * _wide(v) + (1 - rho) * g * g
        step = np.sqrt(_wide(u) + eps) / np.sqrt(square + eps) * g
        v[...], u[...] = square, rho * _wide(u) + (1 - rho) * step * step
        p[...] = _wide(p) - lr * step
