"""Elementwise operations: arithmetic, powers, exponentials, trigonometry, comparisons.

Broadcasting and dtypes follow PyTorch.  Where a function has a kink, its gradient there is stated.
"""
from __future__ import annotations

import math
from typing import Any

from minidl.autograd.function import Binary, Function, Unary, elementwise_error, plain, tensors
from minidl.errors import DTypeError
from minidl.ops.axes import broadcast
from minidl.ops.checks import expect_tensors
from minidl.tensor import Tensor, as_operand, promote


# ------------------------------------------------------------------------------------------------------------ arithmetic
class Add(Binary, verb="add"):
    """a + b."""
    __slots__ = ()

    def backward(self, F, gy):
        return gy, gy


class Sub(Binary, verb="sub"):
    """a - b."""
    __slots__ = ()

    def backward(self, F, gy):
        return gy, self.needs[1] and F.neg(gy)


class Mul(Binary, verb="mul"):
    """a * b."""
    __slots__ = ()

    @staticmethod
    def thin(a, b, y, ea, eb):                       # each is kept for the other's gradient
        return a if ea is None else None, b if eb is None else None

    def backward(self, F, gy, a, b):
        return self.needs[0] and F.mul(gy, b), self.needs[1] and F.mul(gy, a)


class Div(Binary, verb="div"):
    """a / b; integers are divided in float32."""
    __slots__ = ()

    @staticmethod
    def thin(a, b, y, ea, eb):                       # y is for b's gradient alone
        return b, y if ea is None else None

    def backward(self, F, gy, b, y):
        ga = F.div(gy, b)
        return ga, self.needs[1] and F.neg(F.mul(ga, y))


class Neg(Unary, verb="neg"):
    """-x."""
    __slots__ = ()

    def backward(self, F, gy):
        return (F.neg(gy),)


class Abs(Unary, verb="abs"):
    """|x|.  Gradient at 0: 0."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.sign(x)),)


class Maximum(Binary, verb="maximum"):
    """The larger of a and b; NaN if either is.  Where they are equal, each gets half the gradient."""
    __slots__ = ()

    def backward(self, F, gy, a, b):
        return _split(F, gy, F.lt(a, b), F.gt(a, b), F.eq(a, b))


class Minimum(Binary, verb="minimum"):
    """The smaller of a and b; NaN if either is.  Where they are equal, each gets half the gradient."""
    __slots__ = ()

    def backward(self, F, gy, a, b):
        return _split(F, gy, F.gt(a, b), F.lt(a, b), F.eq(a, b))


def _split(F, gy, a_loses, b_loses, tie):
    half = F.mul(gy, 0.5)
    return tuple(F.where(tie, half, F.masked_fill(gy, loses, value=0.0)) for loses in (a_loses, b_loses))


class Fmod(Binary, verb="fmod"):
    """The remainder of a / b with the sign of a."""
    __slots__ = ()

    def backward(self, F, gy, a, b):
        return gy, self.needs[1] and F.neg(F.mul(gy, F.trunc(F.div(a, b))))


class Remainder(Binary, verb="remainder"):
    """a % b: the remainder with the sign of b, as in Python."""
    __slots__ = ()

    def backward(self, F, gy, a, b):
        return gy, self.needs[1] and F.neg(F.mul(gy, F.floor(F.div(a, b))))


class FloorDivide(Binary, verb="floor_divide"):
    """The largest integer not above a / b.  Gradient: 0."""
    __slots__ = ()

    def backward(self, F, gy):
        return F.zeros_like(gy), F.zeros_like(gy)


# ---------------------------------------------------------------------------------------------------------------- powers
class Pow(Binary, verb="pow"):
    """a ** b for two tensors.  The gradient of b is 0 where a is 0."""
    __slots__ = ()

    def backward(self, F, gy, a, b, y):
        ga = self.needs[0] and F.mul(gy, F.mul(b, F.pow(a, F.sub(b, 1.0))))
        gb = self.needs[1] and F.mul(gy, F.mul(y, F.log(F.masked_fill(a, F.eq(a, 0.0), value=1.0))))
        return ga, gb


class PowScalar(Function, verb="pow_scalar"):
    """x ** exponent for a number."""

    def forward(self, F, x, *, exponent):
        self.exponent = exponent
        return F.pow_scalar(x, exponent=exponent)

    def backward(self, F, gy, x):
        n = self.exponent
        if n == 0:
            return (F.zeros_like(gy),)
        return (F.mul(gy, F.mul(F.pow_scalar(x, exponent=n - 1), float(n))),)


class Square(Unary, verb="square"):
    """x * x."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.mul(x, 2.0)),)


