"""Elementwise kernels: every variant against a loop."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import variants
from tests.kernels.cases import FLOATS, arrange, check, draw, examples, layouts, seeds, under_test


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shape=st.lists(st.integers(0, 4), max_size=4).map(tuple), first=layouts, second=layouts, seed=seeds)
def test_every_variant_equals_the_reference(shape, dtype, first, second, seed):
    a, b = draw(seed, shape, dtype, first), draw(seed + 1, shape, dtype, second)
    check("relu", a, dtype=dtype)
    check("relu_grad", a, b, dtype=dtype)
    check("tanh_grad", a, b, dtype=dtype)
    check("add", a, b, dtype=dtype)


def test_large_arrays_with_nan_and_zero():
    a, b = draw(0, (200, 200), "float32"), draw(1, (200, 200), "float32")
    a[3, 4], a[5, 6], b[7, 8] = np.nan, -0.0, 0.0
    check("relu", a, dtype="float32")
    check("relu_grad", a, b, dtype="float32")
    check("tanh_grad", a, b, dtype="float32")
    check("add", a, b, dtype="float32")


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(lead=st.lists(st.integers(0, 3), max_size=2).map(tuple), columns=st.integers(0, 20), first=layouts, second=layouts,
       seed=seeds)
def test_a_bias_is_added_to_every_row(lead, columns, dtype, first, second, seed):
    y, b = draw(seed, (*lead, columns), dtype), draw(seed + 1, (columns,), dtype, second)
    expected = y.copy()
    variants("add_bias_")["reference"](expected, b)
    for name, kernel in under_test("add_bias_"):
        got = arrange(y, first)
        kernel(got, b)
        np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_bias_for_more_packs_than_threads(dtype):
    y, b = draw(0, (700, 64), dtype), draw(1, (64,), dtype)
    for name, kernel in under_test("add_bias_"):
        got = y.copy()
        kernel(got, b)
        np.testing.assert_array_equal(got, y + b, err_msg=name)
