"""Softmax and its logarithm on a GPU: a block for each row, which holds the values along the axis."""
from __future__ import annotations

from typing import Any

from minidl.kernels.numba_loops.cuda.blocks import softmax_grad_kernel, softmax_kernel
from minidl.kernels.numba_loops.cuda.launch import array_module, launch


def softmax(x: Any, axis: int) -> Any:
    return _by_rows(softmax_kernel, False, axis, x)


def softmax_grad(gy: Any, y: Any, axis: int) -> Any:
    return _by_rows(softmax_grad_kernel, False, axis, gy, y)


def log_softmax(x: Any, axis: int) -> Any:
    return _by_rows(softmax_kernel, True, axis, x)


def log_softmax_grad(gy: Any, y: Any, axis: int) -> Any:
    return _by_rows(softmax_grad_kernel, True, axis, gy, y)


def _by_rows(kernel: Any, log: bool, axis: int, *arrays: Any) -> Any:
    """Run ``kernel`` on the arrays with the axis last, as rows, and bring the result back."""
    xp = array_module()
    turned = [xp.ascontiguousarray(xp.moveaxis(a, axis, -1)) for a in arrays]
    result = xp.empty_like(turned[0])
    if result.size:
        rows = (-1, result.shape[-1])
        launch(kernel, result.size // rows[1], *(a.reshape(rows) for a in turned), result.reshape(rows), log)
    return xp.ascontiguousarray(xp.moveaxis(result, -1, axis))
