"""Pooling: every variant against the literal loops, and the loops against torch and worked examples."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import variants
from minidl.ops.geometry import pool2d_geometry
from tests.kernels.cases import FLOATS, assert_close, check, draw, examples, layouts, run, seeds

few = examples(60)


@st.composite
def poolings(draw_):
    pair = lambda low, high: draw_(st.tuples(st.integers(low, high), st.integers(low, high)))
    kernel, stride, dilation = pair(1, 3), pair(1, 4), pair(1, 2)
    padding = tuple(draw_(st.integers(0, k // 2)) for k in kernel)
    h, w = (d * (k - 1) + 1 + extra for k, d, extra in zip(kernel, dilation, pair(0, 5), strict=True))
    shape = draw_(st.integers(0, 2)), draw_(st.integers(1, 3)), h, w
    return shape, kernel, stride, padding, dilation, draw_(st.booleans())


@pytest.mark.parametrize("dtype", FLOATS)
@examples(20)
@given(case=poolings(), layout=layouts, seed=seeds, ties=st.booleans(), nans=st.booleans())
def test_max_pooling(case, dtype, layout, seed, ties, nans):
    shape, *options = case
    geom = pool2d_geometry(shape, *options)
    x = draw(seed, shape, dtype, layout)
    if ties:  # few values, so that windows hold equal ones
        np.round(x, out=x)
    if nans:
        x[draw(seed + 1, shape) > 1] = np.nan
    y, indices = check("max_pool2d", x, geom, dtype=dtype)
    gy = draw(seed + 2, y.shape, dtype, layout)
    check("max_pool2d_grad", gy, indices, geom, dtype=dtype)
    check("max_pool2d_take", draw(seed + 3, shape, dtype, layout), indices, geom, dtype=dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@examples(20)
@given(case=poolings(), layout=layouts, seed=seeds, include=st.booleans())
def test_average_pooling(case, dtype, layout, seed, include):
    shape, *options = case
    geom = pool2d_geometry(shape, *options)
    y = check("avg_pool2d", draw(seed, shape, dtype, layout), geom, include, dtype=dtype)
    check("avg_pool2d_grad", draw(seed + 1, y.shape, dtype, layout), geom, include, dtype=dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@examples(20)
@given(n=st.integers(0, 2), c=st.integers(1, 3), hw=st.tuples(st.integers(1, 7), st.integers(1, 7)),
       out=st.tuples(st.integers(1, 9), st.integers(1, 9)), layout=layouts, seed=seeds)
def test_adaptive_pooling(n, c, hw, out, dtype, layout, seed):
    x = draw(seed, (n, c, *hw), dtype, layout)
    gy = draw(seed + 1, (n, c, *out), dtype, layout)
    check("adaptive_avg_pool2d", x, out, dtype=dtype)
    check("adaptive_avg_pool2d_grad", gy, hw, dtype=dtype)
    _, indices = check("adaptive_max_pool2d", x, out, dtype=dtype)
    check("adaptive_max_pool2d_grad", gy, indices, hw, dtype=dtype)


@pytest.mark.parity
@few
@given(case=poolings(), seed=seeds, include=st.booleans())
def test_the_reference_equals_torch(case, seed, include):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    F = torch.nn.functional
    shape, kernel, stride, padding, dilation, ceil_mode = case
    shape = (2, *shape[1:])
    x = np.round(draw(seed, shape), 1)
    tx = torch.tensor(x)
    geom = pool2d_geometry(shape, *case[1:])
    y, indices = variants("max_pool2d")["reference"](x, geom)
    ty, tindices = F.max_pool2d(tx, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    np.testing.assert_array_equal(y, ty.numpy())
    np.testing.assert_array_equal(indices, tindices.numpy())
    geom = pool2d_geometry(shape, kernel, stride, padding, 1, ceil_mode)
    tx.requires_grad_()
    ty = F.avg_pool2d(tx, kernel, stride, padding, ceil_mode, include)
    y = variants("avg_pool2d")["reference"](x, geom, include)
    assert_close("avg_pool2d", y, ty.detach().numpy(), "float64")
    gy = draw(seed + 1, y.shape)
    ty.backward(torch.tensor(gy))
    assert_close("avg_pool2d", variants("avg_pool2d_grad")["reference"](gy, geom, include), tx.grad.numpy(), "float64")
    ty = F.adaptive_avg_pool2d(tx, kernel)
    assert_close("avg_pool2d", variants("adaptive_avg_pool2d")["reference"](x, kernel), ty.detach().numpy(), "float64")
    ty, tindices = F.adaptive_max_pool2d(tx, kernel, return_indices=True)
    np.testing.assert_array_equal(variants("adaptive_max_pool2d")["reference"](x, kernel)[1], tindices.numpy())


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_the_lectures_example(variant):
    x = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], "float32")[None, None]
    y, _ = variants("max_pool2d")[variant](x, pool2d_geometry(x.shape, 2, 2))
    np.testing.assert_array_equal(y[0, 0], [[6, 8], [3, 4]])
    y = variants("avg_pool2d")[variant](x, pool2d_geometry(x.shape, 2, 2))
    np.testing.assert_array_equal(y[0, 0], [[3.25, 5.25], [2, 2]])


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_the_first_maximum_takes_the_gradient(variant):
    x = np.zeros((1, 1, 3, 3))
    geom = pool2d_geometry(x.shape, 3, 1)
    _, indices = variants("max_pool2d")[variant](x, geom)
    gx = variants("max_pool2d_grad")[variant](np.ones((1, 1, 1, 1)), indices, geom)
    assert gx[0, 0, 0, 0] == 1 and gx.sum() == 1


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_padding_never_wins_and_minus_infinity_is_a_value(variant):
    geom = pool2d_geometry((1, 1, 2, 2), 2, 2, 1)
    y, indices = variants("max_pool2d")[variant](np.full((1, 1, 2, 2), -5.0), geom)
    assert (y == -5).all() and indices.reshape(-1).tolist() == [0, 1, 2, 3]
    y, indices = variants("max_pool2d")[variant](np.full((1, 1, 2, 2), -np.inf), geom)
    assert (y == -np.inf).all() and indices.reshape(-1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_an_infinite_gradient_stays_where_it_belongs(variant):
    geom = pool2d_geometry((1, 1, 2, 2), 2)
    gx = variants("max_pool2d_grad")[variant](np.full((1, 1, 1, 1), np.inf), np.full((1, 1, 1, 1), 3), geom)
    assert gx.reshape(-1).tolist() == [0, 0, 0, np.inf]  # a mask multiplied in would give NaN for 0 * inf


def test_overlapping_windows_of_alexnet():
    x = draw(0, (1, 2, 55, 55), "float32")
    y, _ = run("max_pool2d", x, pool2d_geometry(x.shape, 3, 2))
    assert y.shape == (1, 2, 27, 27) and y[0, 1, 26, 26] == x[0, 1, 52:55, 52:55].max()
