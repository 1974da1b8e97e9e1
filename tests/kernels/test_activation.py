"""Activations: every variant against the definitions, and those against scipy."""
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import variants
from tests.kernels.cases import FLOATS, assert_close, check, draw, examples, layouts, seeds

UNARY = (("sigmoid", ()), ("tanh", ()), ("silu", ()), ("gelu", ("none",)), ("gelu", ("tanh",)))
GRADIENTS = (("sigmoid_grad", ()), ("silu_grad", ()), ("gelu_grad", ("none",)), ("gelu_grad", ("tanh",)))


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shape=st.lists(st.integers(0, 4), max_size=4).map(tuple), first=layouts, second=layouts, seed=seeds)
def test_every_variant_equals_the_reference(shape, dtype, first, second, seed):
    x, gy = draw(seed, shape, dtype, first), draw(seed + 1, shape, dtype, second)
    for verb, options in UNARY:
        check(verb, x, *options, dtype=dtype)
    for verb, options in GRADIENTS:
        check(verb, gy, x, *options, dtype=dtype)


@pytest.mark.parametrize("verb, options, exact", [
    ("sigmoid", (), scipy.special.expit), ("tanh", (), np.tanh), ("silu", (), lambda x: x * scipy.special.expit(x)),
    ("gelu", ("none",), lambda x: x * scipy.special.ndtr(x)),
    ("gelu", ("tanh",), lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))])
def test_the_reference_equals_scipy(verb, options, exact):
    x = np.linspace(-9, 9, 101)
    assert_close(verb, variants(verb)["reference"](x, *options), exact(x), "float64")


@pytest.mark.parametrize("verb, options", GRADIENTS)
def test_the_reference_is_the_slope(verb, options):
    """Central differences: h^2 times a third derivative of order one, and rounding divided by h."""
    x, h = np.linspace(-6, 6, 61), 1e-5
    f = variants(verb.removesuffix("_grad"))["reference"]
    slope = (f(x + h, *options) - f(x - h, *options)) / (2 * h)
    at = f(x, *options) if verb == "sigmoid_grad" else x
    np.testing.assert_allclose(variants(verb)["reference"](np.ones_like(x), at, *options), slope, atol=1e-9)
