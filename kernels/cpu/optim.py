"""Optimisers over all parameters in one launch: parameter, gradient and state are each read and written once.

What is updated is cut into pieces, the same ones at every step; only the gradients' addresses are new each time.  A rule is a
formula of vectors: ``formula(k, options, p, g, *states) -> (p, *states)``, where ``g`` already has its sign and its weight decay.
"""
from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.kernels.cpu.dispatch import takes_optimizer, vector
from minidl.kernels.cpu.emit import Int, Kernel, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Launch, LaunchError, Program, program
from minidl.kernels.cpu.memory import address

_PIECE = 1 << 12                                     # elements of a task
_FIELDS = 3                                          # of a row of the table of pieces: tensor, first element, elements
Formula = Callable[..., Sequence[Vector]]


def _rule(isa: ISA, name: str, states: int, options: Sequence[str], formula: Formula) -> Kernel:
    """A kernel that applies ``formula`` to every piece; ``options`` names its numbers, after ``sign`` and ``decay`` of g."""
    k = Kernel(name, isa.width)
    arrays = 2 + states                              # parameter, gradient, states
    addresses = k.pointer("addresses", "tensors", arrays, element="i64")
    table = k.pointer("table", "pieces", _FIELDS, element="i64")
    numbers = k.pointer("numbers", 2 + len(options))
    _, pieces = k.integers("tensors", "pieces")
    sign, decay, *values = (k.broadcast(numbers + 4 * i) for i in range(2 + len(options)))
    chosen = dict(zip(options, values, strict=True))
    with k.parallel(pieces) as piece:
        row = table + piece * (8 * _FIELDS)
        tensor, first, count = (k.load_integer(row + 8 * i) for i in range(_FIELDS))
        own = addresses + tensor * (8 * arrays)
        p, g, *state = (k.load_pointer(own + 8 * i) for i in range(arrays))

        def step(at: Int, mask: Any = None, p=p, g=g, state=state) -> None:
            old = k.load(p + at, mask)
            gradient = k.fma(decay, old, sign * k.load(g + at, mask))
            results = formula(k, chosen, old, gradient, *[k.load(s + at, mask) for s in state])
            for target, value in zip([p, *state], results, strict=True):
                k.store(value, target + at, mask)

        whole = count // isa.width
        with k.loop(whole) as i:
            step((first + i * isa.width) * 4)
        with k.when(count % isa.width > 0):
            step((first + whole * isa.width) * 4, k.first_lanes(count % isa.width))
    return k


def _mean_of(k: Kernel, keep: Vector, new: Vector, old: Vector, value: Vector) -> Vector:
    """keep * old + new * value, the running mean of a value."""
    return k.fma(keep, old, new * value)


@program
def sgd(isa: ISA, momentum: bool) -> Kernel:
    """v = momentum*v + damped*g;  p += share_g*g + share_v*v."""
    def formula(k: Kernel, o: dict[str, Vector], p: Vector, g: Vector, *state: Vector) -> Sequence[Vector]:
        change = o["share_g"] * g
        if not momentum:
            return [p + change]
        velocity = _mean_of(k, o["momentum"], o["damped"], state[0], g)
        return p + k.fma(o["share_v"], velocity, change), velocity
    return _rule(isa, "sgd" + "_momentum" * momentum, momentum, ("momentum", "damped", "share_g", "share_v"), formula)


@program
def adam(isa: ISA, amsgrad: bool) -> Kernel:
    """p *= keep_p;  m += new1*(g-m);  v = keep2*v + new2*g*g;  p -= rate * m / (sqrt(v) * scale + eps)."""
    def formula(k: Kernel, o: dict[str, Vector], p: Vector, g: Vector, m: Vector, v: Vector, *most: Vector) -> Sequence[Vector]:
        m = k.fma(o["new1"], g - m, m)
        v = _mean_of(k, o["keep2"], o["new2"], v, g * g)
        top = [k.select((most[0] > v) | most[0].unordered(), most[0], v)] if amsgrad else []
        root = k.square_root(top[0] if amsgrad else v)
        return p * o["keep_p"] - o["rate"] * m / k.fma(root, o["scale"], o["eps"]), m, v, *top
    return _rule(isa, "adam" + "_amsgrad" * amsgrad, 3 if amsgrad else 2,
                 ("keep_p", "new1", "keep2", "new2", "rate", "scale", "eps"), formula)


