"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over channels-last rows."""
from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import (
    engine,
    layer_norm,  # noqa: F401 (its verbs are of this family)
    local_response,  # noqa: F401 (so are its)
)
from minidl.kernels.cpu.dispatch import (
    takes_batch_norm,
    takes_batch_norm_grad,
    takes_batch_norm_inference,
    takes_batch_norm_relu,
    takes_batch_norm_relu_grad,
    takes_batch_norm_relu_inference,
    vector,
)
from minidl.kernels.cpu.layout import channels_first, channels_last
from minidl.kernels.cpu.rows import Rows


def _rows(x: Any) -> Rows:
    return Rows(channels_last(x), engine.host_isa().width)


def _statistics(rows: Rows, eps: float) -> tuple[Any, Any]:
    mean, variance = rows.mean_and_variance()
    return mean.astype(np.float32), (1 / np.sqrt(variance + eps)).astype(np.float32)


@vector("batch_norm", takes_batch_norm)
def batch_norm(x: Any, w: Any, b: Any, eps: float) -> Any:
    rows = _rows(x)
    mean, invstd = _statistics(rows, eps)
    y = rows.affine(mean, invstd if w is None else invstd * w, 0 if b is None else b)
    return channels_first(y), mean, invstd


@vector("batch_norm_grad", takes_batch_norm_grad)
def batch_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any) -> Any:
    gx, gw, gb, _ = _rows(x).gradient(channels_last(gy), w, None, mean, invstd)
    return channels_first(gx), gw, gb


@vector("batch_norm_relu", takes_batch_norm_relu)
def batch_norm_relu(x: Any, w: Any, b: Any, residual: Any, eps: float) -> Any:
    rows = _rows(x)
    mean, invstd = _statistics(rows, eps)
    other = None if residual is None else channels_last(residual)
    y = rows.affine(mean, invstd if w is None else invstd * w, 0 if b is None else b, True, other)
    return channels_first(y), mean, invstd


@vector("batch_norm_relu_grad", takes_batch_norm_relu_grad)
def batch_norm_relu_grad(gy: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, invstd: Any, residual: bool) -> Any:
    how, result = ("y", channels_last(y)) if residual else ("x", None)
    gx, gw, gb, g = _rows(x).gradient(channels_last(gy), w, b, mean, invstd, how, result)
    return (channels_first(gx), gw, gb, *([channels_first(g)] if residual else []))


def _inference(x: Any, w: Any, b: Any, mean: Any, var: Any, eps: float, relu: bool = False, residual: Any = None) -> Any:
    scale = 1 / np.sqrt(var + np.float32(eps))
    other = None if residual is None else channels_last(residual)
    return channels_first(_rows(x).affine(mean, scale if w is None else scale * w, 0 if b is None else b, relu, other))


@vector("batch_norm_inference", takes_batch_norm_inference)
def batch_norm_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, eps: float) -> Any:
    return _inference(x, w, b, mean, var, eps)


@vector("batch_norm_relu_inference", takes_batch_norm_relu_inference)
def batch_norm_relu_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, residual: Any, eps: float) -> Any:
    return _inference(x, w, b, mean, var, eps, True, residual)
