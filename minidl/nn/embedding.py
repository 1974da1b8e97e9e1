"""Embedding: a table of vectors looked up by integer."""
from __future__ import annotations

from typing import Any

from minidl.autograd import no_grad
from minidl.errors import ConfigError, ShapeError
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.creation import empty
from minidl.tensor import Tensor


class Embedding(Module):
    """y = weight[x].

    Args:
        num_embeddings: rows of the table; every index is below it.
        embedding_dim: length of a row.
        padding_idx: a row that starts at zero and gets no gradient; negative counts from the end.

    Shapes: x (*) of integers -> (*, embedding_dim); weight (num_embeddings, embedding_dim), drawn from N(0, 1).
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
        device: Any = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ConfigError(f"Embedding: padding_idx {padding_idx} is out of range for {num_embeddings} embeddings")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = Parameter(empty((num_embeddings, embedding_dim), dtype=dtype, device=device))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """An Embedding with the given table (rows, dimension), not trained unless ``freeze=False``."""
        if embeddings.ndim != 2:
            found = tuple(embeddings.shape)
            raise ShapeError(f"Embedding.from_pretrained: expected a table (rows, dimension), got shape {found}")
        layer = cls(embeddings.shape[0], embeddings.shape[1], padding_idx)
        layer.weight = Parameter(embeddings, requires_grad=not freeze)
        return layer

    def reset_parameters(self) -> None:
        """Draw the table again."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """Look up ``input``, a tensor of integers."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """The table's size."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
