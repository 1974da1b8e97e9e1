"""What functions demand of the dtypes of their tensors."""
from __future__ import annotations

from minidl.autograd import autocast
from minidl.errors import DTypeError
from minidl.ops.checks import expect_tensors, floating
from minidl.tensor import Tensor

__all__ = ["floating", "same_dtype"]


def same_dtype(name: str, x: Tensor, *others: Tensor | None) -> None:
    """Raise DTypeError unless all are of one dtype: images as bytes, say, must be converted before a layer of floats."""
    expect_tensors(name, x, *others)
    if autocast.blocks and autocast.is_autocast_enabled():
        return                                       # which converts them
    for t in others:
        if t is not None and t.data.dtype != x.data.dtype:
            raise DTypeError(f"{name}: the input is {x.dtype}, but another tensor is {t.dtype}; they must agree, convert one "
                             "with .to(dtype)")
