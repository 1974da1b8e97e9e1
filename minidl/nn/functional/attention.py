"""Attention (Vaswani et al. 2017, arXiv:1706.03762)."""
from __future__ import annotations

import math

from minidl.autograd.function import tensors
from minidl.errors import ConfigError, ShapeError
from minidl.nn.functional.activation import dropout, softmax
from minidl.nn.functional.checks import floating, same_dtype
from minidl.nn.functional.linear import linear
from minidl.ops.checks import expect_tensors
from minidl.ops.creation import ones
from minidl.ops.elementwise import masked_fill
from minidl.ops.matmul import matmul
from minidl.tensor import Tensor


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                                 dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """softmax(query @ key.T * scale + mask) @ value: each query gets a mean of the values, weighted by how well it fits the keys.

    Args:
        query: (..., L, E).  key: (..., S, E).  value: (..., S, V).
        attn_mask: broadcasts to (..., L, S); bool (true where a query may look) or float (added to the scores).
        dropout_p: probability of dropping an attention weight; applied whenever it is not 0.
        is_causal: position i sees positions up to i only.
        scale: 1 / sqrt(E) by default.

    Returns:
        (..., L, V).

    Raises:
        ShapeError: the sizes do not fit.  DTypeError: query, key and value are not floating point of one dtype.
        ConfigError: both attn_mask and is_causal.
    """
    same_dtype("scaled_dot_product_attention", floating("scaled_dot_product_attention", query), key, value)
    if query.ndim < 2 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(f"scaled_dot_product_attention: query {query.shape}, key {key.shape}, value {value.shape}: query "
                         "and key must agree on the last axis, key and value on the one before it")
    if attn_mask is None and not is_causal and not dropout_p and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        return tensors.attention(query, key, value, scale=1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = matmul(query, key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        if attn_mask is not None:
            raise ConfigError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
        attn_mask = ones(query.shape[-2], key.shape[-2], device=query.F).tril().bool()
    if attn_mask is not None:
        if attn_mask.dtype.kind == "b":
            scores = masked_fill(scores, tensors.logical_not(attn_mask), -math.inf)
        else:
            scores = scores + attn_mask
    weights = softmax(scores, -1)
    return matmul(dropout(weights, dropout_p), value)


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, in_proj_weight: Tensor,
                         in_proj_bias: Tensor | None, out_proj_weight: Tensor, out_proj_bias: Tensor | None,
                         attn_mask: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
    """Attention in ``num_heads`` subspaces: project, attend, join, project.

    Args:
        query: (N, L, E).  key, value: (N, S, E).
        in_proj_weight: (3 E, E), the projections of query, key and value one below the other.  in_proj_bias: (3 E,).
        out_proj_weight: (E, E).  out_proj_bias: (E,).
        attn_mask: as in :func:`scaled_dot_product_attention`, broadcasts to (N, heads, L, S).

    Returns:
        (N, L, E).

    Raises:
        ShapeError: the sizes do not fit.
    """
    expect_tensors("multi_head_attention", query, key, value, in_proj_weight, in_proj_bias, out_proj_weight, out_proj_bias)
    if {query.ndim, key.ndim, value.ndim} != {3}:
        raise ShapeError(f"multi_head_attention: expected (N, L, E), found query {query.shape}, key {key.shape} and value "
                         f"{value.shape}; add the batch axis with x[None]")
    n, length, width = query.shape
    if width % num_heads:
        raise ShapeError(f"multi_head_attention: {num_heads} heads do not divide the width {width}")
    weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (linear(x, w, b).reshape(n, x.shape[1], num_heads, width // num_heads).transpose(1, 2)
               for x, w, b in zip((query, key, value), weights, biases, strict=True))
    joined = scaled_dot_product_attention(q, k, v, attn_mask, dropout_p).transpose(1, 2).reshape(n, length, width)
    return linear(joined, out_proj_weight, out_proj_bias)