class Sqrt(Unary, verb="sqrt"):
    """The square root."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.div(gy, F.mul(y, 2.0)),)


class Rsqrt(Unary, verb="rsqrt"):
    """1 / sqrt(x)."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.mul(gy, F.mul(F.pow_scalar(y, exponent=3), -0.5)),)


class Reciprocal(Unary, verb="reciprocal"):
    """1 / x."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.neg(F.mul(gy, F.square(y))),)


# ---------------------------------------------------------------------------------------------------------- exponentials
class Exp(Unary, verb="exp"):
    """e ** x."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.mul(gy, y),)


class Expm1(Unary, verb="expm1"):
    """e ** x - 1, exact near 0."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.mul(gy, F.add(y, 1.0)),)


class Log(Unary, verb="log"):
    """The natural logarithm."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.div(gy, x),)


class Log1p(Unary, verb="log1p"):
    """log(1 + x), exact near 0."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.div(gy, F.add(x, 1.0)),)


class Log2(Unary, verb="log2"):
    """The logarithm to base 2."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.div(gy, F.mul(x, math.log(2))),)


class Log10(Unary, verb="log10"):
    """The logarithm to base 10."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.div(gy, F.mul(x, math.log(10))),)


class Erf(Unary, verb="erf"):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.mul(F.exp(F.neg(F.square(x))), 2 / math.sqrt(math.pi))),)


# ---------------------------------------------------------------------------------------------------------- trigonometry
class Sin(Unary, verb="sin"):
    """The sine of radians."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.cos(x)),)


class Cos(Unary, verb="cos"):
    """The cosine of radians."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.neg(F.mul(gy, F.sin(x))),)


class Tan(Unary, verb="tan"):
    """The tangent of radians."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.mul(gy, F.add(F.square(y), 1.0)),)


class Asin(Unary, verb="asin"):
    """The inverse of the sine, in radians."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.rsqrt(F.sub(1.0, F.square(x)))),)


class Acos(Unary, verb="acos"):
    """The inverse of the cosine, in radians."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.neg(F.mul(gy, F.rsqrt(F.sub(1.0, F.square(x))))),)


class Atan(Unary, verb="atan"):
    """The inverse of the tangent, in radians."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.div(gy, F.add(F.square(x), 1.0)),)


class Sinh(Unary, verb="sinh"):
    """(e ** x - e ** -x) / 2."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.cosh(x)),)


class Cosh(Unary, verb="cosh"):
    """(e ** x + e ** -x) / 2."""
    __slots__ = ()

    def backward(self, F, gy, x):
        return (F.mul(gy, F.sinh(x)),)


class Atan2(Binary, verb="atan2"):
    """The angle of the point (b, a), in radians."""
    __slots__ = ()

    def backward(self, F, gy, a, b):
        g = F.div(gy, F.add(F.square(a), F.square(b)))
        return F.mul(g, b), F.neg(F.mul(g, a))


# --------------------------------------------------------------------------------------- steps, whose gradient is zero
class _Step(Unary, abstract=True):
    """Constant but for jumps: the gradient is 0."""
    __slots__ = ()

    def backward(self, F, gy):
        return (F.zeros_like(gy),)


class Sign(_Step, verb="sign"):
    """-1, 0 or 1; NaN of NaN (PyTorch: 0).  Gradient: 0."""
    __slots__ = ()


class Floor(_Step, verb="floor"):
    """The largest integer not above x.  Gradient: 0."""
    __slots__ = ()


