"""Attention as its definition, one query at a time, in float64."""
import numpy as np

from minidl.kernels.registry import reference

Array = np.ndarray


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - max(scores, default=0.0))
    return powers / sum(powers)


@reference("attention")
def attention(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    weights = np.empty((*q.shape[:-1], k.shape[-2]), q.dtype)
    y = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    for *batch, i in np.ndindex(*q.shape[:-1]):
        at = tuple(batch)
        query, keys, values = (a.astype(np.float64) for a in (q[*at, i], k[at], v[at]))
        shares = _softmax(np.array([scale * (query @ key) for key in keys]))
        weights[*at, i] = shares
        y[*at, i] = sum((s * value for s, value in zip(shares, values, strict=True)), np.zeros(v.shape[-1]))
    return y, weights


@reference("attention_grad")
def attention_grad(gy: Array, q: Array, k: Array, v: Array, weights: Array, scale: float) -> tuple[Array, Array, Array]:
    gq, gk, gv = (np.zeros(a.shape, np.float64) for a in (q, k, v))
    for *batch, i in np.ndindex(*q.shape[:-1]):
        at = tuple(batch)
        g, query, shares = (a[*at, i].astype(np.float64) for a in (gy, q, weights))
        jacobian = np.diag(shares) - np.outer(shares, shares)
        for j, pull in enumerate(scale * jacobian @ (v[at].astype(np.float64) @ g)):
            gq[*at, i] += pull * k[*at, j]
            gk[*at, j] += pull * query
            gv[*at, j] += shares[j] * g
    return gq.astype(q.dtype), gk.astype(q.dtype), gv.astype(q.dtype)
