"""exp, log, tanh and their kin on vectors, for the formulas of kernels.

Every function takes ``(k, x)``, a kernel and a vector of floats, and is good for every float: subnormal numbers, infinities
and NaN (which stays NaN) included.  Each reduces its argument to a small interval and has a polynomial there.  The
polynomials interpolate the function that the comment beside them names, at the Chebyshev nodes of the interval, which is
within a few percent of the best polynomial of that degree; ``tests/kernels/cpu/test_functions.py`` computes them again.

The largest errors found over all floats, in units in the last place of the result (the same test looks):

============  ====  ===================================================================================
exp           1.2   2^n * e^r with r = x - n log 2, |r| <= log(2) / 2
log           0.9   n log 2 + log(m), sqrt(1/2) <= m < sqrt(2)
sigmoid       2.5   e^-|x| and one division
tanh          1.5   x + x^3 P(x^2) where |x| < 5/8, else 1 - 2 / (e^(2|x|) + 1)
normal_cdf    6     the density times a polynomial; exact far out in the tail, where 1 + erf(x) is 0
============  ====  ===================================================================================

(normal_cdf(x) is off by up to 9 units below x = -5.5, where it is less than 2e-8.  On machines without fused multiply-add
it is 14 and 65 units.)

The reductions with a split constant (Cody and Waite) are described in Muller, "Elementary Functions", 3rd ed. 2016.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

from minidl.kernels.cpu.emit import Kernel, Vector

# Highest power first.
EXP = (1.3926176118481057e-3, 8.363173074518913e-3, 4.166655466206579e-2, 1.6666577025597940e-1, 0.5)
#      (e^r - 1 - r) / r^2 for |r| <= log(2) / 2
LOG = (6.971611679911022e-2, -1.1479733963474249e-1, 1.168541989570348e-1, -1.2425687310808695e-1, 1.4249057646511032e-1,
       -1.666780232062148e-1, 2.0000715748898706e-1, -2.4999996957933387e-1, 3.3333331180029935e-1)
#      (log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) - 1 <= f <= sqrt(2) - 1
TANH = (-6.0967141633344836e-3, 2.099717899673014e-2, -5.3850909577782546e-2, 1.3332769736967365e-1, -3.3333328944133916e-1)
#      (tanh(sqrt(s)) / sqrt(s) - 1) / s for 0 <= s <= (5/8)^2
TAIL = (1.5741844400406053e-2, 3.0176893209482296e-2, -2.8895930948176118e-2, -9.228086886916621e-2, 3.3048804895567663e-3,
        2.6288926254168904e-1, 5.006629751292384e-1, 5.506204466633333e-1, 4.201686069731993e-1, 2.3365302886504033e-1)
#      Phi(-x) e^(x^2/2) / u in powers of u - 5/8 for 0 <= x <= 14.5, where u = 4 / (4 + x)

_ROUND = 12582912.0                                  # 1.5 * 2^23: adding it leaves no bits behind the point
_ROUND_BITS = 0x4B400000
_LOG2_HIGH = 0.693359375                             # log 2 in 9 bits, so that n times it is exact, and the rest
_LOG2_LOW = math.log(2) - _LOG2_HIGH
_SIGN, _MAGNITUDE = -(1 << 31), (1 << 31) - 1


def polynomial(k: Kernel, x: Vector, coefficients: Sequence[float]) -> Vector:
    """Horner's rule; the coefficient of the highest power comes first."""
    y = k.constant(coefficients[0])
    for c in coefficients[1:]:
        y = k.fma(y, x, k.constant(c))
    return y


def absolute(k: Kernel, x: Vector) -> Vector:
    """|x|."""
    return k.bits(k.bits(x, "i32") & k.constant(_MAGNITUDE, "i32"), "float")


def _with_sign_of(k: Kernel, magnitude: Vector, x: Vector) -> Vector:
    sign = k.bits(x, "i32") & k.constant(_SIGN, "i32")
    return k.bits(k.bits(magnitude, "i32") + sign, "float")


