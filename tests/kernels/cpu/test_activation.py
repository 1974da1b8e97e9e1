"""The activations' kernels: ragged lengths, other orders of memory, extreme arguments, nothing written beside the result."""
import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.cpu.dispatch import COSTLY
from tests.kernels.cases import LAYOUTS, arrange, assert_close
from tests.kernels.test_activation import GRADIENTS, UNARY

SHAPES = [(COSTLY,), (COSTLY + 1,), (2 * 4096 + 13,), (3, 7, 20, 31), (1, 1031)]


@pytest.mark.parametrize("verb, options", UNARY + GRADIENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(guarded, shape, verb, options):
    rng = np.random.default_rng(0)
    values = [(3 * rng.standard_normal(shape)).astype(np.float32) for _ in range(1 + verb.endswith("_grad"))]
    exact = variants(verb)["numpy"](*[a.astype(np.float64) for a in values], *options).astype(np.float32)
    # The contract's tolerance is for numbers of order one; these are up to five standard deviations of three times three.
    for layout in LAYOUTS:
        got = variants(verb)["vector"](*[arrange(a, layout) for a in values], *options)
        assert_close(verb, got, exact, "float32", scale=10)
    guarded()


@pytest.mark.parametrize("verb, options", UNARY)
def test_large_and_missing_numbers(verb, options):
    large = np.array([1e4, 1e30, -1e4, -1e30, np.nan, 0.0, -0.0, 200, -200] * 200, np.float32)
    got = variants(verb)["vector"](large, *options)
    positive = {"sigmoid": [1, 1], "tanh": [1, 1]}.get(verb, [1e4, 1e30])
    negative = {"tanh": [-1, -1]}.get(verb, [0, 0])
    zero = 0.5 if verb == "sigmoid" else 0
    expected = np.array([*positive, *negative, np.nan, zero, zero], np.float32)
    np.testing.assert_array_equal(got[:7], expected)


@pytest.mark.parametrize("verb, options", GRADIENTS[1:])
def test_slopes_far_out_are_zero_and_one(verb, options):
    x = np.array([1e4, 1e30, -1e4, -1e30] * 500, np.float32)
    got = variants(verb)["vector"](np.ones_like(x), x, *options)
    np.testing.assert_array_equal(got[:4], [1, 1, 0, 0])


def test_gelu_keeps_its_digits_in_the_tail():
    """Where 1 + erf(x / sqrt(2)) rounds to 0; the tolerance is the error that functions.py states."""
    x = np.linspace(-10, -5, COSTLY, dtype=np.float32)
    exact = variants("gelu")["reference"](x.astype(np.float64), "none")
    np.testing.assert_allclose(variants("gelu")["vector"](x, "none"), exact, rtol=65 * 2**-23)
