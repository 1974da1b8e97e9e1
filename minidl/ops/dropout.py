"""Dropout from a counter: the mask is never stored, the backward pass draws it again from its key."""
from __future__ import annotations

from minidl.autograd.function import Function


class Dropout(Function, verb="dropout"):
    """x * mask / (1 - p), the mask drawn from Philox under ``key`` = (seed, offset) (Srivastava et al. 2014)."""

    def forward(self, F, x, *, p, key):
        self.p, self.key = p, key
        return F.dropout(x, p=p, key=key)

    def backward(self, F, gy):
        return (F.dropout(gy, p=self.p, key=self.key),)
