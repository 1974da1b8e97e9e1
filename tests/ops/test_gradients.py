"""Gradients, and gradients of gradients, of every operation against finite differences; and that wrong ones are found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minidl
from minidl.autograd import GradcheckError, gradcheck, gradgradcheck
from minidl.autograd import function as core
from minidl.errors import MinidlError
from tests.opdb import OPS, Op, as_function, wrap
from tests.ops import test_table

# NaN, logarithms of 0 and overflow are among the samples on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

BY_NAME = {op.name: op for op in OPS}
differentiable = pytest.mark.parametrize("op", [op for op in OPS if op.grad], ids=str)


def checks(op: Op):
    """(function, tensors) of every sample that finite differences fit."""
    for sample in op.draw():
        needs = sample.differentiable()
        if sample.smooth and needs and max(np.abs(sample.arrays()[i]).max(initial=0) for i in needs) < 100:
            yield as_function(op, sample), wrap([a.copy() for a in sample.arrays()], needs)


def connected(function, tensors) -> bool:
    out = function(*tensors)
    return any(o.requires_grad for o in out)


@differentiable
def test_gradcheck(op: Op):
    cases = [(f, xs) for f, xs in checks(op) if connected(f, xs)]
    assert cases, f"{op} is said to be differentiable, but none of its samples is"
    for f, xs in cases:
        assert gradcheck(f, xs)


@pytest.mark.parametrize("op", [op for op in OPS if op.twice], ids=str)
def test_gradgradcheck(op: Op):
    for f, xs in checks(op):
        if connected(f, xs):
            assert gradgradcheck(f, xs)


# --------------------------------------------------------------------------------------- planted wrong gradients fail
def fails(op: Op, check=gradcheck) -> bool:
    """Whether gradcheck refuses any sample; a backward that cannot even run is refused, too."""
    for f, xs in checks(op):
        try:
            if connected(f, xs):
                check(f, xs)
        except MinidlError:
            return True
    return False


def each(change):
    """A backward that changes every gradient of the right one."""

    def plant(right):
        def backward(self, F, gy, *kept):
            return [g if g is None or g is False else change(F, g) for g in right(self, F, gy, *kept)]

        return backward

    return plant


FLAT = {
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "floor_divide",
    "zeros_like",
    "overwrite",
}  # whose gradient is 0, whatever the factor
ENTRY = {verb: op for op in reversed(OPS) if op.grad for verb in op.verbs}


@pytest.mark.parametrize("verb", sorted(set(ENTRY) - FLAT))
def test_a_wrong_factor_is_found(verb, monkeypatch):
    """Every Function in turn: its gradients one percent too large."""
    cls = core.functions[verb]
    monkeypatch.setattr(cls, "backward", each(lambda F, g: F.mul(g, 1.01))(cls.backward))
    assert fails(ENTRY[verb])


def dropped(right):
    def backward(self, F, gy, *kept):
        return [right(self, F, gy, *kept)[0], *[None] * (len(self.needs) - 1)]

    return backward


def swapped(right):
    def backward(self, F, gy, *kept):
        first, second, *rest = right(self, F, gy, *kept)
        return [second, first, *rest]

    return backward


def turned(F, g):
    return F.transpose(g, axes=tuple(range(len(g.shape)))[::-1])


WRONG = {
    "mul: wrong sign": ("mul", each(lambda F, g: F.neg(g)), "ops.mul"),
    "sub: both gradients positive": ("sub", lambda right: lambda self, F, gy: (gy, gy), "ops.sub"),
    "div: the second term without the square": (
        "div",
        lambda right: lambda self, F, gy, b, y: (F.div(gy, b), F.neg(F.mul(gy, y))),
        "ops.div",
    ),
    "pow: the exponent's gradient dropped": ("pow", dropped, "ops.pow"),
    "matmul: transposed": ("matmul", each(turned), "ops.matmul"),
    "matmul: gradients swapped": ("matmul", swapped, "ops.matmul"),
    "transpose: the permutation instead of its inverse": (
        "transpose",
        lambda right: lambda self, F, gy: (F.transpose(gy, axes=self.axes),),
        "ops.permute",
    ),
    "mean: divided by nothing": ("mean", lambda right: lambda self, F, gy: (self.stretch(F, gy),), "ops.mean"),
    "amax: the gradient to everyone": (
        "amax",
        lambda right: lambda self, F, gy, x, y: (self.stretch(F, gy),),
        "ops.amax",
    ),
    "cumsum: not reversed": ("cumsum", lambda right: lambda self, F, gy: (F.cumsum(gy, axis=self.axis),), "ops.cumsum"),
    "sigmoid: without 1 - y": ("sigmoid", lambda right: lambda self, F, gy, y: (F.mul(gy, y),), "ops.sigmoid"),
    "conv2d: the bias over the batch only": (
        "conv2d",
        lambda right: (
            lambda self, F, gy, x, w, rectified: (
                *right(self, F, gy, x, w, rectified)[:2], self.needs[2] and F.sum(gy, axis=(0, 1, 2))
            )
        ),
        "F.conv2d",
    ),
    "conv2d: the weight gradient dropped": ("conv2d", dropped, "F.conv2d"),
    "layer_norm: as if the mean were constant": (
        "layer_norm",
        lambda right: (
            lambda self, F, gy, x, w, mean, invstd: (F.mul(gy, 0.9), *right(self, F, gy, x, w, mean, invstd)[1:])
        ),
        "F.layer_norm",
    ),
    "softmax: the projection dropped": ("softmax", lambda right: lambda self, F, gy, y: (F.mul(gy, y),), "F.softmax"),
    "cross_entropy: the sign": ("softmax_cross_entropy", each(lambda F, g: F.neg(g)), "F.cross_entropy"),
    "max_pool2d: nothing arrives": ("max_pool2d", each(lambda F, g: F.zeros_like(g)), "F.max_pool2d"),
    "embedding: only the last of equal rows": (
        "embedding",
        lambda right: lambda self, F, gy, index: (last_wins(F, gy, index, self.num), None),
        "F.embedding",
    ),
    "concatenate: the pieces swapped": (
        "concatenate",
        lambda right: lambda self, F, gy: right(self, F, gy)[::-1],
        "ops.cat",
    ),
    "getitem: a list read twice counts once": (
        "getitem",
        lambda right: (
            lambda self, F, gy: (
                F.setitem(F.broadcast_to(F.mul(F.sum(gy), 0.0), shape=self.shape), gy, index=self.index),
            )
        ),
        "Tensor[...]",
    ),
}


def last_wins(F, gy, index, num):
    y = np.zeros((num, gy.shape[-1]))
    y[index] = gy
    return y


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_error_is_found(name, monkeypatch):
    verb, plant, entry = WRONG[name]
    cls = core.functions[verb]
    monkeypatch.setattr(cls, "backward", plant(cls.backward))
    assert fails(BY_NAME[entry])


def test_a_missing_sum_to_is_found(monkeypatch):
    """A broadcast operand's gradient must be summed back to its shape."""
    monkeypatch.setattr(
        core._Broadcast, "backward", lambda self, F, gy, *kept: super(core._Broadcast, self).backward(F, gy, *kept)
    )
    a, b = wrap([np.ones((2, 3)), np.ones(3)], (0, 1))
    with pytest.raises((GradcheckError, minidl.errors.ShapeError), match=r"\(2, 3\)"):
        gradcheck(minidl.mul, [a, b])


