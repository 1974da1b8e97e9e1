"""Reading and writing by index, against NumPy, with indices that hypothesis makes up."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl.autograd import grad
from minidl.errors import DTypeError, ShapeError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def basic(draw):
    shape = draw(SHAPES)
    return shape, draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True, max_dims=6))


@st.composite
def advanced(draw):
    """Integer arrays (possibly after slices), a mask of some leading axes, or both in one tuple."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    kind = draw(st.sampled_from(["arrays", "mask", "mixed"]))
    if kind == "arrays":
        return shape, draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    if kind == "mask":
        axes = draw(st.integers(1, len(shape)))
        return shape, draw(hnp.arrays(bool, shape[:axes]))
    parts = []
    for n in shape[: draw(st.integers(1, len(shape)))]:
        parts.append(
            draw(
                st.one_of(
                    st.integers(-n, n - 1),
                    st.slices(n),
                    hnp.arrays(np.int64, 3, elements=st.integers(-n, n - 1)),
                    st.lists(st.integers(-n, n - 1), min_size=3, max_size=3),
                )
            )
        )
    return shape, tuple(parts)


def as_tensors(index):
    """The same index with arrays as minidl's tensors."""
    if isinstance(index, tuple):
        return tuple(as_tensors(i) for i in index)
    return minidl.from_numpy(index) if isinstance(index, np.ndarray) else index


def numbered(shape):
    return np.arange(1.0, 1.0 + np.prod(shape, dtype=int)).reshape(shape)


def check_reading(shape, index):
    a = numbered(shape)
    t = minidl.tensor(a)
    expected = a[index]
    for i in (index, as_tensors(index)):
        y = t[i]
        assert type(y.data) is np.ndarray and y.shape == np.shape(expected)
        np.testing.assert_array_equal(y.data, expected)
    # The gradient is the number of times that each element was read.
    x = minidl.tensor(a, requires_grad=True)
    y = x[index]
    weights = minidl.tensor(numbered(y.shape))
    (g,) = grad(y, x, weights)
    reads = np.zeros(shape)
    np.add.at(reads, index, weights.data)
    np.testing.assert_array_equal(g.data, reads)


def check_writing(shape, index):
    a = numbered(shape)
    t, x = minidl.tensor(a), minidl.tensor(a, requires_grad=True)
    place = np.shape(a[index])
    value = -numbered(place)
    expected = a.copy()
    expected[index] = value
    t[as_tensors(index)] = minidl.tensor(value)
    np.testing.assert_array_equal(t.data, expected)
    y = x * 1.0
    y[index] = -7.0
    assert y.shape == shape
    kept = np.ones(shape)
    kept[index] = 0
    (g,) = grad(y, x, minidl.ones(*shape, dtype=minidl.float64))
    np.testing.assert_array_equal(g.data, kept)


@given(basic())
def test_basic_indices(case):
    check_reading(*case)
    check_writing(*case)


@given(basic())
def test_basic_indices_are_views(case):
    shape, index = case
    t = minidl.tensor(numbered(shape))
    y = t[index]
    if y.numel():
        assert np.shares_memory(y.data, t.data)
        y.fill_(0)
        expected = numbered(shape)
        expected[index] = 0
        np.testing.assert_array_equal(t.data, expected)


@given(advanced())
def test_advanced_indices(case):
    check_reading(*case)
    check_writing(*case)


@given(advanced())
def test_advanced_indices_are_copies(case):
    shape, index = case
    if isinstance(index, tuple) and not any(isinstance(i, (list, np.ndarray)) for i in index):
        return
    t = minidl.tensor(numbered(shape))
    t[index].fill_(0)
    np.testing.assert_array_equal(t.data, numbered(shape))


def test_kinds_of_indices():
    x = minidl.arange(24).reshape(2, 3, 4)
    a = x.numpy()
    for index in (
        np.int64(1),
        True,
        None,
        (),
        range(2),
        [True, False],
        (0, ..., None),
        ([0, 1], slice(None), [1, 2]),
        -1,
    ):
        expected = a[list(index)] if isinstance(index, range) else a[index]
        assert x[index].tolist() == expected.tolist(), index
    i = minidl.tensor(1)
    assert x[i].tolist() == a[1].tolist() and x[i : i + 1, i].tolist() == a[1:2, 1].tolist()
    assert x[[minidl.tensor(0), minidl.tensor(1)]].shape == (2, 3, 4)
    assert x[x > 5].tolist() == list(range(6, 24))


@pytest.mark.parametrize(
    ("index", "error", "text"),
    [
        (2, IndexError, r"index: index 2 is out of bounds for axis 0 with size 2; the tensor has shape \(2, 3\)"),
        ((0, 0, 0), IndexError, r"too many indices.*\(2, 3\)"),
        ([0, 5], IndexError, r"out of bounds.*\(2, 3\)"),
        (minidl.tensor([1.0]), DTypeError, r"integers or bool, found float32; convert with \.long\(\)"),
        (1.0, TypeError, "1.0 is no index; use integers"),
        (np.array([True, False, True]), IndexError, r"boolean.*\(2, 3\)"),
        (([0, 1], [0, 1, 2]), IndexError, r"shape mismatch.*\(2, 3\)"),
    ],
)
def test_bad_indices(index, error, text):
    with pytest.raises(error, match=text):
        minidl.zeros(2, 3)[index]


def test_gather_and_scatter():
    x = minidl.arange(6.0).reshape(2, 3)
    index = minidl.tensor([[2, 0], [1, 1]])
    assert minidl.gather(x, 1, index).tolist() == [[2, 0], [4, 4]] == x.gather(-1, index).tolist()
    zeros = minidl.zeros(2, 3)
    assert zeros.scatter_add(1, index, minidl.ones(2, 2)).tolist() == [[1, 0, 1], [0, 2, 0]]
    zeros.scatter_add_(1, index, minidl.ones(2, 2))
    assert zeros.tolist() == [[1, 0, 1], [0, 2, 0]]
    assert x.index_select(1, minidl.tensor([2, 2])).tolist() == [[2, 2], [5, 5]]
    assert x.masked_select(x > 3).tolist() == [4, 5] and x.nonzero().shape == (5, 2)
    for bad, error, text in (
        (
            lambda: x.gather(1, minidl.tensor([0])),
            ShapeError,
            r"gather: index of shape \(1,\) does not fit .* \(2, 3\)",
        ),
        (lambda: x.gather(1, minidl.tensor([[3]])), IndexError, "gather: index 3 is out of range; there are 3"),
        (lambda: x.gather(1, minidl.tensor([[-1]])), IndexError, "gather: index -1"),
        (
            lambda: x.gather(1, minidl.tensor([[1.0]])),
            DTypeError,
            "gather: the index must hold integers, found float32",
        ),
        (lambda: x.gather(5, index), ShapeError, "gather"),
        (
            lambda: x.index_select(0, index),
            ShapeError,
            r"index_select: the index must be a vector, found shape \(2, 2\)",
        ),
        (lambda: x.masked_select(x), DTypeError, "masked_select: the mask must be bool, found float32"),
    ):
        with pytest.raises(error, match=text):
            bad()
