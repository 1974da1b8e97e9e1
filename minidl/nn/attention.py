"""Multi-head attention and the Transformer encoder built from it."""
from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from minidl.autograd import no_grad
from minidl.errors import ConfigError, ShapeError
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.containers import ModuleList
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.norm import LayerNorm
from minidl.nn.parameter import Parameter
from minidl.ops.creation import arange, empty, zeros
from minidl.tensor import Tensor


class MultiheadAttention(Module):
    """Multi-head attention (Vaswani et al. 2017): softmax(Q K^T / sqrt(d)) V in each of ``num_heads`` heads.

    Args:
        embed_dim: length E of the output and of the queries; ``num_heads`` divides it, d = E / num_heads.
        dropout: probability of dropping an attention weight in training.
        bias: learn the biases of the input and output projections.
        kdim, vdim: lengths of keys and values, when they differ from E.
        batch_first: inputs are (N, L, E) instead of (L, N, E).

    State: ``in_proj_weight`` (3E, E) holds the projections of query, key and value, one below the other (``q_proj_weight``,
    ``k_proj_weight`` and ``v_proj_weight`` when kdim or vdim differ), ``in_proj_bias`` (3E,), ``out_proj``: torch's names.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, *,
        kdim: int | None = None, vdim: int | None = None, batch_first: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ConfigError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.head_dim = embed_dim // num_heads
        options = {"device": device, "dtype": dtype}
        self._joint = self.kdim == embed_dim and self.vdim == embed_dim
        joint = Parameter(empty((3 * embed_dim, embed_dim), **options)) if self._joint else None
        self.register_parameter("in_proj_weight", joint)
        for name, size in (("q_proj_weight", embed_dim), ("k_proj_weight", self.kdim), ("v_proj_weight", self.vdim)):
            self.register_parameter(name, None if self._joint else Parameter(empty((embed_dim, size), **options)))
        self.register_parameter("in_proj_bias", Parameter(zeros(3 * embed_dim, **options)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections Xavier uniform, their biases zero, as torch."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = True,
        attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` to ``key``/``value``.

        Args:
            query, key, value: (L, N, E), (S, N, kdim), (S, N, vdim); N first with ``batch_first``; or without N.
            key_padding_mask: (N, S), True (or -inf in a float mask that is added) at keys to leave out.
            need_weights: also return the attention weights.
            attn_mask: (L, S) or (N*num_heads, L, S), True (or an added float) where attention is not allowed.
            average_attn_weights: average the weights over the heads.
            is_causal: position i sees keys 0..i only; no ``attn_mask`` is needed for that.

        Returns:
            The output, shaped as ``query``, and the weights, (N, L, S) or (N, num_heads, L, S), or None.
        """
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
            shapes = f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
            raise ShapeError(f"MultiheadAttention: query, key and value must all have 3 axes, or all 2 (no batch); got {shapes}")
        if not batched:
            query, key, value = (t[None] for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = self._batch_first(query, key, value)
        n, length, _ = query.shape
        keys = key.shape[1]
        if key.shape[0] != n or value.shape[:2] != key.shape[:2]:
            raise ShapeError(
                f"MultiheadAttention: batches and numbers of keys differ (batch first): query {tuple(query.shape)}, "
                f"key {tuple(key.shape)}, value {tuple(value.shape)}"
            )
        q, k, v = (self._split(t) for t in self._project(query, key, value))
        mask = self._merge_masks(query, keys, key_padding_mask, attn_mask, is_causal)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * (1 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            if dropout:
                weights = F.dropout(weights, dropout)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        y = self.out_proj(y.transpose(1, 2).reshape(n, length, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    @staticmethod
    def _batch_first(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Swap the first two axes, keeping "the same tensor" the same: self-attention is one product then."""
        q = query.transpose(0, 1)
        k = q if key is query else key.transpose(0, 1)
        return q, k, q if value is query else k if value is key else value.transpose(0, 1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        # Three products, also of one input: the gradients of three parts of one result would have to be put together again.
        e, bias = self.embed_dim, self.in_proj_bias
        if self._joint:
            weights = [self.in_proj_weight[i * e : (i + 1) * e] for i in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None if bias is None else bias[i * e : (i + 1) * e] for i in range(3)]
        return tuple(F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))

    def _split(self, x: Tensor) -> Tensor:
        """(N, L, E) -> (N, num_heads, L, head_dim)."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def _merge_masks(
        self, query: Tensor, keys: int, padding: Tensor | None, attn: Tensor | None, is_causal: bool
    ) -> Tensor | None:
        """One mask to add to the scores, broadcasting to (N, num_heads, L, S); None when nothing is masked."""
        n, length = query.shape[0], query.shape[1]
        mask: Tensor | None = None
        if attn is not None:
            if tuple(attn.shape) not in ((length, keys), (n * self.num_heads, length, keys)):
                raise ShapeError(
                    f"MultiheadAttention: attn_mask has shape {tuple(attn.shape)}; expected {(length, keys)} "
                    f"or {(n * self.num_heads, length, keys)}"
                )
            mask = _added(attn, query)
            if attn.ndim == 3:
                mask = mask.reshape(n, self.num_heads, length, keys)
        elif is_causal:
            rows, cols = _positions(length, query), _positions(keys, query)
            mask = _added(cols.reshape(1, keys) > rows.reshape(length, 1), query)
        if padding is not None:
            if tuple(padding.shape) != (n, keys):
                raise ShapeError(f"MultiheadAttention: key_padding_mask has shape {tuple(padding.shape)}; expected {(n, keys)}")
            extra = _added(padding, query).reshape(n, 1, 1, keys)
            mask = extra if mask is None else mask + extra
        return mask


def _positions(size: int, like: Tensor) -> Tensor:
    return arange(size, device=like.device)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask (True = leave out) as one to add: -inf there, 0 elsewhere.  A float mask stays."""
    if mask.dtype.kind != "b":
        return mask.to(like.dtype)
    with no_grad():
        return zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)


class TransformerEncoderLayer(Module):
    """Self-attention and a two-layer MLP, each with a residual connection and layer norm (Vaswani et al. 2017).

    Args:
        d_model: length of the vectors; nhead divides it.
        dim_feedforward: width of the MLP.
        dropout: after attention, inside and after the MLP.
        activation: "relu", "gelu" or a function.
        norm_first: normalise before attention and MLP (as ViT) instead of after the addition.

    Shapes: (L, N, d_model) -> the same; N first with ``batch_first``.  The state's names are torch's.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        options = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **options)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **options)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, **options)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, **options)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        if isinstance(activation, str):
            if activation not in ("relu", "gelu"):
                raise ConfigError(f"TransformerEncoderLayer: activation must be 'relu', 'gelu' or a function, got {activation!r}")
            activation = F.relu if activation == "relu" else F.gelu
        self.activation = activation

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Encode ``src``; the masks are MultiheadAttention's ``attn_mask`` and ``key_padding_mask``."""
        masks = (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            src = src + self._attend(self.norm1(src), *masks)
            return src + self._mlp(self.norm2(src))
        src = self.norm1(src + self._attend(src, *masks))
        return self.norm2(src + self._mlp(src))

    def _attend(self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Tensor:
        y, _ = self.self_attn(x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=mask, is_causal=is_causal)
        return self.dropout1(y)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """``num_layers`` copies of ``encoder_layer``, one after the other, and an optional final norm."""

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Encode ``src``; the masks are the layers'."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)
