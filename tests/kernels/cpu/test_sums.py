"""Vector sums per channel: rows alone and several as one, what is left over, and memory beside the array."""
import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.cpu import dispatch
from tests.kernels.cases import arrange

SHAPES = [(3, 6, 40, 31), (1, 1, 129, 130), (700, 10), (1025, 84), (7, 3, 5, 1), (2, 16, 33, 17), (513, 300), (9, 40), (5, 17, 3),
          (1, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_equals_a_sum_in_float64(guarded, monkeypatch, shape, layout):
    monkeypatch.setattr(dispatch, "LARGE", 0)
    size = int(np.prod(shape))
    # Beside the array lies NaN: what is read outside shows.
    room = np.full(size + 64, np.nan, np.float32)
    room[32:-32] = np.random.default_rng(0).standard_normal(size)
    x = arrange(room[32:-32].reshape(shape), layout)
    got = variants("channel_sum")["vector"](x)
    exact = x.sum(axis=(0, *range(2, x.ndim)), dtype=np.float64)
    # float32 sums of at most 512 numbers of order one in four chains, then float64: their rounding errors add up like a walk.
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-7 * size**0.5 * 4)
    assert got.dtype == np.float32 and got.base is None
    guarded()
