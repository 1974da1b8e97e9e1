"""Normalisation as its formulas, one channel, row or group at a time, in float64.

The gradient of xhat = (x - mean(x)) / sqrt(var(x) + eps) is written out as the product with its Jacobian,
d xhat_i / d x_j = (delta_ij - 1/m - xhat_i xhat_j / m) / std, a matrix that no fast variant would form.
"""
from typing import Any

import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


def _wide(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.float16 else np.dtype(dtype)


def _statistics(values: Array, eps: float) -> tuple[float, float]:
    values = values.astype(np.float64)
    mean = values.sum() / values.size
    variance = ((values - mean) ** 2).sum() / values.size
    return mean, 1 / np.sqrt(variance + eps)


def _through(gxhat: Array, xhat: Array, invstd: float) -> Array:
    m = xhat.size
    if not m:
        return gxhat
    jacobian = (np.eye(m) - 1 / m - np.outer(xhat, xhat) / m) * invstd
    return (jacobian.T @ gxhat.reshape(-1)).reshape(gxhat.shape)


def _or(values: Array | None, shape: tuple[int, ...], default: float) -> Array:
    return np.full(shape, default) if values is None else values.astype(np.float64)


@reference("batch_norm")
def batch_norm(x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    c = x.shape[1]
    mean, invstd = np.zeros(c), np.full(c, 1 / np.sqrt(eps))
    y = np.empty(x.shape, x.dtype)
    scale, shift = _or(w, (c,), 1), _or(b, (c,), 0)
    for k in range(c):
        if x[:, k].size:
            mean[k], invstd[k] = _statistics(x[:, k], eps)
        y[:, k] = (x[:, k].astype(np.float64) - mean[k]) * invstd[k] * scale[k] + shift[k]
    return y, mean.astype(_wide(x.dtype)), invstd.astype(_wide(x.dtype))


@reference("batch_norm_grad")
def batch_norm_grad(gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array) -> tuple[Array, Array, Array]:
    c, dtype = x.shape[1], _wide(x.dtype) if w is None else w.dtype
    gx = np.empty(gy.shape, gy.dtype)
    gw, gb = np.zeros(c, dtype), np.zeros(c, dtype)
    scale = _or(w, (c,), 1)
    for k in range(c):
        g = gy[:, k].astype(np.float64)
        xhat = (x[:, k].astype(np.float64) - mean[k]) * invstd[k]
        gx[:, k] = _through(g * scale[k], xhat, float(invstd[k]))
        gw[k], gb[k] = (g * xhat).sum(), g.sum()
    return gx, gw, gb


@reference("batch_norm_relu")
def batch_norm_relu(
    x: Array, w: Array | None, b: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    y, mean, invstd = batch_norm(x, w, b, eps)
    return np.maximum(y if residual is None else y + residual, y.dtype.type(0)), mean, invstd


@reference("batch_norm_relu_grad")
def batch_norm_relu_grad(
    gy: Array, x: Array, w: Array | None, b: Array | None, y: Array, mean: Array, invstd: Array, residual: bool
) -> tuple[Array, ...]:
    g = np.where(y > 0, gy, gy.dtype.type(0))
    grads = batch_norm_grad(g, x, w, mean, invstd)
    return (*grads, g) if residual else grads


@reference("batch_norm_inference")
def batch_norm_inference(x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, eps: float) -> Array:
    c = x.shape[1]
    y = np.empty(x.shape, x.dtype)
    scale, shift = _or(w, (c,), 1), _or(b, (c,), 0)
    for k in range(c):
        spread = np.sqrt(np.float64(var[k]) + eps)
        y[:, k] = (x[:, k].astype(np.float64) - np.float64(mean[k])) / spread * scale[k] + shift[k]
    return y


@reference("batch_norm_relu_inference")
def batch_norm_relu_inference(
    x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, residual: Array | None, eps: float
) -> Array:
    y = batch_norm_inference(x, w, b, mean, var, eps)
    return np.maximum(y if residual is None else y + residual, y.dtype.type(0))


@reference("running_stats_")
def running_stats_(
    running_mean: Array, running_var: Array, mean: Array, invstd: Array, *, count: int, momentum: float, eps: float,
    unbiased: bool,
) -> None:
    for c in range(len(mean)):
        var = max(float(invstd[c]) ** -2 - eps, 0.0) * (count / (count - 1) if unbiased else 1.0)
        running_mean[c] = (1 - momentum) * float(running_mean[c]) + momentum * float(mean[c])
        running_var[c] = (1 - momentum) * float(running_var[c]) + momentum * var


@reference("layer_norm")
def layer_norm(x: Array, w: Array | None, b: Array | None, ndim: int, eps: float) -> tuple[Array, Array, Array]:
    outer, inner = x.shape[: x.ndim - ndim], x.shape[x.ndim - ndim :]
    y = np.empty(x.shape, x.dtype)
    mean = np.empty(outer + (1,) * ndim, _wide(x.dtype))
    invstd = np.empty_like(mean)
    for at in np.ndindex(*outer):
        centre, inverse = _statistics(x[at], eps)
        mean[at], invstd[at] = centre, inverse
        y[at] = (x[at].astype(np.float64) - centre) * inverse * _or(w, inner, 1) + _or(b, inner, 0)
    return y, mean, invstd


@reference("layer_norm_grad")
def layer_norm_grad(
    gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array, ndim: int
) -> tuple[Array, Array, Array]:
    outer, inner = x.shape[: x.ndim - ndim], x.shape[x.ndim - ndim :]
    dtype = _wide(x.dtype) if w is None else w.dtype
    gx = np.empty(gy.shape, gy.dtype)
    gw, gb = np.zeros(inner), np.zeros(inner)
    for at in np.ndindex(*outer):
        g = gy[at].astype(np.float64)
        inverse = float(invstd[at].item())
        xhat = (x[at].astype(np.float64) - mean[at].item()) * inverse
        gx[at] = _through(g * _or(w, inner, 1), xhat, inverse)
        gw += g * xhat
        gb += g
    return gx, gw.astype(dtype), gb.astype(dtype)


@reference("group_norm")
def group_norm(x: Array, w: Array | None, b: Array | None, groups: int, eps: float) -> tuple[Array, Array, Array]:
    n, c = x.shape[:2]
    y = np.empty(x.shape, x.dtype)
    mean = np.empty((n, groups), _wide(x.dtype))
    invstd = np.empty_like(mean)
    scale, shift = _or(w, (c,), 1), _or(b, (c,), 0)
    for sample in range(n):
        for channel in range(c):
            g = channel // (c // groups)
            members = x[sample, g * (c // groups) : (g + 1) * (c // groups)]
            centre, inverse = _statistics(members, eps)
            mean[sample, g], invstd[sample, g] = centre, inverse
            xhat = (x[sample, channel].astype(np.float64) - centre) * inverse
            y[sample, channel] = xhat * scale[channel] + shift[channel]
    return y, mean, invstd


@reference("group_norm_grad")
def group_norm_grad(
    gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array, groups: int
) -> tuple[Array, Array, Array]:
    n, c = x.shape[:2]
    dtype, size = _wide(x.dtype) if w is None else w.dtype, c // groups
    gx = np.empty(gy.shape, gy.dtype)
    gw, gb = np.zeros(c), np.zeros(c)
    for sample in range(n):
        for g in range(groups):
            members = slice(g * size, (g + 1) * size)
            inverse = float(invstd[sample, g])
            gradient = gy[sample, members].astype(np.float64)
            xhat = (x[sample, members].astype(np.float64) - mean[sample, g]) * inverse
            scale = _or(w, (c,), 1)[members].reshape(size, *(1,) * (gradient.ndim - 1))
            gx[sample, members] = _through(gradient * scale, xhat, inverse)
            gw[members] += (gradient * xhat).reshape(size, -1).sum(axis=1)
            gb[members] += gradient.reshape(size, -1).sum(axis=1)
    return gx, gw.astype(dtype), gb.astype(dtype)


def _lrn_window(c: int, channels: int, size: int) -> range:
    return range(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1))


def _lrn_base(x: Array, size: int, alpha: float, k: float) -> Array:
    base = np.empty(x.shape)
    for c in range(x.shape[1]):
        base[:, c] = k + alpha / size * sum(x[:, j].astype(np.float64) ** 2 for j in _lrn_window(c, x.shape[1], size))
    return base


@reference("local_response_norm")
def local_response_norm(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    return (x / _lrn_base(x, size, alpha, k) ** beta).astype(x.dtype)


@reference("local_response_norm_grad")
def local_response_norm_grad(gy: Array, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    base = _lrn_base(x, size, alpha, k)
    gx = gy / base**beta
    for c in range(x.shape[1]):
        for j in _lrn_window(c, x.shape[1], size):
            # y_c = x_c * base_c^-beta, and base_c has alpha/size * x_j^2 in it.
            factor = -beta * base[:, c] ** (-beta - 1) * 2 * alpha / size
            gx[:, j] += gy[:, c] * x[:, c].astype(np.float64) * factor * x[:, j]
    return gx.astype(gy.dtype)
