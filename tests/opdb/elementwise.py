"""Elementwise operations, selection, comparisons and conversions."""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.special

from minidl import ops
from minidl.autograd.function import tensors
from minidl.errors import ConfigError, DivisionError, DTypeError, ShapeError
from tests.opdb.base import Bad, Draw, Op, Sample

NAN, INF = math.nan, math.inf
Z = np.zeros((2, 3))
EDGES = np.array([-INF, -2.5, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.5, INF, NAN])


def normal(d, *shape):
    return d(*shape)


def positive(d, *shape):
    return d.between(0.3, 2.0, *shape)


def unit(d, *shape):
    return d.between(-0.9, 0.9, *shape)


def fraction(d, *shape):
    """Numbers at least a tenth away from every integer and half."""
    return np.asarray(d.integers(-3, 3, *shape) + d.between(0.1, 0.4, *shape))


def unary(name, reference, domain=normal, twice=True, **fields):
    def samples(d: Draw):
        yield Sample(domain(d, 2, 3))
        yield Sample(domain(d))
        yield Sample(domain(d, 0, 3))
        yield Sample(domain(d, 2, 3, 2))
        yield Sample(EDGES.copy(), smooth=False)

    return Op(
        f"ops.{name}",
        getattr(ops, name),
        samples,
        reference,
        torch=fields.pop("torch", name),
        verbs=fields.pop("verbs", (name,)),
        twice=twice,
        elementwise=True,
        **fields,
    )


UNARY = [
    unary("neg", np.negative),
    unary("abs", np.abs, lambda d, *s: d.away(*s)),
    unary("square", np.square),
    unary("sqrt", np.sqrt, positive),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), positive),
    unary("reciprocal", lambda x: 1 / x, positive),
    unary("exp", np.exp),
    unary("expm1", np.expm1),
    unary("log", np.log, positive),
    unary("log1p", np.log1p, positive),
    unary("log2", np.log2, positive),
    unary("log10", np.log10, positive),
    unary("erf", scipy.special.erf),
    unary("sin", np.sin),
    unary("cos", np.cos),
    unary("tan", np.tan, unit),
    unary("asin", np.arcsin, unit),
    unary("acos", np.arccos, unit),
    unary("atan", np.arctan),
    unary("sinh", np.sinh),
    unary("cosh", np.cosh),
    unary("sign", np.sign, lambda d, *s: d.away(*s), without={"nan": "PyTorch has 0 for the sign of NaN"}),
    unary("floor", np.floor, fraction),
    unary("ceil", np.ceil, fraction),
    unary("round", np.round, fraction),
    unary("trunc", np.trunc, fraction),
    unary("relu", lambda x: np.maximum(x, 0), lambda d, *s: d.away(*s), aliases=("F.relu",), composites=("relu_grad",)),
    unary("sigmoid", scipy.special.expit, aliases=("F.sigmoid",), composites=("sigmoid_grad",)),
    unary("tanh", np.tanh, aliases=("F.tanh",), composites=("tanh_grad",)),
]


def _binary_samples(a, b):
    def samples(d: Draw):
        yield Sample(a(d, 2, 3), b(d, 2, 3))
        yield Sample(a(d, 2, 1, 3), b(d, 4, 1))
        yield Sample(a(d, 3), b(d))
        yield Sample(a(d), b(d))
        yield Sample(a(d, 2, 0), b(d, 0))
        yield Sample(a(d, 1, 3), b(d, 0, 1))

    return samples


def _distinct_pair(d: Draw):
    for left, right in (((2, 3), (2, 3)), ((2, 1, 3), (4, 1)), ((3,), ()), ((2, 0), (0,))):
        a, b = d(*left), d(*right)
        yield Sample(
            np.where(np.abs(a - b).min(axis=0, initial=1.0) < 0.1, a + 0.37, a) if a.shape == b.shape else a, b
        )
    yield Sample(np.array(1.0), np.array(-1.0))
    yield Sample(np.array([1.0, 2.0, NAN, INF]), np.array([1.0, NAN, 2.0, INF]), smooth=False)


def _no_broadcast(name):
    return Bad(Sample(np.zeros((2, 3)), np.zeros((2, 4))), ShapeError, rf"{name}.*\(2, 3\).*\(2, 4\).*axis -1 is 3.*4")


