"""Attention: every query's mean of the values, weighted by how well it fits the keys."""
from typing import Any

from minidl.kernels.plain.arrays import Array, widen
from minidl.kernels.plain.softmax import softmax, softmax_grad
from minidl.kernels.registry import plain


def _turned(a: Array) -> Array:
    return a.swapaxes(-1, -2)


@plain("attention")
def attention(xp: Any, q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    queries, keys, values = widen(xp, q, k, v)
    scores = xp.matmul(queries, _turned(keys))
    scores *= scores.dtype.type(scale)
    weights = softmax(xp, scores, -1)
    return xp.matmul(weights, values).astype(q.dtype, copy=False), weights.astype(q.dtype, copy=False)


@plain("attention_grad")
def attention_grad(
    xp: Any, gy: Array, q: Array, k: Array, v: Array, weights: Array, scale: float
) -> tuple[Array, Array, Array]:
    g, queries, keys, values, shares = widen(xp, gy, q, k, v, weights)
    if weights.ndim < q.ndim:                        # the logarithms of their sums, from a kernel that kept no weights
        shares = xp.exp(xp.matmul(queries, _turned(keys)) * queries.dtype.type(scale) - shares[..., None])
    gv = xp.matmul(_turned(shares), g)
    gs = softmax_grad(xp, xp.matmul(g, _turned(values)), shares, -1)
    gs *= gs.dtype.type(scale)
    grads = xp.matmul(gs, keys), xp.matmul(_turned(gs), queries), gv
    return tuple(a.astype(q.dtype, copy=False) for a in grads)  # type: ignore[return-value]
