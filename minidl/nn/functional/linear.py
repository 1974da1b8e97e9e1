"""Linear maps, embeddings, and the shapes around them."""
from __future__ import annotations

from collections.abc import Sequence

from minidl.autograd.function import tensors
from minidl.errors import DTypeError, ShapeError
from minidl.nn.functional.checks import same_dtype
from minidl.ops import index, shape
from minidl.ops.checks import expect_tensors
from minidl.tensor import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias.

    Args:
        input: (..., I).
        weight: (O, I).
        bias: (O,).

    Returns:
        (..., O).

    Raises:
        ShapeError: the sizes do not fit.  DTypeError: the tensors are not of one dtype.
    """
    x, w = input.data.shape, weight.data.shape
    if not x or len(w) != 2 or x[-1] != w[1]:
        raise ShapeError(f"linear: input {x} and weight {w}: the last axis of the input must be {w[-1] if w else '(O, I)'}; "
                         "check in_features, or flatten the input first")
    if bias is not None and bias.data.shape != w[:1]:
        raise ShapeError(f"linear: the bias has shape {bias.shape}; it must be {w[:1]}, one number for each output")
    same_dtype("linear", input, weight, bias)
    if len(x) == 1:
        return tensors.linear(input.reshape(1, -1), weight, bias).reshape(w[:1])
    return tensors.linear(input, weight, bias)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of ``weight`` (V, D) at the integers ``input`` (...): (..., D).

    Args:
        padding_idx: this row gets no gradient.

    Raises:
        DTypeError: the input is not integers.  IndexError: an index is out of range.  ShapeError: the weight is no matrix.
    """
    expect_tensors("embedding", input, weight)
    if input.data.dtype.kind not in "iu":
        raise DTypeError(f"embedding: the indices must be integers, found {input.dtype}; convert with .long()")
    if weight.ndim != 2:
        raise ShapeError(f"embedding: the weight must be (rows, length), found shape {weight.shape}")
    index.check_range("embedding", input, weight.shape[0])
    if padding_idx is None:
        return tensors.embedding(weight, input)
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise IndexError(f"embedding: padding_idx {padding_idx} is out of range; there are {rows} rows")
    padding = (input == padding_idx % rows).unsqueeze(-1)
    return tensors.where(padding, tensors.embedding(weight.detach(), input), tensors.embedding(weight, input))


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """int64 of shape (..., num_classes) from integers (...): 1 at each label, 0 elsewhere.

    ``num_classes=-1`` takes the largest label + 1.  See :func:`minidl.ops.index.one_hot`.
    """
    return index.one_hot(input, num_classes)


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A margin around the last axes: ``pad`` is (before, after) of the last axis, then of the one before it, and so on.

    See :func:`minidl.ops.shape.pad` for the modes.
    """
    return shape.pad(input, pad, mode, value)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(norm(x, p), eps) along ``dim``: vectors of length 1, in a tensor of the same shape.

    Args:
        p: of the norm, (sum of |x|^p)^(1 / p); 2 is the Euclidean length.
        eps: keeps a vector of zeros from becoming NaN.
    """
    expect_tensors("normalize", input)
    length = input.norm(p, dim, keepdim=True)
    return input / length.clamp(min=eps)