def binary(name, reference, a=normal, b=normal, samples=None, **fields):
    bad = (_no_broadcast(fields.get("verbs", (name,))[0]), *fields.pop("bad", ()))
    return Op(
        f"ops.{name}",
        getattr(ops, name.partition("(")[0]),
        samples or _binary_samples(a, b),
        reference,
        torch=fields.pop("torch", name),
        verbs=fields.pop("verbs", (name,)),
        bad=bad,
        elementwise=True,
        **fields,
    )


def _quotients(d, *shape):
    """Numerators whose quotients by ``ones`` (0.9 .. 1.1) stay clear of the jumps at integers."""
    return np.asarray(d.integers(-2, 2, *shape) + d.between(0.4, 0.6, *shape))


def ones(d, *shape):
    return d.between(0.95, 1.05, *shape)


def _by_zero(name):
    """A zero among the divisors, and the number 0."""
    told = rf"{name}: integers of shape \(2,\).*divided by 0"
    return [Bad(Sample(np.array([3, 4]), zero), DivisionError, told) for zero in (np.array([1, 0]), 0)]


def _rounded(d: Draw):
    """Quotients of both signs clear of the jumps; and of integers, among them exact ones."""
    for sample in _binary_samples(_quotients, ones)(d):
        yield Sample(*sample.args, rounding_mode="trunc")
    yield Sample(np.array([7, -7, 7, -7, 6, -6, 0]), np.array([2, 2, -2, -2, 3, 3, -5]), rounding_mode="trunc")


def _scaled(d: Draw):
    for sample in _binary_samples(normal, normal)(d):
        yield Sample(*sample.args, alpha=-1.5)
    yield Sample(d.integers(-5, 5, 3), d.integers(-5, 5, 3), alpha=2)
    yield Sample(d(3), d.integers(-5, 5, 3), alpha=0.5)


def _fraction(name):
    return Bad(Sample(np.arange(2), np.arange(2), alpha=0.5), DTypeError, f"{name}: alpha=0.5 of integers.*float")


MIXED = {
    "float32 and float64": "promoted, where PyTorch wants one dtype",
    "int64 and float32": "promoted, where PyTorch wants one dtype",
}


def _add_of(name, reference):
    return Op(
        f"ops.{name}",
        getattr(ops, name),
        lambda d: [
            Sample(d(2, 3), d(2, 3), d.away(2, 3, by=0.3)),
            Sample(d(2, 1), d(3), d.away(2, 3, by=0.3), value=-0.5),
            Sample(d(), d(), d.away(by=0.3), value=2),
            Sample(d(0, 3), d(3), d.away(0, 3)),
        ],
        reference,
        torch=name,
        without={"int64": "quotients of integers are float32", "bool": "as integers"},
        bad=(Bad(Sample(Z, Z, np.ones(4)), ShapeError, r"\(2, 3\).*\(4,\)"),),
    )


BINARY = [
    binary("add", np.add),
    binary("sub", np.subtract),
    binary("mul", np.multiply),
    binary("div", np.divide, b=positive, bad=(Bad(Sample(Z, Z, rounding_mode="up"), ConfigError, "div: rounding_mode must be.*'up'"),)),
    binary("pow", np.power, positive),
    binary("maximum", np.maximum, samples=_distinct_pair),
    binary("minimum", np.minimum, samples=_distinct_pair),
    binary("atan2", np.arctan2, positive, positive),
    binary("fmod", np.fmod, _quotients, ones, bad=_by_zero("fmod")),
    binary("remainder", np.remainder, _quotients, ones, bad=_by_zero("remainder")),
    # torch.floor_divide has no gradient; div is the same with one, of zeros.
    binary(
        "floor_divide",
        np.floor_divide,
        _quotients,
        ones,
        torch=lambda torch: functools.partial(torch.div, rounding_mode="floor"),
        bad=_by_zero("floor_divide"),
    ),
    binary("div(trunc)", lambda a, b, rounding_mode: np.trunc(a / b).astype(a.dtype), samples=_rounded, verbs=("div",), torch="div"),
    binary("add(alpha)", lambda a, b, alpha: a + alpha * b, samples=_scaled, verbs=("add",), torch="add", bad=(_fraction("add"),)),
    binary("sub(alpha)", lambda a, b, alpha: a - alpha * b, samples=_scaled, verbs=("sub",), torch="sub", bad=(_fraction("sub"),)),
    Op(
        "ops.lerp",
        ops.lerp,
        lambda d: [
            Sample(d(2, 3), d(2, 3), 0.3),
            Sample(d(2, 1), d(3), d(2, 3)),
            Sample(d(), d(), 2.0),
            Sample(d(0, 3), d(3), 0.5),
        ],
        lambda a, b, weight: a + weight * (b - a),
        torch="lerp",
        without={"int64": "computed in float32, which PyTorch refuses", "bool": "as integers", **MIXED},
        bad=(Bad(Sample(Z, np.zeros(4), 0.5), ShapeError, r"sub.*\(4,\).*\(2, 3\)"),),
    ),
    _add_of("addcmul", lambda x, a, b, value=1: x + value * a * b),
    _add_of("addcdiv", lambda x, a, b, value=1: x + value * a / b),
]


