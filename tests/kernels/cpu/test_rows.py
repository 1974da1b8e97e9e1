"""Batch normalisation, elementwise operations and layouts."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import variants
from minidl.kernels.cpu import layout, rows
from minidl.kernels.cpu.dispatch import LARGE
from tests.kernels.cases import arrange, assert_close, layouts, seeds

SHAPES = [(2, 1, 100, 100), (3, 3, 80, 80), (5, 17, 20, 20), (1, 100, 13, 17), (LARGE // 10 + 1, 10), (64, 16, 8, 8),
          (40, 33, 25)]


def normal(seed, shape, layout_="contiguous"):
    return arrange(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), layout_)


def both(verb, *arguments):
    """The vector variant's result, and NumPy's in float64."""
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in arguments]
    got, expected = variants(verb)["vector"](*arguments), variants(verb)["numpy"](*wide)
    return got, expected


def narrow(results):
    return tuple(np.asarray(a, np.float32) for a in (results if isinstance(results, tuple) else (results,)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", ["contiguous", "channels_last", "sliced"])
def test_batch_norm(guarded, shape, order):
    x, gy = normal(1, shape, order) * 3 + 1, normal(2, shape, order)
    w, b = normal(3, shape[1]), normal(4, shape[1])
    got, expected = both("batch_norm", x, w, b, 1e-5)
    assert_close("batch_norm", got, narrow(expected), "float32", scale=3)
    _, mean, invstd = got
    count = x.size / shape[1]
    got, expected = both("batch_norm_grad", gy, x, w, mean, invstd)
    # Sums over ``count`` numbers of order one, compared as means.
    for value, exact, size in zip(got, expected, (1, count, count), strict=True):
        np.testing.assert_allclose(value / size, exact / size, rtol=2e-5, atol=2e-5)
    got, expected = both("batch_norm_inference", x, w, b, mean, abs(invstd), 1e-5)
    assert_close("batch_norm_inference", got, narrow(expected), "float32", scale=3)
    for residual in (None, gy):
        relu, exact = both("batch_norm_relu_inference", x, w, b, mean, abs(invstd), residual, 1e-5)
        assert_close("batch_norm_relu_inference", relu, narrow(exact), "float32", scale=3)
    y, gy = np.maximum(got, 0), normal(7, shape, order)
    for residual in (None, normal(8, shape, order)):
        got, expected = both("batch_norm_relu", x, w, b, residual, 1e-5)
        assert_close("batch_norm_relu", got, narrow(expected), "float32", scale=3)
        y = got[0]                                   # the gradient is taken where the result that was returned is positive
        got, expected = both("batch_norm_relu_grad", gy, x, w, b, y, mean, invstd, residual is not None)
        for value, exact, size in zip(got[:3], expected[:3], (1, count, count), strict=True):
            np.testing.assert_allclose(value / size, exact / size, rtol=2e-5, atol=2e-5)
        if residual is not None:
            np.testing.assert_array_equal(got[3], np.where(y > 0, gy, 0))
        else:
            assert len(got) == 3
    guarded()
    for verb, arguments in (("batch_norm", (x, None, None, 1e-5)), ("batch_norm", (x, w, None, 1e-5))):
        got, expected = both(verb, *arguments)
        assert_close(verb, got, narrow(expected), "float32", scale=3)


def test_a_large_mean_costs_no_digits():
    x = normal(1, (16, 16, 32, 32)) + np.float32(3000)
    got, expected = both("batch_norm", x, None, None, 1e-5)
    # x itself is rounded to 2.4e-4, exactly as in the float64 evaluation; the sums are what is tested.
    np.testing.assert_allclose(got[2], expected[2], rtol=1e-5)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("count", [1, 3, rows.CHUNK, rows.CHUNK + 1, 5 * rows.CHUNK - 1])
def test_statistics_of_any_number_of_rows(count):
    x = normal(5, (count, 16))
    mean, variance = rows.Rows(x, 16).mean_and_variance()
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(variance, x.var(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(shape=st.sampled_from([(LARGE,), (LARGE + 13,), (3, 7, 40, 31), (130, 127), (1, 1, 200, 200)]), first=layouts,
       second=layouts, seed=seeds)
def test_elementwise(shape, first, second, seed):
    a, b = normal(seed, shape, first), normal(seed + 1, shape, second)
    a.flat[5], b.flat[7] = np.nan, 0
    np.testing.assert_array_equal(variants("add")["vector"](a, b), a + b)
    np.testing.assert_array_equal(variants("relu")["vector"](a), np.maximum(a, 0))
    expected = np.where(b > 0, a, 0)
    np.testing.assert_array_equal(variants("relu_grad")["vector"](a, b), expected)


def test_elementwise_stays_inside(guarded):
    for n in (LARGE, LARGE + 1, LARGE + 4097):
        a, b = normal(n, n), normal(n + 1, n)
        np.testing.assert_array_equal(variants("add")["vector"](a, b), a + b)
        np.testing.assert_array_equal(variants("relu")["vector"](a), np.maximum(a, 0))
    guarded()


@pytest.mark.parametrize("verb", ["relu", "add", "relu_grad"])
def test_elementwise_keeps_channels_last(verb):
    a, b = normal(0, (4, 16, 40, 40), "channels_last"), normal(1, (4, 16, 40, 40), "channels_last")
    y = variants(verb)["vector"](*((a,) if verb == "relu" else (a, b)))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    spread = np.broadcast_to(b[:, :, :1, :1], b.shape)  # the gradient of a mean: no memory order of its own
    y = variants("relu_grad")["vector"](spread, a)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(y, np.where(a > 0, spread, 0))


def test_layouts():
    x = normal(0, (2, 3, 4, 5))
    last = layout.channels_last(x)
    assert last.shape == (2, 4, 5, 3) and last.flags.c_contiguous
    back = layout.channels_first(last)
    np.testing.assert_array_equal(back, x)
    assert np.shares_memory(layout.channels_last(back), last)
    assert layout.flat(x, back) is None and layout.flat(x[:, :, ::2]) is None
    assert [a.shape for a in layout.flat(back, back)] == [(2, 4, 5, 3)] * 2
    assert layout.like(back).strides == back.strides
