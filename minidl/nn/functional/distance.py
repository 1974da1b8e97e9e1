"""How far vectors are from each other."""
from __future__ import annotations

from minidl.nn.functional.checks import floating
from minidl.nn.functional.linear import normalize
from minidl.ops.axes import broadcast
from minidl.tensor import Tensor


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) * max(|x2|, eps)) along ``dim``: the cosine of the angle between vectors.

    Args:
        x1, x2: floating point; their shapes broadcast.
        dim: the axis of the vectors, which disappears.
        eps: keeps a vector of zeros from becoming NaN; its similarity to all others is 0.

    Raises:
        DTypeError: an input is not floating point.  ShapeError: the shapes do not broadcast.

    >>> import minidl
    >>> from minidl.nn import functional as F
    >>> F.cosine_similarity(minidl.tensor([[1.0, 0.0]]), minidl.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    tensor([ 1.,  0., -1.])
    """
    floating("cosine_similarity", x1)
    floating("cosine_similarity", x2)
    shape = broadcast("cosine_similarity", x1.shape, x2.shape)
    unit1, unit2 = (normalize(x.expand(shape), dim=dim, eps=eps) for x in (x1, x2))
    return (unit1 * unit2).sum(dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last axis.

    Args:
        x1, x2: (N, D) or (D,), floating point; they broadcast.
        p: of the norm; 2 is the Euclidean distance, 1 the sum of the differences, ``math.inf`` the largest one.
        eps: added to each difference, so that equal vectors have a gradient.

    Raises:
        DTypeError: an input is not floating point.  ShapeError: the shapes do not broadcast.
    """
    floating("pairwise_distance", x1)
    floating("pairwise_distance", x2)
    return (x1 - x2 + eps).norm(p, -1, keepdim)