def exp(k: Kernel, x: Vector) -> Vector:
    """e^x; 0 below -103.97, inf above 88.72."""
    x = k.select(x > k.constant(89.0), k.constant(89.0), x)          # beyond these the result no longer changes
    x = k.select(k.constant(-104.0) > x, k.constant(-104.0), x)
    shifted = k.fma(x, k.constant(1 / math.log(2)), k.constant(_ROUND))
    power = k.bits(shifted, "i32") - k.constant(_ROUND_BITS, "i32")
    n = shifted - k.constant(_ROUND)
    r = k.fma(n, k.constant(-_LOG2_LOW), k.fma(n, k.constant(-_LOG2_HIGH), x))
    y = k.fma(k.fma(polynomial(k, r, EXP), r, k.constant(1)), r, k.constant(1))
    half = power >> 1                                # 2^n in two factors: one alone may be no float where the result is
    return y * _power_of_two(k, half) * _power_of_two(k, power - half)


def _power_of_two(k: Kernel, n: Vector) -> Vector:
    return k.bits((n + k.constant(127, "i32")) * k.constant(1 << 23, "i32"), "float")


def log(k: Kernel, x: Vector) -> Vector:
    """The natural logarithm: -inf at 0, NaN below."""
    least = k.constant(2.0**-126)
    tiny = least > x                                 # subnormal numbers have no exponent of their own
    scaled = k.select(tiny, x * k.constant(2.0**23), x)
    bits = k.bits(scaled, "i32")
    power = (bits - k.constant(0x3F3504F3, "i32")) >> 23             # of 2, for a mantissa from sqrt(1/2) to sqrt(2)
    f = k.bits(bits - power * k.constant(1 << 23, "i32"), "float") - k.constant(1)
    n = k.convert(power, "float") - k.select(tiny, k.constant(23), k.constant(0))
    square = f * f
    tail = k.fma(polynomial(k, f, LOG), f * square, k.fma(n, k.constant(_LOG2_LOW), square * k.constant(-0.5)))
    y = k.fma(n, k.constant(_LOG2_HIGH), f + tail)
    zero, infinity = k.constant(0), k.constant(math.inf)
    y = k.select(x.equals(zero), k.constant(-math.inf), k.select(x.equals(infinity), infinity, y))
    return k.select((zero > x) | x.unordered(), k.constant(math.nan), y)


def sigmoid(k: Kernel, x: Vector) -> Vector:
    """1 / (1 + e^-x)."""
    e = exp(k, _negative(k, absolute(k, x)))
    return k.select(x > k.constant(0), k.constant(1), e) / (e + k.constant(1))


def _negative(k: Kernel, x: Vector) -> Vector:
    return x * k.constant(-1)


def tanh(k: Kernel, x: Vector) -> Vector:
    """The hyperbolic tangent."""
    size = absolute(k, x)
    square = x * x
    near = k.fma(polynomial(k, square, TANH) * square, size, size)
    far = k.constant(1) - k.constant(2) / (exp(k, size + size) + k.constant(1))
    return _with_sign_of(k, k.select(k.constant(0.625) > size, near, far), x)


def normal_cdf(k: Kernel, x: Vector) -> tuple[Vector, Vector]:
    """Phi(x), the normal distribution function, and e^(-x^2/2), which it needs anyway: the density times sqrt(2 pi)."""
    size = absolute(k, x)
    size = k.select(size > k.constant(20.0), k.constant(20.0), size)             # where the density is 0 already
    square = size * size
    lost = k.fma(size, size, _negative(k, square))   # what rounding took from the square; the power would enlarge it
    bell = exp(k, square * k.constant(-0.5))
    bell = k.fma(bell, lost * k.constant(-0.5), bell)
    v = size / (size + k.constant(4))                # 1 - u, without a rounding of its own near x = 0
    tail = bell * (polynomial(k, k.constant(0.375) - v, TAIL) * (k.constant(1) - v))
    return k.select(x > k.constant(0), k.constant(1) - tail, tail), bell
