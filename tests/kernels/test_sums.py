"""Sums per channel: every variant against sums that are rounded once."""
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.cases import check, draw, dtypes, layouts, seeds


@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(0, 5), min_size=2, max_size=5).map(tuple), dtype=dtypes, layout=layouts, seed=seeds)
def test_every_variant_equals_the_reference(shape, dtype, layout, seed):
    check("channel_sum", draw(seed, shape, dtype, layout), dtype=dtype)


def test_a_large_mean_costs_few_digits():
    x = draw(0, (100, 3, 40, 40), "float32") + 1000
    expected = check("channel_sum", x, dtype="float32")
    np.testing.assert_allclose(expected, x.sum((0, 2, 3), dtype=np.float64), rtol=1e-7)   # one rounding