def comparison(name, reference, torch=None, **fields):
    def samples(d: Draw):
        yield Sample(d.integers(0, 3, 2, 3) * 1.0, d.integers(0, 3, 2, 3) * 1.0)
        yield Sample(d.integers(0, 3, 2, 1) * 1.0, d.integers(0, 3, 3))
        yield Sample(d(), d())
        yield Sample(d(0, 2), d(2))
        yield Sample(np.array([NAN, 1.0, INF]), np.array([NAN, NAN, INF]), smooth=False)

    return binary(
        name, reference, samples=samples, torch=torch or name, grad=False, twice=False, verbs=(name,), **fields
    )


COMPARISONS = [
    *(
        comparison(n, r)
        for n, r in (
            ("eq", np.equal),
            ("ne", np.not_equal),
            ("lt", np.less),
            ("le", np.less_equal),
            ("gt", np.greater),
            ("ge", np.greater_equal),
            ("logical_and", np.logical_and),
            ("logical_or", np.logical_or),
            ("logical_xor", np.logical_xor),
        )
    ),
    *(
        unary(n, r, grad=False, twice=False)
        for n, r in (
            ("isnan", np.isnan),
            ("isinf", np.isinf),
            ("isfinite", np.isfinite),
            ("logical_not", np.logical_not),
        )
    ),
]


def _bits(d: Draw):
    yield Sample(d.integers(-8, 8, 2, 3), d.integers(-8, 8, 3))
    yield Sample(d.mask(2, 3), d.mask(2, 3))
    yield Sample(d.integers(0, 8), d.integers(0, 8))
    yield Sample(d.integers(0, 8, 0, 2), d.integers(0, 8, 2))


BITS = [
    Op(
        f"ops.bitwise_{n}",
        getattr(ops, f"bitwise_{n}"),
        _bits,
        r,
        torch=f"bitwise_{n}",
        verbs=(f"bitwise_{n}",),
        grad=False,
        twice=False,
        elementwise=True,
        bad=(
            Bad(Sample(np.zeros((2, 3), int), np.zeros((2, 4), int)), ShapeError, f"bitwise_{n}.*axis -1 is 3"),
            Bad(Sample(np.ones(2), np.ones(2)), DTypeError, f"bitwise_{n}.*float64"),
        ),
    )
    for n, r in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor))
] + [
    Op(
        "ops.bitwise_not",
        ops.bitwise_not,
        lambda d: [Sample(s.args[0]) for s in _bits(d)],
        np.invert,
        torch="bitwise_not",
        verbs=("bitwise_not",),
        grad=False,
        twice=False,
        elementwise=True,
        bad=(Bad(Sample(np.ones(2)), DTypeError, "bitwise_not.*float64"),),
    ),
]


def _powers(d: Draw):
    for exponent in (2, 3, 0.5, -1, -0.5, 1.7, 0, 1, -2):
        yield Sample(positive(d, 2, 3), exponent)
    yield Sample(positive(d), 3)
    yield Sample(positive(d, 0, 2), 2)
    yield Sample(d.away(2, 3), 4)
    yield Sample(np.zeros(3), 2)
    yield Sample(d.integers(-3, 4, 5), 3)
    yield Sample(d.integers(-3, 4, 5), 2.0)


