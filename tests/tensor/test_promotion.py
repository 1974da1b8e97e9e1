"""Which dtype comes out: every pair of dtypes, as arrays with axes, 0-d tensors and Python numbers, as PyTorch has it."""

import operator

import numpy as np
import pytest

import minidl
from minidl.errors import DTypeError

NAMES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
NUMBERS = {"bool": True, "int": 2, "float": 1.5}


def name(dtype):
    return str(dtype).removeprefix("torch.")


def result(m, operation, a, b):
    try:
        return name(operation(a, b).dtype)
    except (RuntimeError, TypeError) as e:
        return type(e)


def make(m, dtype, axes):
    return m.ones((2,) * axes, dtype=getattr(m, dtype))


OPERATIONS = {
    "add": operator.add,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "lt": operator.lt,
    "eq": operator.eq,
}


@pytest.mark.parity
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("axes", [(1, 1), (1, 0), (0, 1), (0, 0)], ids=str)
def test_tensors(torch, operation, axes):
    f = OPERATIONS[operation]
    for a in NAMES:
        for b in NAMES:
            if a == b == "bool" and operation in ("floordiv", "mod"):
                continue  # not implemented in PyTorch; NumPy's int8 here
            theirs = result(torch, f, make(torch, a, axes[0]), make(torch, b, axes[1]))
            ours = result(minidl, f, make(minidl, a, axes[0]), make(minidl, b, axes[1]))
            if isinstance(theirs, str):
                assert ours == theirs, (operation, a, b)
            else:
                assert not isinstance(ours, str), (operation, a, b, ours, theirs)


@pytest.mark.parity
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("axes", [0, 1])
def test_python_numbers(torch, operation, axes):
    f = OPERATIONS[operation]
    for a in NAMES:
        for kind, number in NUMBERS.items():
            for reflected in (False, True):
                pair = [(make(m, a, axes), number) for m in (minidl, torch)]
                (ours, theirs) = (
                    result(m, f, *(p[::-1] if reflected else p)) for m, p in zip((minidl, torch), pair, strict=True)
                )
                if isinstance(theirs, str):
                    assert ours == theirs, (operation, a, kind, reflected)


@pytest.mark.parity
def test_numpy_numbers_are_as_weak_as_pythons(torch):
    for a in NAMES:
        for number in (np.float64(1.5), np.float32(1.5), np.int64(2), np.int8(2), np.bool_(True)):
            ours, theirs = make(minidl, a, 1) * number, make(torch, a, 1) * number.item()
            assert name(ours.dtype) == name(theirs.dtype), (a, type(number))
            assert (number * make(minidl, a, 1)).dtype == ours.dtype


@pytest.mark.parity
def test_in_place(torch):
    for a in NAMES:
        for b in NAMES:
            for axes in (0, 1):
                ours = result(minidl, operator.iadd, make(minidl, a, 1), make(minidl, b, axes))
                theirs = result(torch, operator.iadd, make(torch, a, 1), make(torch, b, axes))
                assert isinstance(ours, str) == isinstance(theirs, str) and (ours == theirs or ours is DTypeError), (
                    a,
                    b,
                    axes,
                )


def test_a_few_without_pytorch():
    f32, f64, i64 = (minidl.ones(2, dtype=getattr(minidl, d)) for d in ("float32", "float64", "int64"))
    assert (f32 + f64).dtype == minidl.float64 and (f32 + i64).dtype == minidl.float32
    assert (f32 * minidl.tensor(2.0, dtype=minidl.float64)).dtype == minidl.float32
    assert (i64 * 1.5).dtype == minidl.float32 and (i64 / 2).dtype == minidl.float32 and (i64 * 2).dtype == minidl.int64
    assert (i64 > 0.5).dtype == minidl.bool
    assert (minidl.tensor([True]) + 1).dtype == minidl.int64


def test_numbers_that_do_not_fit():
    with pytest.raises(DTypeError, match="add: 300 does not fit uint8"):
        minidl.ones(2, dtype=minidl.uint8) + 300
    with pytest.raises(DTypeError, match="does not fit float32"):
        minidl.ones(2) * 10**400
    assert (minidl.ones(1) * 1e300).item() == float("inf")


def test_signed_zero_and_nan_numbers():
    x = minidl.ones(2)
    assert np.signbit((x * -0.0).data).all() and not np.signbit((x * 0.0).data).any()
    assert np.isnan((x * float("nan")).data).all()


def test_gradients_come_back_in_each_dtype():
    x, w = minidl.ones(2, requires_grad=True), minidl.ones(2, dtype=minidl.float64, requires_grad=True)
    h = minidl.ones(2, dtype=minidl.float16, requires_grad=True)
    (x * w + h * 2).sum().backward()
    assert [t.grad.dtype.name for t in (x, w, h)] == ["float32", "float64", "float16"]