class Ceil(_Step, verb="ceil"):
    """The smallest integer not below x.  Gradient: 0."""
    __slots__ = ()


class Round(_Step, verb="round"):
    """The nearest integer, halves to the even one.  Gradient: 0."""
    __slots__ = ()


class Trunc(_Step, verb="trunc"):
    """x without its fraction.  Gradient: 0."""
    __slots__ = ()


# ------------------------------------------------------------------------------------------------------------- selection
class Where(Function, verb="where"):
    """a where cond, else b; see :func:`where`."""

    def forward(self, F, cond, a, b):
        self.shapes = a.shape, b.shape
        return F.where(cond, a, b)

    def backward(self, F, gy, cond):
        sa, sb = self.shapes
        return (None,
                self.needs[1] and F.sum_to(F.masked_fill(gy, F.logical_not(cond), value=0.0), shape=sa),
                self.needs[2] and F.sum_to(F.masked_fill(gy, cond, value=0.0), shape=sb))


class MaskedFill(Function, verb="masked_fill"):
    """x with ``value`` where ``mask`` is true (the mask broadcasts to x)."""

    def forward(self, F, x, mask, *, value):
        return F.masked_fill(x, mask, value=value)

    def backward(self, F, gy, mask):
        return F.masked_fill(gy, mask, value=0.0), None


class Clip(Function, verb="clip"):
    """x limited to low .. high.  Gradient: 1 inside and on the limits, 0 beyond them."""

    def forward(self, F, x, *, low, high):
        self.limits = low, high
        return F.clip(x, low=low, high=high)

    def backward(self, F, gy, x):
        low, high = self.limits
        for beyond, limit in ((F.lt, low), (F.gt, high)):
            if limit is not None:
                gy = F.masked_fill(gy, beyond(x, limit), value=0.0)
        return (gy,)


class AsType(Function, verb="astype"):
    """x converted to another dtype; the gradient is converted back."""

    def forward(self, F, x, *, dtype):
        self.dtype = x.dtype
        return F.astype(x, dtype=dtype)

    def backward(self, F, gy):
        return (F.astype(gy, dtype=self.dtype),)


class ZerosLike(Function, verb="zeros_like"):
    """Zeros of x's shape and dtype.  Gradient: 0."""

    def forward(self, F, x):
        return F.zeros_like(x)

    def backward(self, F, gy):
        return (F.zeros_like(gy),)


# ------------------------------------------------------------------------------------------------------ without gradient
def _comparison(verb: str, promotes: bool = False) -> Any:
    """A binary operation without gradient; where its result is no bool, it ``promotes`` as arithmetic does."""
    run = plain(verb)

    def compare(a: Any, b: Any) -> Tensor:
        if not isinstance(a, Tensor):
            a = as_operand(a, b, verb)
        if promotes:
            b = as_operand(b, a, verb)
            if a.dtype != b.dtype:
                dtype = promote(a.F, a.data, b.data)
                a, b = a.to(dtype), b.to(dtype)
        try:
            return run(a, as_operand(b, a, verb))
        except (ValueError, TypeError) as e:
            raise elementwise_error(verb, a.data, as_operand(b, a, verb).data, e) from None
    compare.__name__ = verb
    setattr(tensors, verb, compare)
    return compare


eq, ne, lt, le, gt, ge = (_comparison(v) for v in ("eq", "ne", "lt", "le", "gt", "ge"))
logical_and, logical_or, logical_xor = (_comparison(v) for v in ("logical_and", "logical_or", "logical_xor"))
bitwise_and, bitwise_or, bitwise_xor = (_comparison(v, True) for v in ("bitwise_and", "bitwise_or", "bitwise_xor"))
logical_not = plain("logical_not")
isnan, isinf, isfinite = plain("isnan"), plain("isinf"), plain("isfinite")


def _bitwise_not() -> Any:
    run = plain("bitwise_not")

    def bitwise_not(x: Tensor) -> Tensor:
        """~x; the other truth value of bool."""
        if isinstance(x, Tensor) and x.data.dtype.kind in "fV":
            raise DTypeError(f"bitwise_not: does not take {x.dtype}; integers and bool have bits")
        return run(x)
    tensors.bitwise_not = bitwise_not
    return bitwise_not


