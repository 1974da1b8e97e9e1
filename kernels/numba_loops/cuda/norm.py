"""Batch normalisation on a GPU: a block for each channel's sums, then a thread for each element.

x is (N, C, S): S pixels.
"""
from __future__ import annotations

import math
from typing import Any

from numba import cuda

from minidl.kernels.numba_loops.cuda.blocks import gradient_sums_kernel, statistics_kernel
from minidl.kernels.numba_loops.cuda.launch import array_module, launch, launch_over


# ---------------------------------------------------------------------------------------------------------------- kernels
@cuda.jit
def affine_kernel(x, centre, scale, shift, y):
    """y = (x - centre) * scale + shift, each of one channel, an element of y at a time."""
    channels, pixels = x.shape[1], x.shape[2]
    for index in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        n, c, p = index // (channels * pixels), index // pixels % channels, index % pixels
        y[n, c, p] = (x[n, c, p] - centre[c]) * scale[c] + shift[c]


@cuda.jit
def input_grad_kernel(gy, x, w, means, invstds, gw, gb, gx):
    """gx = w * invstd * (gy - mean(gy) - xhat * mean(gy * xhat)): both means are gradients that are there by now."""
    channels, pixels = x.shape[1], x.shape[2]
    count = x.shape[0] * pixels
    for index in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        n, c, p = index // (channels * pixels), index // pixels % channels, index % pixels
        xhat = (x[n, c, p] - means[c]) * invstds[c]
        gx[n, c, p] = w[c] * invstds[c] * (gy[n, c, p] - gb[c] / count - xhat * gw[c] / count)


# --------------------------------------------------------------------------------------------------------------- launches
def batch_norm(x: Any, w: Any, b: Any, eps: float) -> Any:
    xp, c = array_module(), x.shape[1]
    mean, invstd = xp.empty(c, x.dtype), xp.empty(c, x.dtype)
    launch(statistics_kernel, c, _flat(x), eps, mean, invstd)
    return _affine(x, mean, invstd * _or(w, 1, x), _or(b, 0, x)), mean, invstd


def batch_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any) -> Any:
    xp, c = array_module(), x.shape[1]
    gx, gw, gb = xp.empty(x.shape, x.dtype), xp.empty(c, x.dtype), xp.empty(c, x.dtype)
    launch(gradient_sums_kernel, c, _flat(gy), _flat(x), mean, invstd, gw, gb)
    launch_over(input_grad_kernel, gx.size, _flat(gy), _flat(x), _or(w, 1, x), mean, invstd, gw, gb, _flat(gx))
    return gx, gw, gb


def batch_norm_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, eps: float) -> Any:
    invstd = (1 / array_module().sqrt(var + eps)).astype(x.dtype)
    return _affine(x, mean, invstd * _or(w, 1, x), _or(b, 0, x))


def batch_norm_relu(x: Any, w: Any, b: Any, residual: Any, eps: float) -> Any:
    y, mean, invstd = batch_norm(x, w, b, eps)
    if residual is not None:
        y += residual
    return array_module().maximum(y, 0, out=y), mean, invstd


def batch_norm_relu_grad(gy: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, invstd: Any, residual: bool) -> Any:
    g = gy * (y > 0)
    gradients = batch_norm_grad(g, x, w, mean, invstd)
    return (*gradients, g) if residual else gradients


def _affine(x: Any, centre: Any, scale: Any, shift: Any) -> Any:
    y = array_module().empty(x.shape, x.dtype)
    launch_over(affine_kernel, y.size, _flat(x), centre, scale, shift, _flat(y))
    return y


def _flat(x: Any) -> Any:
    n, c, *rest = x.shape
    return x.reshape(n, c, math.prod(rest))


def _or(parameter: Any, otherwise: float, x: Any) -> Any:
    """A parameter per channel, or what stands for it where there is none."""
    return array_module().full(x.shape[1], otherwise, x.dtype) if parameter is None else parameter
