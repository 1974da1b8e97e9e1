"""Distances between vectors as modules; the formulas stand in ``minidl.nn.functional``."""
from __future__ import annotations

from minidl.nn import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along ``dim``; ``eps`` stands for the length of a vector of zeros."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Compare ``x1`` with ``x2``; they broadcast, and the axis disappears."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps along the last axis."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The distances of vectors ``x1`` and ``x2`` (N, D)."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
