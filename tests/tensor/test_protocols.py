"""A tensor as a Python object: numbers, containers, text, copies, pickles, operators."""

import copy
import math
import operator
import pickle

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import DTypeError, GraphError, ShapeError

T = minidl.tensor


# ------------------------------------------------------------------------------------------------------------- attributes
def test_attributes():
    x = minidl.zeros(2, 3, 4, dtype=minidl.float64)
    assert x.shape == (2, 3, 4) == x.size() and x.size(-1) == 4 and x.size(0) == 2
    assert x.ndim == x.dim() == 3 and x.numel() == 24 and x.element_size() == x.itemsize == 8 and x.nbytes == 192
    assert (
        x.device == "cpu" and x.dtype == minidl.float64 and x.is_floating_point() and not x.long().is_floating_point()
    )
    assert x.stride() == (12, 4, 1) and x.is_contiguous() and not x.transpose(0, 2).is_contiguous()
    assert x.is_leaf and x.grad_fn is None and x.grad is None and not x.requires_grad
    with pytest.raises(IndexError, match=r"size: axis 3 is out of range .* \(2, 3, 4\)"):
        x.size(3)
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        x.foo


def test_requires_grad_on_and_off():
    x = minidl.ones(2)
    assert x.requires_grad_() is x and x.requires_grad
    x.requires_grad = False
    assert not x.requires_grad
    x.requires_grad = True
    y = x * 2
    assert not y.is_leaf and y.requires_grad_() is y
    with pytest.raises(GraphError, match=r"computed from others; use detach\(\)"):
        y.requires_grad_(False)
    d = y.detach()
    assert d.is_leaf and not d.requires_grad and d.data is y.data
    assert y.detach_() is y and not y.requires_grad


# ------------------------------------------------------------------------------------------------------------ as a number
def test_numbers():
    x = T(2.5)
    assert (
        x.item() == 2.5
        and float(x) == 2.5
        and int(x) == 2
        and bool(x)
        and math.floor(x) == 2
        and math.sqrt(T([[4.0]])) == 2
    )
    assert type(T(3).item()) is int and type(T(True).item()) is bool and type(x.item()) is float
    assert not T([[0.0]]) and T([[-1]]) and [10, 20, 30][T(1)] == 20 and list(range(T(3))) == [0, 1, 2]
    assert sum([T(1.0), T(2.0)]).item() == 3 and max(T([1, 3, 2])).item() == 3 and min(T(2), T(1)).item() == 1
    for bad, text in (
        (lambda: T([1, 2]).item(), r"item: needs a tensor of one element, found shape \(2,\)"),
        (lambda: float(T([1.0, 2.0])), "one element"),
        (lambda: bool(T([1, 2])), r"the truth of a tensor of shape \(2,\) is ambiguous; use \.any\(\) or \.all\(\)"),
        (lambda: bool(T([])), "ambiguous"),
    ):
        with pytest.raises(ShapeError, match=text):
            bad()
    with pytest.raises(TypeError, match="only integer tensors .* found float32"):
        [1, 2][T(1.0)]


# --------------------------------------------------------------------------------------------------------- as a container
def test_containers():
    x = T([[1, 2], [3, 4]])
    assert len(x) == 2 and [row.tolist() for row in x] == [[1, 2], [3, 4]] and x.tolist() == [[1, 2], [3, 4]]
    a, b = x
    assert b.tolist() == [3, 4] and a.data.base is not None
    assert 3 in x and 7 not in x and len(minidl.zeros(0, 3)) == 0 and list(minidl.zeros(0, 3)) == []
    with pytest.raises(TypeError, match=r"len\(\) of a 0-d tensor"):
        len(T(1))
    with pytest.raises(TypeError, match="iteration over a 0-d tensor"):
        list(T(1))


def test_identity_as_a_key():
    a, b = T([1, 2]), T([1, 2])
    assert {a: 1, b: 2}[a] == 1 and hash(a) != hash(b) and [a, b].index(a) == 0


def test_equality_with_what_is_no_number():
    x = T([1, 2])
    assert (x == None) is False and (x != None) is True and (x == "a") is False and (None == x) is False  # noqa: E711
    assert (x == [1, 3]).tolist() == [True, False]


# ------------------------------------------------------------------------------------------------------------------- text
REPRS = [
    (lambda: T(2.5), "tensor(2.5)"),
    (lambda: T(3), "tensor(3)"),
    (lambda: T([1.0, 2.0]), "tensor([1., 2.])"),
    (lambda: T([0.25, 123.456]), "tensor([  0.250, 123.456])"),
    (lambda: T([1e-3, 123.456]), "tensor([1.0000e-03, 1.2346e+02])"),
    (lambda: T([1 / 3], dtype=minidl.float64), "tensor([0.3333], dtype=float64)"),
    (lambda: T([[1, 2], [3, 4]]), "tensor([[1, 2],\n        [3, 4]])"),
    (lambda: T([True, False]), "tensor([ True, False])"),
    (lambda: T([1], dtype=minidl.int32), "tensor([1], dtype=int32)"),
    (lambda: T([float("nan"), float("inf")]), "tensor([nan, inf])"),
    (lambda: T([]), "tensor([])"),
    (lambda: minidl.zeros(0, 3), "tensor([], size=(0, 3))"),
    (lambda: minidl.zeros(2, 0, dtype=minidl.int64), "tensor([], size=(2, 0))"),
    (lambda: minidl.ones(2, requires_grad=True), "tensor([1., 1.], requires_grad=True)"),
    (lambda: minidl.ones(2, requires_grad=True) * 2, "tensor([2., 2.], grad_fn=<Mul>)"),
    (lambda: minidl.arange(2000), "tensor([   0,    1,    2, ..., 1997, 1998, 1999])"),
    (lambda: minidl.zeros(2, 1, 2), "tensor([[[0., 0.]],\n\n        [[0., 0.]]])"),
]


