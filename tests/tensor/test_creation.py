"""Making tensors: values, dtypes, shapes, whose memory it is, and the errors."""

import numpy as np
import pytest

import minidl
from minidl.errors import DeviceError, DTypeError, ShapeError


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, "float32", ()),
        (3, "int64", ()),
        (True, "bool", ()),
        ([1, 2], "int64", (2,)),
        ([1, 2.5], "float32", (2,)),
        ([True, False], "bool", (2,)),
        ([True, 2], "int64", (2,)),
        ([], "float32", (0,)),
        ([[], []], "float32", (2, 0)),
        (((1, 2), (3, 4)), "int64", (2, 2)),
        (range(3), "int64", (3,)),
        (np.ones(2), "float64", (2,)),
        (np.float64(2), "float64", ()),
        (np.int8(2), "int8", ()),
        (np.ones((2, 1), np.float16), "float16", (2, 1)),
        (np.arange(3, dtype=">i4"), "int32", (3,)),
    ],
    ids=repr,
)
def test_tensor(data, dtype, shape):
    t = minidl.tensor(data)
    assert t.dtype == dtype and t.shape == shape and t.dtype.isnative
    np.testing.assert_array_equal(t.data, np.array(data))
    assert t.is_leaf and not t.requires_grad and t.device == "cpu"


def test_tensor_of_tensors():
    parts = [minidl.tensor(1.0), minidl.tensor(2.0)]
    assert minidl.tensor(parts).tolist() == [1, 2] and minidl.tensor([[minidl.tensor(1), 2], [3, 4]]).tolist() == [
        [1, 2],
        [3, 4],
    ]
    x = minidl.ones(2, requires_grad=True)
    copy = minidl.tensor(x)
    assert not copy.requires_grad and not np.shares_memory(copy.data, x.data)
    assert minidl.tensor(minidl.ones(2, dtype=minidl.float64)).dtype == minidl.float64


def test_tensor_copies_and_from_numpy_shares():
    a = np.zeros(3)
    copied, shared, viewed = minidl.tensor(a), minidl.from_numpy(a), minidl.as_tensor(a)
    a[0] = 1
    assert copied.tolist() == [0, 0, 0] and shared.tolist() == viewed.tolist() == [1, 0, 0]
    shared.add_(1)
    assert a.tolist() == [2, 1, 1]
    assert minidl.as_tensor(shared) is shared
    assert minidl.as_tensor(a, dtype=minidl.float32).dtype == minidl.float32
    assert minidl.as_tensor([1, 2]).tolist() == [1, 2]
    for odd in (np.matrix([[1, 2]]), np.ma.array([1, 2])):
        assert type(minidl.as_tensor(odd).data) is np.ndarray


def test_requires_grad():
    assert minidl.tensor([1.0], requires_grad=True).requires_grad
    for make in (minidl.zeros, minidl.ones, minidl.empty, minidl.rand, minidl.randn):
        assert make(2, requires_grad=True).requires_grad and not make(2).requires_grad
    assert minidl.arange(3.0, requires_grad=True).requires_grad and minidl.eye(2, requires_grad=True).requires_grad
    assert (
        minidl.linspace(0, 1, 3, requires_grad=True).requires_grad
        and minidl.full((2,), 1.0, requires_grad=True).requires_grad
    )
    for make in (lambda: minidl.tensor([1], requires_grad=True), lambda: minidl.arange(3, requires_grad=True)):
        with pytest.raises(DTypeError, match="only floating-point tensors have gradients, found int64.*float32"):
            make()
    with pytest.raises(DTypeError, match=r"requires_grad_: found bool; .*\.float\(\)"):
        minidl.tensor([True]).requires_grad_()


SHAPES = [
    ((2, 3), (2, 3)),
    (([2, 3],), (2, 3)),
    (((2, 3),), (2, 3)),
    ((), ()),
    (((),), ()),
    ((4,), (4,)),
    ((np.int64(2), 0), (2, 0)),
]


@pytest.mark.parametrize(("args", "shape"), SHAPES, ids=repr)
@pytest.mark.parametrize("make", [minidl.zeros, minidl.ones, minidl.empty, minidl.rand, minidl.randn])
def test_shapes(make, args, shape):
    t = make(*args)
    assert t.shape == shape and t.dtype == minidl.float32
    assert make(*args, dtype=minidl.float64).dtype == minidl.float64


def test_values():
    assert minidl.zeros(2).tolist() == [0, 0] and minidl.ones(2).tolist() == [1, 1]
    assert minidl.full((2,), 7).tolist() == [7, 7] and minidl.full((2,), 7).dtype == minidl.int64
    assert minidl.full((), 1.5).dtype == minidl.float32 and minidl.full((1,), True).dtype == minidl.bool
    assert minidl.arange(3).tolist() == [0, 1, 2] and minidl.arange(2, 4).tolist() == [2, 3]
    assert minidl.arange(1, 0, -0.25).tolist() == [1, 0.75, 0.5, 0.25] and minidl.arange(0).shape == (0,)
    assert minidl.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1] and minidl.linspace(2, 3, 1).tolist() == [2]
    assert minidl.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]] and minidl.eye(1, dtype=minidl.int64).tolist() == [[1]]


