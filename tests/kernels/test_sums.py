"""Sums per channel: every variant against sums that are rounded once."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.cases import FLOATS, LAYOUTS, check, draw, examples, layouts, seeds


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shape=st.lists(st.integers(0, 5), min_size=2, max_size=5).map(tuple), layout=layouts, seed=seeds)
def test_every_variant_equals_the_reference(shape, dtype, layout, seed):
    check("channel_sum", draw(seed, shape, dtype, layout), dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_maps_in_every_memory_layout(dtype, layout):
    """The examples above need not contain a map of pixels with its channels first."""
    check("channel_sum", draw(0, (2, 3, 4, 5), dtype, layout), dtype=dtype)


def test_a_large_mean_costs_few_digits():
    x = draw(0, (100, 3, 40, 40), "float32") + 1000
    expected = check("channel_sum", x, dtype="float32")
    np.testing.assert_allclose(expected, x.sum((0, 2, 3), dtype=np.float64), rtol=1e-7)   # one rounding
