"""Softmax and its logarithm."""
from __future__ import annotations

from typing import Any

from minidl.autograd.function import Function, composite, tensors
from minidl.ops.axes import axis as axis_of
from minidl.ops.checks import floating
from minidl.tensor import Tensor


class Softmax(Function, verb="softmax"):
    """exp(x) / sum(exp(x)) along an axis, computed from x - max(x)."""

    def forward(self, F, x, *, axis):
        self.axis = axis
        return F.softmax(x, axis=axis)

    def backward(self, F, gy, y):
        return (F.softmax_grad(gy, y, axis=self.axis),)


@composite("softmax_grad")
def softmax_grad(F, gy, y, *, axis):
    return F.mul(y, F.sub(gy, F.sum(F.mul(gy, y), axis=axis, keepdims=True)))


class LogSoftmax(Function, verb="log_softmax"):
    """x - log(sum(exp(x))) along an axis, computed from x - max(x)."""

    def forward(self, F, x, *, axis):
        self.axis = axis
        return F.log_softmax(x, axis=axis)

    def backward(self, F, gy, y):
        return (F.log_softmax_grad(gy, y, axis=self.axis),)


@composite("log_softmax_grad")
def log_softmax_grad(F, gy, y, *, axis):
    return F.sub(gy, F.mul(F.exp(y), F.sum(gy, axis=axis, keepdims=True)))


def softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """exp(x_i) / sum_j exp(x_j) along ``dim``: positive numbers that add up to 1.  Logits of any size are safe.

    ``dtype`` converts the input first.

    Raises:
        DTypeError: the input is not floating point.  IndexError: there is no such axis.
    """
    return _along("softmax", input, dim, dtype)


def log_softmax(input: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along ``dim``, exact where the softmax would round to 0; ``dtype`` converts the input first.

    Raises:
        DTypeError: the input is not floating point.  IndexError: there is no such axis.
    """
    return _along("log_softmax", input, dim, dtype)


def _along(verb: str, x: Tensor, dim: int, dtype: Any) -> Any:
    """A verb that needs an axis; a number counts as a vector of one."""
    x = x.to(dtype) if dtype is not None and isinstance(x, Tensor) else x
    d = axis_of(verb, dim, floating(verb, x).ndim)
    return getattr(tensors, verb)(x, axis=d) if x.ndim else getattr(tensors, verb)(x.reshape(1), axis=d).reshape(())