@program
def rmsprop(isa: ISA, centered: bool, momentum: bool) -> Kernel:
    """v = keep*v + new*g*g;  mean += new*(g-mean);  b = momentum*b + g / (sqrt(v - mean*mean) + eps);  p -= lr*b."""
    def formula(k: Kernel, o: dict[str, Vector], p: Vector, g: Vector, v: Vector, *state: Vector) -> Sequence[Vector]:
        v = _mean_of(k, o["keep"], o["new"], v, g * g)
        means = [k.fma(o["new"], g - mean, mean) for mean in state[:centered]]
        change = g / (k.square_root(v - means[0] * means[0] if centered else v) + o["eps"])
        buffers = [k.fma(o["momentum"], buffer, change) for buffer in state[centered:]]
        return p - o["lr"] * (buffers[0] if momentum else change), v, *means, *buffers
    return _rule(isa, "rmsprop" + "_centered" * centered + "_momentum" * momentum, 1 + centered + momentum,
                 ("lr", "keep", "new", "eps", "momentum"), formula)


@program
def adagrad(isa: ISA) -> Kernel:
    """s += g*g;  p -= rate * g / (sqrt(s) + eps)."""
    def formula(k: Kernel, o: dict[str, Vector], p: Vector, g: Vector, s: Vector) -> Sequence[Vector]:
        s = k.fma(g, g, s)
        return p - o["rate"] * g / (k.square_root(s) + o["eps"]), s
    return _rule(isa, "adagrad", 1, ("rate", "eps"), formula)


@program
def adadelta(isa: ISA) -> Kernel:
    """v = keep*v + new*g*g;  d = g * sqrt(u + eps) / sqrt(v + eps);  u = keep*u + new*d*d;  p -= lr*d."""
    def formula(k: Kernel, o: dict[str, Vector], p: Vector, g: Vector, v: Vector, u: Vector) -> Sequence[Vector]:
        v = _mean_of(k, o["keep"], o["new"], v, g * g)
        change = k.square_root(u + o["eps"]) * g / k.square_root(v + o["eps"])
        return p - o["lr"] * change, v, _mean_of(k, o["keep"], o["new"], u, change * change)
    return _rule(isa, "adadelta", 2, ("lr", "keep", "new", "eps"), formula)


# ------------------------------------------------------------------------------------------------------------ launch code
@functools.lru_cache(64)
def _pieces(sizes: tuple[int, ...]) -> np.ndarray:
    rows = [(tensor, first, min(_PIECE, size - first)) for tensor, size in enumerate(sizes) for first in range(0, size, _PIECE)]
    return np.array(rows, np.int64).reshape(-1, _FIELDS)


@functools.lru_cache(64)
def _launch(kernel: Program, tensors: int, pieces: int) -> Launch:
    return Launch(kernel, {"tensors": tensors, "pieces": pieces}, alone=pieces < 4)


def _run(kernel: Program, tensors: Sequence[Sequence[Any]], maximize: bool, weight_decay: float,
         options: Sequence[float]) -> None:
    """One launch over ``tensors``: for each parameter the arrays (parameter, gradient, *states)."""
    sizes = tuple(arrays[0].size for arrays in tensors)
    for arrays in tensors:
        if any(a.size != arrays[0].size for a in arrays):
            raise LaunchError(f"{kernel.name}: a parameter of shape {arrays[0].shape} has a gradient or state of another size")
    table = _pieces(sizes)
    if len(table):
        launch = _launch(kernel, len(tensors), len(table))
        addresses = np.array([[address(a) for a in arrays] for arrays in tensors], np.int64)
        numbers = np.array([-1.0 if maximize else 1.0, weight_decay, *options], np.float32)
        launch(addresses=addresses, table=table, numbers=numbers)


