"""Softmax as its definition, one row at a time, in float64."""
import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


def _rows(a: Array, axis: int) -> Array:
    return np.moveaxis(a, axis, -1)


@reference("softmax")
def softmax(x: Array, axis: int) -> Array:
    y = np.empty(x.shape, x.dtype)
    for at in np.ndindex(*_rows(x, axis).shape[:-1]):
        row = _rows(x, axis)[at].astype(np.float64)
        powers = np.exp(row - max(row, default=0.0))
        _rows(y, axis)[at] = powers / sum(powers)
    return y


@reference("softmax_grad")
def softmax_grad(gy: Array, y: Array, axis: int) -> Array:
    gx = np.empty(gy.shape, gy.dtype)
    for at in np.ndindex(*_rows(gy, axis).shape[:-1]):
        g, p = _rows(gy, axis)[at].astype(np.float64), _rows(y, axis)[at].astype(np.float64)
        _rows(gx, axis)[at] = (np.diag(p) - np.outer(p, p)) @ g
    return gx


@reference("log_softmax")
def log_softmax(x: Array, axis: int) -> Array:
    y = np.empty(x.shape, x.dtype)
    for at in np.ndindex(*_rows(x, axis).shape[:-1]):
        row = _rows(x, axis)[at].astype(np.float64)
        if row.size:
            _rows(y, axis)[at] = row - max(row) - np.log(sum(np.exp(row - max(row))))
    return y


@reference("log_softmax_grad")
def log_softmax_grad(gy: Array, y: Array, axis: int) -> Array:
    gx = np.empty(gy.shape, gy.dtype)
    for at in np.ndindex(*_rows(gy, axis).shape[:-1]):
        g, p = _rows(gy, axis)[at].astype(np.float64), np.exp(_rows(y, axis)[at].astype(np.float64))
        _rows(gx, axis)[at] = (np.eye(len(p)) - np.outer(p, np.ones(len(p)))) @ g
    return gx
