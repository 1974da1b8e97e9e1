"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over channels-last rows."""
from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu import engine
from minidl.kernels.cpu.dispatch import takes_batch_norm, takes_batch_norm_grad, takes_batch_norm_inference, vector
from minidl.kernels.cpu.layout import channels_first, channels_last
from minidl.kernels.cpu.rows import Rows


def _rows(x: Any) -> Rows:
    return Rows(channels_last(x), engine.host_isa().width)


@vector("batch_norm", takes_batch_norm)
def batch_norm(x: Any, w: Any, b: Any, eps: float) -> Any:
    rows = _rows(x)
    mean, variance = rows.mean_and_variance()
    mean, invstd = mean.astype(np.float32), (1 / np.sqrt(variance + eps)).astype(np.float32)
    y = rows.affine(mean, invstd if w is None else invstd * w, 0 if b is None else b)
    return channels_first(y), mean, invstd


@vector("batch_norm_grad", takes_batch_norm_grad)
def batch_norm_grad(gy: Any, x: Any, w: Any, mean: Any, invstd: Any) -> Any:
    rows, g = _rows(x), channels_last(gy)
    gb, along = rows.gradient_sums(g, np.ascontiguousarray(mean))
    gw = along * invstd
    scale = invstd.astype(np.float64) if w is None else invstd.astype(np.float64) * w
    gx = rows.affine_grad(g, mean, -scale * invstd * gw / rows.rows, -scale * gb / rows.rows, scale)
    return channels_first(gx), gw.astype(np.float32), gb.astype(np.float32)


@vector("batch_norm_inference", takes_batch_norm_inference)
def batch_norm_inference(x: Any, w: Any, b: Any, mean: Any, var: Any, eps: float) -> Any:
    scale = 1 / np.sqrt(var + np.float32(eps))
    return channels_first(_rows(x).affine(mean, scale if w is None else scale * w, 0 if b is None else b))
