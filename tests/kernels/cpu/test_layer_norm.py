"""Layer normalisation over rows of any length."""
import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.cpu import layer_norm
from tests.kernels.cases import LAYOUTS, arrange, assert_close

# (shape, how many of its axes are one row): ragged rows, rows of one number, chunks that are full and not, no outer axis.
SHAPES = [((64, 65, 8), 1), ((4, 65, 192), 1), ((1024, 1), 1), ((layer_norm.CHUNK + 1, 17), 1), ((7, 3, 5, 11), 2), ((2, 700), 1),
          ((1100,), 1), ((3, 20, 20), 3), ((2 * layer_norm.CHUNK, 33), 1)]
EPS = 1e-5


def normal(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape, ndim", SHAPES, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_against_float64(guarded, shape, ndim, affine):
    x, gy, inner = 3 * normal(1, shape) + 1, normal(2, shape), shape[len(shape) - ndim :]
    w, b = (normal(3, inner), normal(4, inner)) if affine else (None, None)
    wide = [None if a is None else a.astype(np.float64) for a in (x, gy, w, b)]
    exact = variants("layer_norm")["numpy"](wide[0], *wide[2:], ndim, EPS)
    gradients = variants("layer_norm_grad")["numpy"](wide[1], wide[0], wide[2], *exact[1:], ndim)
    rows = x.size // int(np.prod(inner))
    for layout in LAYOUTS:
        a, g = arrange(x, layout), arrange(gy, layout)
        got = variants("layer_norm")["vector"](a, w, b, ndim, EPS)
        assert_close("layer_norm", got, tuple(v.astype(np.float32) for v in exact), "float32", scale=3)
        assert got[1].shape == exact[1].shape
        got = variants("layer_norm_grad")["vector"](g, a, w, *got[1:], ndim)
        for value, wanted, size in zip(got, gradients, (1, rows, rows), strict=True):
            # Sums over all rows are compared as means; a row of one number is multiplied by invstd, 316.
            scale = 316 if inner == (1,) else 1
            np.testing.assert_allclose(value / size, wanted / size, rtol=2e-5, atol=2e-5 * scale)
    guarded()


def test_a_large_mean_costs_no_digits():
    x = normal(0, (4, 20_000)) + np.float32(3000)    # so many that their sum is rounded by more than the mean may be
    y, mean, invstd = variants("layer_norm")["vector"](x, None, None, 1, EPS)
    wide = x.astype(np.float64)
    # x itself is rounded to 2.4e-4; the statistics are what is tested.
    np.testing.assert_allclose(invstd[:, 0], 1 / np.sqrt(wide.var(axis=1) + EPS), rtol=1e-5)
    np.testing.assert_allclose(mean[:, 0], wide.mean(axis=1), rtol=1e-7)


def test_a_constant_row_is_zero():
    """Without eps nothing keeps a variance that rounds below zero from becoming NaN."""
    x = np.full((64, 33), np.float32(0.1))
    y, _, invstd = variants("layer_norm")["vector"](x, None, None, 1, EPS)
    assert np.abs(y).max() < 1e-4 and np.isfinite(invstd).all()
    assert not np.isnan(variants("layer_norm")["vector"](x, None, None, 1, 0.0)[2]).any()