COMPOSITES = {verb: op for op in reversed(OPS) for verb in op.composites}


@pytest.mark.parametrize("verb", sorted(core.composites))
def test_a_wrong_recorded_formula_is_found(verb, monkeypatch):
    """The formula behind each fused gradient one percent too large, where it is recorded.

    The first gradient is the kernel's, and the second is the derivative of the formula, so neither finite difference sees
    it; that the two levels agree is what finds it.
    """
    right = getattr(core.tensors, verb)

    def wrong(*args, **options):
        out = right(*args, **options)
        return tuple(minidl.mul(o, 1.01) for o in out) if isinstance(out, tuple) else minidl.mul(out, 1.01)

    monkeypatch.setattr(core.tensors, verb, wrong)
    with pytest.raises(AssertionError):
        test_table.test_two_levels_agree(COMPOSITES[verb])


def test_nothing_is_wrong_without_a_plant():
    assert not any(fails(BY_NAME[name]) for name in {entry for _, _, entry in WRONG.values()})


# -------------------------------------------------------------------------------- gradients at kinks, as documented
KINKS = {
    "relu": (lambda x: minidl.relu(x), [0.0], [0.0]),
    "leaky_relu": (lambda x: minidl.nn.functional.leaky_relu(x, 0.1), [0.0, -1.0, 1.0], [0.1, 0.1, 1.0]),
    "elu": (lambda x: minidl.nn.functional.elu(x, 2.0), [0.0], [2.0]),
    "abs": (lambda x: minidl.abs(x), [0.0], [0.0]),
    "clamp": (lambda x: minidl.clamp(x, -1.0, 1.0), [-1.0, 1.0, 1.5], [1.0, 1.0, 0.0]),
    "maximum of equals": (lambda x: minidl.maximum(x, x.detach()), [2.0], [0.5]),
    "amax of equals": (lambda x: minidl.amax(x), [2.0, 2.0, 1.0], [0.5, 0.5, 0.0]),
    "max along a dim of equals": (lambda x: minidl.max(x, 0).values, [2.0, 2.0, 1.0], [1.0, 0.0, 0.0]),
    "sqrt": (lambda x: minidl.sqrt(x), [0.0], [np.inf]),
    "sign": (lambda x: minidl.sign(x), [0.0, 2.0], [0.0, 0.0]),
    "l1_loss": (lambda x: minidl.nn.functional.l1_loss(x, x.detach()), [2.0], [0.0]),
}


