"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167), as loops over the values of a channel.

x is (N, C, S): S pixels.  Sums are float64, whatever the dtype, and the variance is the mean square about the mean: the
difference of the mean square and the squared mean has no digits left where the mean is large.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from minidl.kernels.numba_loops.jit import compiled


# ------------------------------------------------------------------------------------------------------- scalar functions
@compiled()
def channel_mean(x, c):
    """The mean of channel c."""
    total = 0.0
    for n in range(x.shape[0]):
        for p in range(x.shape[2]):
            total += x[n, c, p]
    return total / max(1, x.shape[0] * x.shape[2])


@compiled()
def channel_variance(x, c, mean):
    """The mean squared distance of channel c from its mean."""
    total = 0.0
    for n in range(x.shape[0]):
        for p in range(x.shape[2]):
            total += (x[n, c, p] - mean) ** 2
    return total / max(1, x.shape[0] * x.shape[2])


@compiled()
def gradient_sums(gy, x, c, mean):
    """(sum of gy, sum of gy * (x - mean)) of channel c."""
    total, along = 0.0, 0.0
    for n in range(x.shape[0]):
        for p in range(x.shape[2]):
            total += gy[n, c, p]
            along += gy[n, c, p] * (x[n, c, p] - mean)
    return total, along


# ------------------------------------------------------------------------------------------------------------------ loops
@compiled(parallel=True)
def batch_norm_loops(x, w, b, eps, y, means, invstds):
    for c in prange(x.shape[1]):
        mean = channel_mean(x, c)
        invstd = 1 / math.sqrt(channel_variance(x, c, mean) + eps)
        means[c], invstds[c] = mean, invstd
        for n in range(x.shape[0]):
            for p in range(x.shape[2]):
                y[n, c, p] = (x[n, c, p] - mean) * invstd * w[c] + b[c]


@compiled(parallel=True)
def batch_norm_grad_loops(gy, x, w, means, invstds, gx, gw, gb):
    count = x.shape[0] * x.shape[2]
    for c in prange(x.shape[1]):
        mean, invstd = means[c], invstds[c]
        total, along = gradient_sums(gy, x, c, mean)
        gb[c], gw[c] = total, along * invstd
        for n in range(x.shape[0]):
            for p in range(x.shape[2]):
                xhat = (x[n, c, p] - mean) * invstd
                gx[n, c, p] = w[c] * invstd * (gy[n, c, p] - total / count - xhat * along * invstd / count)


@compiled(parallel=True)
def affine_loops(x, centre, scale, shift, y):
    """y = (x - centre) * scale + shift, channel by channel."""
    for c in prange(x.shape[1]):
        for n in range(x.shape[0]):
            for p in range(x.shape[2]):
                y[n, c, p] = (x[n, c, p] - centre[c]) * scale[c] + shift[c]


# ---------------------------------------------------------------------------------------------------------------- kernels
def batch_norm(x: Any, w: Any, b: Any, eps: float) -> Any:
    c = x.shape[1]
    y, means, invstds = np.empty(_flat(x), x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    batch_norm_loops(x.reshape(y.shape), _or(w, 1, x), _or(b, 0, x), eps, y, means, invstds)
    return y.reshape(x.shape), means, invstds


def batch_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any) -> Any:
    gx, gw, gb = np.empty(_flat(x), x.dtype), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    batch_norm_grad_loops(gy.reshape(gx.shape), x.reshape(gx.shape), _or(w, 1, x), mean, invstd, gx, gw, gb)
    return gx.reshape(x.shape), gw, gb


def batch_norm_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, eps: float) -> Any:
    y = np.empty(_flat(x), x.dtype)
    affine_loops(x.reshape(y.shape), mean, (1 / np.sqrt(var + eps) * _or(w, 1, x)).astype(x.dtype), _or(b, 0, x), y)
    return y.reshape(x.shape)


def batch_norm_relu(x: Any, w: Any, b: Any, residual: Any, eps: float) -> Any:
    y, mean, invstd = batch_norm(x, w, b, eps)
    if residual is not None:
        y += residual
    return np.maximum(y, 0, out=y), mean, invstd


def batch_norm_relu_grad(gy: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, invstd: Any, residual: bool) -> Any:
    g = gy * (y > 0)
    gradients = batch_norm_grad(g, x, w, mean, invstd)
    return (*gradients, g) if residual else gradients


def _flat(x: Any) -> tuple[int, int, int]:
    n, c, *rest = x.shape
    return n, c, math.prod(rest)


def _or(parameter: Any, otherwise: float, x: Any) -> Any:
    """A parameter per channel, or what stands for it where there is none."""
    return np.full(x.shape[1], otherwise, x.dtype) if parameter is None else parameter