@vector("sgd_", takes_optimizer)
def sgd_(
    params: Any, grads: Any, buffers: Any, *, lr: float, momentum: float = 0.0, dampening: float = 0.0,
    weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
) -> None:
    if not momentum:
        _run(sgd(False), list(zip(params, grads, strict=True)), maximize, weight_decay, [0.0, 0.0, -lr, 0.0])
        return
    share_g, share_v = (-lr, -lr * momentum) if nesterov else (0.0, -lr)
    fresh = {i for i, buffer in enumerate(buffers) if buffer is None}
    for i in fresh:
        buffers[i] = np.zeros_like(params[i])
    tensors = list(zip(params, grads, buffers, strict=True))
    # The first velocity is the gradient itself, undamped.
    _run(sgd(True), [tensors[i] for i in fresh], maximize, weight_decay, [0.0, 1.0, share_g, share_v])
    others = [arrays for i, arrays in enumerate(tensors) if i not in fresh] if fresh else tensors
    _run(sgd(True), others, maximize, weight_decay, [momentum, 1 - dampening, share_g, share_v])


def _by_step(steps: Sequence[Any], tensors: Sequence[Sequence[Any]]) -> dict[Any, list[Sequence[Any]]]:
    """Parameters that have taken equally many steps; nearly always one group."""
    found: dict[Any, list[Sequence[Any]]] = defaultdict(list)
    for t, arrays in zip(steps, tensors, strict=True):
        found[t].append(arrays)
    return found


def _adam(params: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, max_exp_avg_sqs: Any, steps: Any, lr: float, beta1: float,
          beta2: float, eps: float, weight_decay: float, amsgrad: bool, maximize: bool, keep_p: float) -> None:
    states = (exp_avgs, exp_avg_sqs, max_exp_avg_sqs) if amsgrad else (exp_avgs, exp_avg_sqs)
    for t, tensors in _by_step(steps, list(zip(params, grads, *states, strict=True))).items():
        rate, scale = lr / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)
        _run(adam(amsgrad), tensors, maximize, weight_decay, [keep_p, 1 - beta1, beta2, 1 - beta2, rate, scale, eps])


@vector("adam_", takes_optimizer)
def adam_(
    params: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, max_exp_avg_sqs: Any, steps: Any, *, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False,
) -> None:
    _adam(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay, amsgrad, maximize,
          1.0)


@vector("adamw_", takes_optimizer)
def adamw_(
    params: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, max_exp_avg_sqs: Any, steps: Any, *, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False,
) -> None:
    _adam(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, lr, beta1, beta2, eps, 0.0, amsgrad, maximize,
          1 - lr * weight_decay)


@vector("rmsprop_", takes_optimizer)
def rmsprop_(
    params: Any, grads: Any, square_avgs: Any, grad_avgs: Any, buffers: Any, *, lr: float, alpha: float, eps: float,
    weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, maximize: bool = False,
) -> None:
    states = [square_avgs, *([grad_avgs] if centered else []), *([buffers] if momentum else [])]
    _run(rmsprop(centered, bool(momentum)), list(zip(params, grads, *states, strict=True)), maximize, weight_decay,
         [lr, alpha, 1 - alpha, eps, momentum])


@vector("adagrad_", takes_optimizer)
def adagrad_(
    params: Any, grads: Any, state_sums: Any, steps: Any, *, lr: float, lr_decay: float = 0.0, weight_decay: float = 0.0,
    eps: float = 1e-10, maximize: bool = False,
) -> None:
    for t, tensors in _by_step(steps, list(zip(params, grads, state_sums, strict=True))).items():
        _run(adagrad(), tensors, maximize, weight_decay, [lr / (1 + (t - 1) * lr_decay), eps])


@vector("adadelta_", takes_optimizer)
def adadelta_(
    params: Any, grads: Any, square_avgs: Any, acc_deltas: Any, *, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
    weight_decay: float = 0.0, maximize: bool = False,
) -> None:
    _run(adadelta(), list(zip(params, grads, square_avgs, acc_deltas, strict=True)), maximize, weight_decay,
         [lr, rho, 1 - rho, eps])
