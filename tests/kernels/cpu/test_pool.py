"""Vector pooling against the NumPy variant: borders, ragged channels, ceil mode, NaN and ties."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import variants
from minidl.kernels.cpu import dispatch
from minidl.ops.geometry import pool2d_geometry
from tests.kernels.cases import arrange, layouts, seeds
from tests.kernels.cpu.guards import guard_bands


@st.composite
def poolings(draw):
    """(x_shape, geometry); small maps and strides that leave borders."""
    kernel, padding = draw(st.integers(1, 4)), 0
    if kernel > 1:
        padding = draw(st.integers(0, kernel // 2))
    stride, dilation = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2]))
    least = dilation * (kernel - 1) + 1
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 5, 16, 17, 40])),
             draw(st.integers(least, least + 9)), draw(st.integers(least, least + 9)))
    return shape, pool2d_geometry(shape, kernel, stride, padding, dilation, ceil_mode=draw(st.booleans()))


@settings(deadline=None, max_examples=60)
@given(case=poolings(), layout=layouts, seed=seeds, ties=st.booleans(), include=st.booleans())
def test_equals_numpy(case, layout, seed, ties, include):
    shape, geom = case
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    if ties:
        x = np.round(x)
        x.flat[:: max(1, x.size // 3)] = np.nan
        x.flat[1 :: max(1, x.size // 4)] = -np.inf
    x = arrange(x, layout)
    gy = rng.standard_normal((shape[0], shape[1], geom.out_h, geom.out_w)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "LARGE", 0)
        check = guard_bands(patch)
        y, indices = variants("max_pool2d")["vector"](x, geom)
        expected, winners = variants("max_pool2d")["numpy"](x, geom)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(indices, winners)
        gx = variants("max_pool2d_grad")["vector"](gy, indices, geom)
        np.testing.assert_allclose(gx, variants("max_pool2d_grad")["numpy"](gy, indices, geom), rtol=1e-5, atol=1e-5)
        if tuple(geom.dilation) == (1, 1):
            x = np.nan_to_num(x, posinf=1, neginf=1)
            y = variants("avg_pool2d")["vector"](x, geom, include)
            np.testing.assert_allclose(y, variants("avg_pool2d")["numpy"](x, geom, include), rtol=1e-5, atol=1e-5)
            gx = variants("avg_pool2d_grad")["vector"](gy, geom, include)
            # Sums of at most 16 numbers of order one in another order.
            np.testing.assert_allclose(gx, variants("avg_pool2d_grad")["numpy"](gy, geom, include), rtol=1e-5, atol=1e-5)
        check()