@pytest.mark.parametrize(("make", "expected"), REPRS, ids=[text[:30] for _, text in REPRS])
def test_repr(make, expected):
    assert repr(make()) == str(make()) == expected


def test_a_large_tensor_prints_at_once_and_short():
    assert len(repr(minidl.zeros(1000, 1000))) < 1000


def test_format():
    assert f"{T(2.5):.3f} {T([[7]]):04d} {T(2.5)} {T([2.5])}" == "2.500 0007 2.5 tensor([2.5])"
    with pytest.raises(TypeError, match=r"format: '\.2f' needs a tensor of one element, found shape \(2,\)"):
        f"{T([1.0, 2.0]):.2f}"


# ------------------------------------------------------------------------------------------------------------------ copies
def test_deepcopy():
    x = minidl.ones(2, requires_grad=True)
    (x * 2).sum().backward()
    y, z = copy.deepcopy([x, x])
    assert y is z and y.is_leaf and y.requires_grad and y.grad.tolist() == [2, 2]
    assert not np.shares_memory(x.data, y.data) and y.grad.data is not x.grad.data
    with pytest.raises(GraphError, match=r"only leaves can be copied .*use \.detach\(\)\.clone\(\)"):
        copy.deepcopy(x * 2)
    p = copy.deepcopy(nn.Parameter(minidl.ones(2)))
    assert type(p) is nn.Parameter and p.requires_grad
    assert copy.copy(x).data is x.data


def test_clone_keeps_the_graph():
    x = minidl.ones(2, requires_grad=True)
    c = x.clone()
    assert not np.shares_memory(c.data, x.data)
    (c * 3).sum().backward()
    assert x.grad.tolist() == [3, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: minidl.ones(2, 3, requires_grad=True),
        lambda: minidl.arange(6).reshape(2, 3).T,
        lambda: T(True),
        lambda: minidl.zeros(0, 2, dtype=minidl.float16),
        lambda: minidl.ones(3).expand(2, 3),
        lambda: nn.Parameter(minidl.ones(2)),
        lambda: minidl.ones(2, requires_grad=True) * 2,
    ],
)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(make, protocol):
    x = make()
    y = pickle.loads(pickle.dumps(x, protocol))
    assert type(y) is type(x) and y.dtype == x.dtype and y.shape == x.shape and y.tolist() == x.tolist()
    assert y.requires_grad == x.requires_grad and y.is_leaf
    if not y.requires_grad:
        y.zero_()


# --------------------------------------------------------------------------------------------------------------- operators
INTEGERS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "/": operator.truediv,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}


@pytest.mark.parametrize("symbol", INTEGERS)
def test_integer_operators(symbol):
    f = INTEGERS[symbol]
    a, b = np.array([7, -7, 5]), np.array([2, 3, -4])
    expected = f(a, b).tolist()
    for x, y in ((T(a), T(b)), (T(a), b), (a, T(b))):
        result = f(x, y)
        assert isinstance(result, minidl.Tensor)
        np.testing.assert_allclose(result.tolist(), expected, rtol=1e-6)  # true division is in float32
    np.testing.assert_allclose(f(T(a), 3).tolist(), f(a, 3).tolist(), rtol=1e-6)
    np.testing.assert_allclose(f(3, T(b)).tolist(), f(3, b).tolist(), rtol=1e-6)


FLOATS = {k: v for k, v in INTEGERS.items() if k not in "&|^"} | {"**": operator.pow}


@pytest.mark.parametrize("symbol", FLOATS)
def test_float_operators(symbol):
    f = FLOATS[symbol]
    a, b = np.array([7.5, 0.25, 5.0]), np.array([2.0, 3.5, 0.5])
    expected = f(a, b)
    for x, y in ((T(a), T(b)), (T(a), b), (a, T(b))):
        np.testing.assert_allclose(f(x, y).data, expected, rtol=1e-14)
    np.testing.assert_allclose(f(T(a), 2.5).data, f(a, 2.5), rtol=1e-14)
    np.testing.assert_allclose(f(2.5, T(b)).data, f(2.5, b), rtol=1e-14)


def test_unary_and_matrix_operators():
    x = T([1.0, -2.0])
    assert (-x).tolist() == [-1, 2] and abs(x).tolist() == [1, 2] and +x is x
    assert (~T([True, False])).tolist() == [False, True] and (~T([0, 5])).tolist() == [-1, -6]
    m = np.arange(4.0).reshape(2, 2)
    for a, b in ((T(m), T(m)), (T(m), m), (m, T(m))):
        assert (a @ b).tolist() == (m @ m).tolist()
    assert T([[1, 2]]).T.tolist() == [[1], [2]] and minidl.zeros(2, 3, 4).mT.shape == (2, 4, 3)


def test_operators_refuse_what_they_do_not_know():
    x = minidl.ones(2)
    for bad in (lambda: x + "a", lambda: x + None, lambda: None * x, lambda: x < "a", lambda: x + 1j, lambda: x << 1):
        with pytest.raises(TypeError):
            bad()
    for bad in (lambda: x & x, lambda: T([True]) - T([True]), lambda: -T([True]), lambda: ~x, lambda: T([2]) ** -1):
        with pytest.raises(DTypeError):
            bad()
    with pytest.raises(ShapeError, match=r"add: shapes \(2,\) and \(3,\) do not broadcast"):
        x + minidl.ones(3)
    with pytest.raises(ShapeError, match=r"eq: shapes \(2,\) and \(3,\) do not broadcast"):
        (x == minidl.ones(3)).all()
