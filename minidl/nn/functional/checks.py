"""What functions demand of the dtypes of their tensors."""
from __future__ import annotations

from minidl.errors import DTypeError
from minidl.tensor import Tensor


def floating(name: str, x: Tensor) -> Tensor:
    """x itself.

    Raises:
        DTypeError: x holds integers or bool.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a Tensor, found {type(x).__name__}; wrap it in minidl.tensor()")
    if x.data.dtype.kind != "f":
        raise DTypeError(f"{name}: needs a floating-point tensor, found {x.dtype}; convert with .float()")
    return x


def same_dtype(name: str, x: Tensor, *others: Tensor | None) -> None:
    """Raise DTypeError unless all are of one dtype: images as bytes, say, must be converted before a layer of floats."""
    for t in (x, *others):
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected a Tensor, found {type(t).__name__}; wrap it in minidl.tensor()")
        if t.data.dtype != x.data.dtype:
            raise DTypeError(f"{name}: the input is {x.dtype}, but another tensor is {t.dtype}; they must agree, convert one "
                             "with .to(dtype)")
