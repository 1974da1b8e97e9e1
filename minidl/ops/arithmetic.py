"""Arithmetic with options: what the plain operators of :mod:`minidl.ops.elementwise` do not say."""
from __future__ import annotations

from typing import Any

from minidl.errors import ConfigError, DivisionError, DTypeError
from minidl.ops.checks import expect_tensors
from minidl.ops.elementwise import Add, Div, FloorDivide, Fmod, Remainder, Sub, logical_and, lt, mul, ne, trunc
from minidl.tensor import Tensor, as_operand


def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """input + alpha * other, elementwise; either may be a number.

    Raises:
        DTypeError: ``alpha`` is a fraction and both are integers.
    """
    return Add.apply(input, other if alpha == 1 else _scaled("add", input, other, alpha))


def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """input - alpha * other, elementwise; either may be a number.

    Raises:
        DTypeError: ``alpha`` is a fraction and both are integers.
    """
    return Sub.apply(input, other if alpha == 1 else _scaled("sub", input, other, alpha))


def _scaled(verb: str, input: Any, other: Any, alpha: float) -> Tensor:
    """alpha * other, in the dtype that the sum will have."""
    other = as_operand(other, input, verb)
    if isinstance(alpha, float) and other.data.dtype.kind not in "fV":
        if not isinstance(input, Tensor) or input.data.dtype.kind not in "fV":
            raise DTypeError(f"{verb}: alpha={alpha} of integers has no integer result; convert them with .float()")
        other = other.to(input.dtype)
    return mul(other, alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other, elementwise; either may be a number.

    Args:
        rounding_mode: None divides truly, integers in float32.  "trunc" rounds the quotient towards zero, as C does with
            integers; "floor" rounds it down, as Python's //.  Both keep integers, and their gradient is 0.

    Raises:
        ConfigError: another ``rounding_mode``.  DivisionError: a rounded division of integers by 0.
    """
    if rounding_mode is None:
        return Div.apply(input, other)
    if rounding_mode not in ("trunc", "floor"):
        raise ConfigError(f"div: rounding_mode must be None, 'trunc' or 'floor', found {rounding_mode!r}")
    quotient = floor_divide(input, other)
    if rounding_mode == "floor":
        return quotient
    if quotient.data.dtype.kind in "fV":
        return trunc(Div.apply(input, other))
    return add(quotient, logical_and(lt(quotient, 0), ne(mul(quotient, other), input)))


def floor_divide(input: Any, other: Any) -> Tensor:
    """input // other, elementwise: the quotient rounded down; integers stay integers.  Gradient: 0.

    Raises:
        DivisionError: integers are divided by 0.
    """
    _refuse_zero("floor_divide", input, other)
    return FloorDivide.apply(input, other)


def remainder(input: Any, other: Any) -> Tensor:
    """input % other, elementwise: the remainder with the sign of ``other``, as in Python.

    Raises:
        DivisionError: integers are divided by 0.
    """
    _refuse_zero("remainder", input, other)
    return Remainder.apply(input, other)


def fmod(input: Any, other: Any) -> Tensor:
    """The remainder of input / other with the sign of ``input``, as in C, elementwise.

    Raises:
        DivisionError: integers are divided by 0.
    """
    _refuse_zero("fmod", input, other)
    return Fmod.apply(input, other)


def _refuse_zero(verb: str, a: Any, b: Any) -> None:
    """Raise DivisionError where integers are divided by 0: unlike floating point, they have no infinity to answer with."""
    number = b if isinstance(b, int) else None       # known here; a tensor's elements a GPU must be asked for
    b = as_operand(b, a, verb)
    a = as_operand(a, b, verb)
    if any(t.data.dtype.kind in "fV" for t in (a, b)):
        return
    if not (b.F.all(b.data) if number is None else number):
        raise DivisionError(f"{verb}: integers of shape {a.shape} are divided by 0; mask the zeros, or convert with .float() "
                            "for infinities")


def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight * (end - input), elementwise: ``input`` for the weight 0, ``end`` for 1; a number or a tensor."""
    expect_tensors("lerp", input, end)
    return Add.apply(input, mul(Sub.apply(end, input), weight))


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 * tensor2, elementwise; the three broadcast."""
    return add(input, mul(tensor1, tensor2), alpha=value)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 / tensor2, elementwise; the three broadcast."""
    return add(input, Div.apply(tensor1, tensor2), alpha=value)