def _wheres(d: Draw):
    yield Sample(d.mask(2, 3), d(2, 3), d(2, 3))
    yield Sample(d.mask(2, 1), d(3), d(4, 1, 1))
    yield Sample(d.mask(2, 3), d(2, 3), 0.5)
    yield Sample(d.mask(2, 3), 2, d(3))
    yield Sample(d.mask(), d(), d())
    yield Sample(d.mask(0, 2), d(0, 2), d(2))
    yield Sample(np.array([True, False]), d(2), np.array([NAN, 1.0]))


def _fills(d: Draw):
    yield Sample(d(2, 3), d.mask(2, 3), 0.5)
    yield Sample(d(2, 3), d.mask(3), -INF, smooth=False)
    yield Sample(d(), d.mask(), 2)
    yield Sample(d(0, 3), d.mask(3), 1.0)
    yield Sample(d(3), d.mask(2, 1), 0.5)
    yield Sample(d.integers(0, 9, 4), d.mask(4), 7)


def _clips(d: Draw):
    for shape in ((2, 3), (), (0, 2)):
        yield Sample(d.away(*shape, kinks=(-0.5, 0.5)), min=-0.5, max=0.5)
    yield Sample(d.away(2, 3, kinks=(0.3,)), min=0.3)
    yield Sample(d.away(2, 3, kinks=(0.3,)), max=0.3)
    yield Sample(d.integers(-5, 5, 6), min=-2, max=2)
    yield Sample(EDGES.copy(), min=-0.5, max=0.5, smooth=False)


def _converted(x, dtype):
    return x.astype(dtype)


SELECTION = [
    Op(
        "ops.pow(number)",
        ops.pow,
        _powers,
        lambda x, exponent: x**exponent,
        torch="pow",
        verbs=("pow_scalar",),
        bad=(Bad(Sample(np.array([1, 2]), -1), DTypeError, "pow: integers to a negative power -1.*float"),),
        without={"dtypes": "compared entry by entry of ops.pow"},
    ),
    Op(
        "ops.where",
        ops.where,
        _wheres,
        np.where,
        torch="where",
        verbs=("where",),
        bad=(
            Bad(
                Sample(np.ones(2), np.ones(2), np.ones(2)),
                DTypeError,
                "where: the condition must be bool, found float64",
            ),
            Bad(Sample(np.ones(2, bool), np.ones(3), np.ones(2)), ShapeError, "where.*broadcast"),
        ),
    ),
    Op(
        "ops.masked_fill",
        ops.masked_fill,
        _fills,
        lambda x, mask, value: np.where(mask, np.asarray(value, x.dtype), x),
        torch=lambda torch: torch.Tensor.masked_fill,
        verbs=("masked_fill",),
        bad=(
            Bad(Sample(np.ones(2), np.ones(2), 1.0), DTypeError, "masked_fill: the mask must be bool, found float64"),
            Bad(Sample(np.ones((2, 3)), np.ones(4, bool), 1.0), ShapeError, r"masked_fill.*\(4,\).*\(2, 3\)"),
        ),
    ),
    Op(
        "ops.clamp",
        ops.clamp,
        _clips,
        lambda x, min=None, max=None: np.clip(x, min, max),
        torch="clamp",
        verbs=("clip",),
        aliases=("ops.clip",),
        bad=(Bad(Sample(np.ones(2)), ValueError, "clamp: give min, max or both"),),
    ),
    Op(
        "Tensor.to(dtype)",
        lambda x, dtype: x.to(dtype),
        lambda d: [
            Sample(d(2, 3), np.dtype("float32")),
            Sample(d(), np.dtype("float32")),
            Sample(d(0, 2), np.dtype("float32")),
            Sample(d(2, 3) * 3, np.dtype("int64"), smooth=False),
            Sample(d.integers(0, 2, 3), np.dtype("bool")),
        ],
        _converted,
        torch=lambda torch: lambda x, dtype: x.to(getattr(torch, dtype.name)),
        verbs=("astype",),
        twice=False,
        grad=False,
        without={"dtypes": "the dtype is the argument"},
    ),
    Op(
        "zeros_like",
        tensors.zeros_like,
        lambda d: [Sample(d(2, 3)), Sample(d()), Sample(d(0, 3))],
        np.zeros_like,
        verbs=("zeros_like",),
    ),
]


OPS = [*UNARY, *BINARY, *COMPARISONS, *BITS, *SELECTION]
