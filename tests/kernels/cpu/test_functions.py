"""The functions of the kernel language, over the whole range of floats, and where their polynomials come from."""
import numpy as np
import pytest
from numpy.polynomial import Chebyshev, Polynomial
from scipy import special

from minidl.kernels.cpu import engine, functions
from minidl.kernels.cpu.elementwise import elementwise
from minidl.kernels.cpu.launch import Program

ORACLES = {"exp": np.exp, "log": np.log, "sigmoid": special.expit, "tanh": np.tanh, "normal_cdf": special.ndtr}
# Units in the last place: the table in functions.py.  Every 61st float was looked at to write it, every 9973rd is here.
LARGEST = {"exp": 1.2, "log": 0.9, "sigmoid": 2.5, "tanh": 1.5, "normal_cdf": 6.0}
STEP = 9973
SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2.0**-126, 2.0**-149, -(2.0**-149), 3.4e38, -3.4e38, 88.72, 88.73,
                    -87.4, -103.9, -104.1, 0.625, -0.625, 20, -20], np.float32)


def compiled(name):
    """The function as a program on arrays."""
    function = getattr(functions, name)

    def formula(k, x):
        y = function(k, x)
        return y[0] if isinstance(y, tuple) else y
    program = Program(elementwise(engine.host_isa(), f"test_function_{name}", ("x",), formula))

    def run(x):
        y = np.empty_like(x)
        program(x=x, y=y, n=x.size)
        return y
    return run


@pytest.mark.parametrize("name", ORACLES)
def test_every_float(name):
    every = np.arange(0, 2**32, STEP, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([SPECIAL, every, np.linspace(-20, 20, 100_001, dtype=np.float32)])
    got = compiled(name)(x)
    with np.errstate(all="ignore"):
        exact = ORACLES[name](x.astype(np.float64))
        nearest = exact.astype(np.float32)
    special_ = ~np.isfinite(nearest)
    np.testing.assert_array_equal(got[special_], nearest[special_])
    x, got, exact, nearest = (a[~special_] for a in (x, got, exact, nearest))
    ulps = np.abs(got - exact) / np.spacing(np.abs(nearest)).astype(np.float64)
    if name == "normal_cdf":                         # less than 2e-8 there
        far = x < -5.5
        assert ulps[far].max() < 65
        ulps = ulps[~far]
    # Without fused multiply-add (the portable form) nothing tells what rounding took from x^2.
    assert ulps.max() <= (14 if name == "normal_cdf" and engine.host_isa().name == "portable" else LARGEST[name])


def test_signs_of_zero():
    """An odd function keeps the sign."""
    zeros = np.array([0.0, -0.0] * 8, np.float32)
    np.testing.assert_array_equal(np.signbit(compiled("tanh")(zeros)), np.signbit(zeros))


def polynomials():
    def expm(r):
        return np.where(abs(r) < 1e-3, 0.5 + r / 6 + r * r / 24, (np.expm1(r) - r) / np.where(r == 0, 1, r) ** 2)

    def logp(f):
        series = 1 / 3 - f / 4 + f * f / 5 - f**3 / 6 + f**4 / 7
        return np.where(abs(f) < 3e-3, series, (np.log1p(f) - f + f * f / 2) / np.where(f == 0, 1, f) ** 3)

    def tanh(s):
        root = np.sqrt(np.where(s == 0, 1, s))
        return np.where(s < 1e-3, -1 / 3 + 2 * s / 15 - 17 * s * s / 315, (np.tanh(root) / root - 1) / np.where(s == 0, 1, s))

    def tail(t):
        u = t + 0.625
        return special.erfcx((4 / u - 4) / np.sqrt(2)) / 2 / u   # erfcx(x) = e^(x^2) erfc(x)
    half = np.log(2) / 2
    yield "EXP", expm, -half, half
    yield "LOG", logp, np.sqrt(0.5) - 1, np.sqrt(2) - 1
    yield "TANH", tanh, 0, 0.625**2
    yield "TAIL", tail, 4 / 18.5 - 0.625, 0.375


@pytest.mark.parametrize("name, function, low, high", list(polynomials()), ids=lambda p: p if isinstance(p, str) else "")
def test_coefficients_are_what_their_comments_say(name, function, low, high):
    kept = getattr(functions, name)
    fitted = Chebyshev.interpolate(function, len(kept) - 1, domain=[low, high]).convert(kind=Polynomial).coef[::-1]
    np.testing.assert_allclose(kept, fitted, rtol=1e-6)          # highest powers come from differences of close numbers
