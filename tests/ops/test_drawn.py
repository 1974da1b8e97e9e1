"""Broadcasting, memory layouts and indices that hypothesis draws, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl.autograd import gradcheck, gradgradcheck
from minidl.errors import ShapeError
from tests.strategies import advanced_indices, arrays, basic_indices, broadcasting, seeds, shapes

BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "lt": np.less}


def summed_back(g, shape):
    """The gradient of a broadcast operand, by NumPy's own rules."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1), keepdims=True)


@given(broadcasting(), seeds, st.sampled_from(sorted(BINARY)))
def test_operands_broadcast(drawn, seed, name):
    rng = np.random.default_rng(seed)
    a, b = (np.asarray(rng.standard_normal(s)) for s in drawn.input_shapes)
    y = getattr(minidl, name)(minidl.from_numpy(a), minidl.from_numpy(b))
    np.testing.assert_array_equal(y.numpy(), BINARY[name](a, b))
    assert y.shape == drawn.result_shape


@given(broadcasting(), seeds)
def test_gradients_are_summed_back(drawn, seed):
    rng = np.random.default_rng(seed)
    a, b = (np.asarray(rng.standard_normal(s)) for s in drawn.input_shapes)
    ta, tb = (minidl.tensor(x, requires_grad=True) for x in (a, b))
    gy = np.asarray(rng.standard_normal(drawn.result_shape))
    (ta * tb).backward(minidl.from_numpy(gy))
    for t, g in ((ta, gy * b), (tb, gy * a)):
        np.testing.assert_allclose(
            t.grad.numpy(), summed_back(g, t.shape), rtol=1e-12, atol=1e-13
        )  # another order of sums


@given(broadcasting(3), seeds)
def test_where_broadcasts_three(drawn, seed):
    rng = np.random.default_rng(seed)
    cond, a, b = (
        rng.random(drawn.input_shapes[0]) < 0.5,
        *(np.asarray(rng.standard_normal(s)) for s in drawn.input_shapes[1:]),
    )
    np.testing.assert_array_equal(
        minidl.where(minidl.from_numpy(np.asarray(cond)), minidl.from_numpy(a), minidl.from_numpy(b)).numpy(),
        np.where(cond, a, b),
    )


@given(shapes(min_dims=1, min_side=2), shapes(min_dims=1, min_side=2))
def test_what_does_not_broadcast_is_told(a, b):
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ShapeError, match="add.*do not broadcast"):
            minidl.zeros(a) + minidl.zeros(b)


@given(arrays())
def test_memory_does_not_matter(x):
    t = minidl.from_numpy(x)
    np.testing.assert_array_equal(t.exp().numpy(), np.exp(x))
    np.testing.assert_allclose(t.sum().numpy(), np.sum(x), rtol=1e-12, atol=1e-12)  # another order of sums
    np.testing.assert_array_equal(t.reshape(-1).numpy(), x.reshape(-1))
    assert t.contiguous().is_contiguous() and t.clone().numpy().tolist() == x.tolist()


@given(st.data())
def test_reading_by_basic_index(data):
    x = data.draw(arrays(shapes(min_side=1)))
    index = data.draw(basic_indices(x.shape))
    t = minidl.from_numpy(x)
    y = t[index]
    np.testing.assert_array_equal(y.numpy(), x[index])
    assert not y.numel() or np.shares_memory(y.numpy(), x), "a basic index is a view"


@given(st.data())
def test_reading_and_writing_by_any_index(data):
    """The value read, the gradient (how often each element was read), the value written."""
    x = data.draw(arrays(shapes(min_dims=1, min_side=1)))
    index = data.draw(st.one_of(basic_indices(x.shape), advanced_indices(x.shape)))
    t = minidl.tensor(x, requires_grad=True)
    y = t[index]
    np.testing.assert_array_equal(y.detach().numpy(), x[index])
    y.sum().backward()
    reads = np.zeros(x.shape)
    np.add.at(reads, index, 1.0)
    np.testing.assert_array_equal(t.grad.numpy(), reads)
    written, copy = minidl.tensor(x), x.copy()
    written[index], copy[index] = 7.0, 7.0
    np.testing.assert_array_equal(written.numpy(), copy)


@given(st.data())
def test_gradients_of_drawn_indices(data):
    x = minidl.tensor(
        np.random.default_rng(0).standard_normal(data.draw(shapes(min_dims=1, min_side=1, max_side=3))),
        requires_grad=True,
    )
    index = data.draw(st.one_of(basic_indices(x.shape), advanced_indices(x.shape)))
    assert gradcheck(lambda t: t[index] * t[index], [x]) and gradgradcheck(lambda t: t[index] * t[index], [x])


def test_an_integer_and_a_list_apart():
    """The documented difference from PyTorch: the list's axis comes first, as in NumPy."""
    x = np.arange(12.0).reshape(2, 3, 2)
    assert minidl.from_numpy(x)[0, :, [1, 0]].shape == x[0, :, [1, 0]].shape == (2, 3)


def test_scatter_add_of_a_larger_src():
    """Elements of src beyond the index are not used, and get a gradient of 0."""
    x, src = minidl.zeros(3, 2, dtype="float64"), minidl.ones(4, 2, dtype="float64", requires_grad=True)
    y = x.scatter_add(0, minidl.tensor([[0], [0], [2]]), src)
    assert y.tolist() == [[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    y.sum().backward()
    assert src.grad.tolist() == [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.booleans())
def test_sorting_keeps_the_order_of_equals(values, descending):
    x = minidl.tensor(values)
    expected = sorted(range(len(values)), key=lambda i: -values[i] if descending else values[i])
    assert x.argsort(descending=descending).tolist() == expected
    assert x.sort(descending=descending).values.tolist() == [values[i] for i in expected]


@pytest.mark.parametrize("sort", [minidl.sort, minidl.argsort])
def test_sorting_a_number(sort):
    """A number is in order already."""
    out = sort(minidl.tensor(2.5))
    assert (out.indices if sort is minidl.sort else out).tolist() == 0