@pytest.mark.parametrize("name", KINKS)
def test_gradient_at_a_kink(name):
    function, at, expected = KINKS[name]
    x = minidl.tensor(np.array(at), requires_grad=True)
    function(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_prod_with_zeros():
    """One zero: only its own gradient is left.  Two: none is."""
    for values, expected in (([0.0, 2.0, 3.0], [6.0, 0.0, 0.0]), ([0.0, 0.0, 3.0], [0.0, 0.0, 0.0])):
        x = minidl.tensor(values, requires_grad=True)
        x.prod().backward()
        assert x.grad.tolist() == expected


def test_every_order_of_sin():
    """Derivatives to the fifth order, each the derivative of a recorded one."""
    x = minidl.tensor(np.array([0.3, -1.2]), requires_grad=True)
    y = minidl.sin(x)
    for expected in itertools.islice(itertools.cycle((np.cos, lambda v: -np.sin(v), lambda v: -np.cos(v), np.sin)), 5):
        (y,) = minidl.grad(y.sum(), [x], create_graph=True)
        np.testing.assert_allclose(
            y.detach().numpy(), expected(x.detach().numpy()), rtol=1e-14
        )  # a few units in the last place


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_conversion_converts_the_gradient_back(dtype):
    """Too coarse for finite differences; these numbers are exact in both dtypes."""
    x = minidl.tensor(np.array([0.5, -2.0, 3.0]), requires_grad=True)
    y = x.to(getattr(minidl, dtype))
    (g,) = minidl.grad((y * y).sum(), [x], create_graph=True)
    assert y.dtype == dtype and g.dtype == np.float64 and g.tolist() == [1.0, -4.0, 6.0]
    (g * x).sum().backward()
    assert x.grad.dtype == np.float64 and x.grad.tolist() == [2.0, -8.0, 12.0]