def test_like():
    x = minidl.ones(2, 3, dtype=minidl.float64, requires_grad=True)
    for make in (minidl.zeros_like, minidl.ones_like, minidl.empty_like, minidl.rand_like, minidl.randn_like):
        y = make(x)
        assert y.shape == (2, 3) and y.dtype == minidl.float64 and not y.requires_grad
    assert x.new_zeros(2).tolist() == [0, 0] and x.new_ones((1, 2)).dtype == minidl.float64
    assert x.new_full((2,), 3.0).tolist() == [3, 3] and x.new_zeros(2, dtype=minidl.int64).dtype == minidl.int64
    assert minidl.full_like(x, 3).tolist() == [[3] * 3] * 2
    assert minidl.zeros_like(x, dtype=minidl.int64).dtype == minidl.int64


def test_random():
    minidl.manual_seed(7)
    first = [minidl.rand(50), minidl.randn(50), minidl.randint(0, 9, (50,)), minidl.randperm(50)]
    minidl.manual_seed(7)
    for a, b in zip(
        first, [minidl.rand(50), minidl.randn(50), minidl.randint(9, (50,)), minidl.randperm(50)], strict=True
    ):
        assert np.array_equal(a.data, b.data)
    state = minidl.get_rng_state()
    a = minidl.rand(5)
    minidl.set_rng_state(state)
    assert np.array_equal(a.data, minidl.rand(5).data)
    assert sorted(first[3].tolist()) == list(range(50)) and set(first[2].tolist()) <= set(range(9))
    mine = minidl.Generator(3)
    assert np.array_equal(minidl.rand(4, generator=mine).data, minidl.rand(4, generator=minidl.Generator(3)).data)
    assert minidl.randint(0, 5, (2,), dtype=minidl.int32).dtype == minidl.int32
    coins = minidl.full((1000,), 0.25).bernoulli()
    assert set(coins.tolist()) == {0, 1} and 200 < coins.sum().item() < 300


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: minidl.tensor([[1, 2], [3]]), ShapeError, "nested lists are not of equal length"),
        (lambda: minidl.tensor("abc"), DTypeError, "expected numbers, found .* from str"),
        (lambda: minidl.tensor(None), DTypeError, "found object from NoneType"),
        (lambda: minidl.tensor(1j), DTypeError, "found complex128 from complex"),
        (lambda: minidl.tensor(2**70), DTypeError, "tensor: "),
        (lambda: minidl.tensor(np.array([1, None])), DTypeError, "found object from ndarray"),
        (lambda: minidl.tensor(300, dtype=minidl.uint8), DTypeError, "300"),
        (lambda: minidl.zeros(-1), ShapeError, r"zeros: sizes must be at least 0, found \(-1,\)"),
        (lambda: minidl.ones(2.5), ShapeError, r"ones: sizes must be integers, found \(2.5,\)"),
        (lambda: minidl.rand("a"), ShapeError, "rand: sizes must be integers"),
        (lambda: minidl.zeros(2, dtype="foo"), DTypeError, "zeros: 'foo' is no dtype of minidl.*minidl.float32"),
        (lambda: minidl.zeros(2, dtype=np.complex64), DTypeError, "complex64.* is no dtype of minidl"),
        (lambda: minidl.tensor([1], dtype=str), DTypeError, "tensor: .*str.* is no dtype"),
        (lambda: minidl.zeros(2, device="gpu"), DeviceError, "device 'gpu': not known; use 'cpu', 'cuda' or 'cuda:0'"),
        (lambda: minidl.arange(0, 5, -1), ValueError, "a step of -1 does not lead from 0 to 5"),
        (lambda: minidl.arange(0, 5, 0), ValueError, "a step of 0"),
        (lambda: minidl.linspace(0, 1, -1), ShapeError, "linspace: sizes must be at least 0"),
        (lambda: minidl.eye(-1), ShapeError, "eye: sizes must be at least 0"),
        (lambda: minidl.from_numpy([1]), DTypeError, "expected a NumPy array of numbers, found list"),
        (lambda: minidl.from_numpy(np.array(["a"])), DTypeError, "expected a NumPy array of numbers, found <U1"),
        (lambda: minidl.from_numpy(np.ones(2, ">f4")), DTypeError, "byte order.*minidl.tensor"),
        (lambda: minidl.from_dlpack([1]), TypeError, "list does not speak DLPack"),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_dtypes_by_any_name():
    for dtype in ("float64", np.float64, np.dtype("float64"), minidl.float64, minidl.double, float):
        assert minidl.zeros(2, dtype=dtype).dtype == minidl.float64
    assert minidl.half == np.float16 and minidl.long == np.int64 and minidl.float == np.float32
