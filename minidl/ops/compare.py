"""Comparing whole tensors; results that are not tensors are Python's bool."""
from __future__ import annotations

from minidl.autograd.grad_mode import no_grad
from minidl.errors import DTypeError
from minidl.ops.checks import expect_tensors
from minidl.ops.elementwise import eq, isfinite, isnan, le, logical_and, logical_or
from minidl.tensor import Tensor


def isclose(x: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether |x - other| <= atol + rtol * |other|, elementwise; equal infinities are close, NaN is close to NaN if asked.

    Raises:
        DTypeError: the dtypes differ.
    """
    expect_tensors("isclose", x, other)
    if x.dtype != other.dtype:
        raise DTypeError(f"isclose: found {x.dtype} and {other.dtype}; they must be equal, convert one with .to(dtype)")
    with no_grad():
        a, b = (t.double() for t in (x, other))
        near = logical_and(le((a - b).abs(), b.abs() * rtol + atol), isfinite(b))
        close = logical_or(near, eq(a, b))
        return logical_or(close, logical_and(isnan(a), isnan(b))) if equal_nan else close


def allclose(x: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close; see :func:`isclose`."""
    return bool(isclose(x, other, rtol, atol, equal_nan).all())


def equal(x: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same elements (NaN equals nothing)."""
    expect_tensors("equal", x, other)
    return x.shape == other.shape and bool(eq(x, other).all())
