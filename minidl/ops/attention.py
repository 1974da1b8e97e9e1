"""Attention without a mask, as one operation (Vaswani et al. 2017, arXiv:1706.03762)."""
from __future__ import annotations

from minidl.autograd.function import Function, composite


class Attention(Function, verb="attention"):
    """softmax(q k' * scale) v over (..., L, E), (..., S, E) and (..., S, V), whose leading axes are equal.

    The weights are kept for the backward pass, or the logarithms of their sums where a kernel never writes them; a recorded one
    computes them again from q and k.
    """

    def forward(self, F, q, k, v, *, scale):
        self.scale, self.shapes = scale, (q.shape, k.shape, v.shape)
        y, self.weights = F.attention(q, k, v, scale=scale)
        return y

    def backward(self, F, gy, q, k, v, weights):
        return F.attention_grad(gy, q, k, v, weights, scale=self.scale)


@composite("attention_grad")
def attention_grad(F, gy, q, k, v, weights, *, scale):
    n = len(q.shape)
    turned = (*range(n - 2), n - 1, n - 2)
    weights = F.softmax(F.mul(F.matmul(q, F.transpose(k, axes=turned)), scale), axis=n - 1)
    gs = F.mul(F.softmax_grad(F.matmul(gy, F.transpose(v, axes=turned)), weights, axis=n - 1), scale)
    return F.matmul(gs, k), F.matmul(F.transpose(gs, axes=turned), q), F.matmul(F.transpose(weights, axes=turned), gy)
