"""Softmax and its logarithm."""
from __future__ import annotations

from minidl.autograd.function import Function, composite


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