bitwise_not = _bitwise_not()


# -------------------------------------------------------------------------------------------------------------- functions
mul, neg, abs, maximum, minimum = Mul.apply, Neg.apply, Abs.apply, Maximum.apply, Minimum.apply
square, sqrt, rsqrt, reciprocal = Square.apply, Sqrt.apply, Rsqrt.apply, Reciprocal.apply
exp, expm1, log, log1p, log2, log10, erf = (c.apply for c in (Exp, Expm1, Log, Log1p, Log2, Log10, Erf))
sin, cos, tan, asin, acos, atan, sinh, cosh, atan2 = (c.apply for c in (Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Atan2))
sign, floor, ceil, round, trunc = (c.apply for c in (Sign, Floor, Ceil, Round, Trunc))


def pow(a: Any, b: Any) -> Tensor:
    """a ** b, elementwise; either may be a number."""
    if type(b) in (int, float) and isinstance(a, Tensor):
        if a.data.dtype.kind in "iub":
            if type(b) is float or a.data.dtype.kind == "b":
                return pow(a.to(a.F.float32 if type(b) is float else a.F.int64), b)
            if b < 0:
                raise DTypeError(f"pow: integers to a negative power {b} have no integer result; convert with .float()")
        return tensors.pow_scalar(a, exponent=b)
    return tensors.pow(a, b)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """``input`` where ``condition`` is true, else ``other``; all three broadcast, and numbers are allowed.

    ``where(condition)`` alone is ``condition.nonzero(as_tuple=True)``.

    Raises:
        DTypeError: the condition is not bool.  ShapeError: the shapes do not broadcast.
    """
    expect_tensors("where", condition)
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if condition.data.dtype.kind != "b":
        raise DTypeError(f"where: the condition must be bool, found {condition.dtype}; compare it with something")
    like = next((t for t in (input, other) if isinstance(t, Tensor)), None)
    if like is None:
        like = Tensor(condition.F.zeros((), condition.F.float32 if float in (type(input), type(other)) else None), condition.F)
    a, b = as_operand(input, like, "where"), as_operand(other, like, "where")
    if a.dtype != b.dtype:
        dtype = promote(a.F, a.data, b.data)
        a, b = a.to(dtype), b.to(dtype)
    broadcast("where", condition.shape, a.shape, b.shape)
    return tensors.where(condition, a, b)


def masked_fill(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """x with ``value`` where the bool tensor ``mask`` is true; the two broadcast.

    Raises:
        DTypeError: the mask is not bool.  ShapeError: the shapes do not broadcast.
    """
    expect_tensors("masked_fill", x, mask)
    if mask.data.dtype.kind != "b":
        raise DTypeError(f"masked_fill: the mask must be bool, found {mask.dtype}; compare it with something")
    kind = x.data.dtype.kind
    if kind in "iu" and not math.isfinite(value):
        raise DTypeError(f"masked_fill: {value} does not fit a tensor of {x.dtype}; convert it with .float()")
    full = broadcast("masked_fill", mask.shape, x.shape)
    if full != x.shape:
        x = tensors.broadcast_to(x, shape=full)
    return tensors.masked_fill(x, mask, value=float(value) if kind in "fV" else int(value) if kind in "iu" else value != 0)


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x limited to min .. max: numbers, or tensors that broadcast; either may be left out, and max wins where they cross."""
    expect_tensors("clamp", x)
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        x = x if min is None else maximum(x, min)
        return x if max is None else minimum(x, max)
    if x.data.dtype.kind not in "fV" and float in (type(min), type(max)):
        x = x.to(x.F.float32)
    return tensors.clip(x, low=min, high=max)


clip = clamp


def astype(x: Tensor, dtype: Any) -> Tensor:
    """x converted to ``dtype``; x itself where it already is of that dtype."""
    return x if x.data.dtype == dtype else tensors.astype(x, dtype=dtype)
