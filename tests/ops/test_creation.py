"""Making tensors: shapes, dtypes and values as PyTorch; random ones by their statistics."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl.errors import DTypeError, MinidlError, ShapeError

X = np.array([[1.5, -2.0, 3.0]], "float32")
CALLS = {
    "zeros": lambda lib: lib.zeros(2, 3),
    "zeros((2, 0))": lambda lib: lib.zeros((2, 0)),
    "zeros()": lambda lib: lib.zeros(()),
    "zeros float64": lambda lib: lib.zeros(2, dtype=lib.float64),
    "ones": lambda lib: lib.ones([2, 3]),
    "full": lambda lib: lib.full((2, 2), 1.5),
    "full of an integer": lambda lib: lib.full((2,), 3),
    "full of a bool": lambda lib: lib.full((2,), True),
    "arange": lambda lib: lib.arange(5),
    "arange of floats": lambda lib: lib.arange(1.0, 2.0, 0.25),
    "arange backwards": lambda lib: lib.arange(5, 0, -2),
    "linspace": lambda lib: lib.linspace(0, 1, 5),
    "linspace of one": lambda lib: lib.linspace(2, 3, 1),
    "eye": lambda lib: lib.eye(3),
    "eye(2, 3)": lambda lib: lib.eye(2, 3),
    "tensor of floats": lambda lib: lib.tensor([[1.0, 2.0]]),
    "tensor of integers": lambda lib: lib.tensor([1, 2]),
    "tensor of bools": lambda lib: lib.tensor([True, False]),
    "tensor of a mixture": lambda lib: lib.tensor([1, 2.5]),
    "tensor of a number": lambda lib: lib.tensor(2.5),
    "tensor of nothing": lambda lib: lib.tensor([]),
    "tensor of an array": lambda lib: lib.tensor(X.astype("float64")),
    "tensor with dtype": lambda lib: lib.tensor([1, 2], dtype=lib.float16),
    "from_numpy": lambda lib: lib.from_numpy(X.copy()),
    "as_tensor": lambda lib: lib.as_tensor(X.copy()),
    "zeros_like": lambda lib: lib.zeros_like(lib.tensor(X)),
    "ones_like": lambda lib: lib.ones_like(lib.tensor([1, 2])),
    "full_like": lambda lib: lib.full_like(lib.tensor(X), 2),
    "from_dlpack": lambda lib: lib.from_dlpack(X.copy()),
}
SHAPES = {
    "empty": lambda lib: lib.empty(2, 3),
    "empty_like": lambda lib: lib.empty_like(lib.tensor([1, 2])),
    "rand": lambda lib: lib.rand(2, 3),
    "rand_like": lambda lib: lib.rand_like(lib.tensor(X.astype("float64"))),
    "randn": lambda lib: lib.randn((2, 3)),
    "randn_like": lambda lib: lib.randn_like(lib.tensor(X)),
    "randint": lambda lib: lib.randint(0, 5, (2, 3)),
    "randperm": lambda lib: lib.randperm(5),
    "bernoulli": lambda lib: lib.bernoulli(lib.tensor([0.0, 1.0, 0.5])),
}
BAD = {
    "zeros": lambda lib: lib.zeros(-1),
    "arange": lambda lib: lib.arange(0, 5, 0),
    "arange away": lambda lib: lib.arange(0, 5, -1),
    "linspace": lambda lib: lib.linspace(0, 1, -1),
    "eye": lambda lib: lib.eye(-1),
    "tensor": lambda lib: lib.tensor([[1], [2, 3]]),
    "tensor of text": lambda lib: lib.tensor("abc"),
    "gradient of integers": lambda lib: lib.tensor([1, 2], requires_grad=True),
    "randint": lambda lib: lib.randint(5, 5, (2,)),
    "randperm": lambda lib: lib.randperm(-1),
    "bernoulli": lambda lib: lib.bernoulli(lib.tensor([1.5])),
    "from_numpy": lambda lib: lib.from_numpy([1.0]),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", [*CALLS, *SHAPES])
def test_as_in_pytorch(name, torch):
    call = (CALLS | SHAPES)[name]
    ours, theirs = call(minidl), call(torch)
    assert ours.shape == tuple(theirs.shape) and str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    if name in CALLS:
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=1e-6
        )  # linspace rounds differently: one unit of float32


@pytest.mark.parity
@pytest.mark.parametrize("name", BAD)
def test_refused_as_in_pytorch(name, torch):
    with pytest.raises((MinidlError, ValueError, TypeError)) as caught:
        BAD[name](minidl)
    assert "\n" not in str(caught.value)
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        BAD[name](torch)


def test_what_shares_memory():
    x = X.copy()
    assert np.shares_memory(minidl.from_numpy(x).numpy(), x) and np.shares_memory(minidl.as_tensor(x).numpy(), x)
    assert np.shares_memory(minidl.from_dlpack(x).numpy(), x)
    assert not np.shares_memory(minidl.tensor(x).numpy(), x)
    t = minidl.tensor(x)
    assert minidl.as_tensor(t) is t and minidl.tensor(t) is not t


def test_distributions():
    """Means of 10,000 draws are within five standard errors; the default generator is seeded before every test."""
    n = 10_000
    assert abs(minidl.rand(n).mean().item() - 0.5) < 5 * 12**-0.5 / n**0.5
    assert (
        abs(minidl.randn(n).mean().item()) < 5 / n**0.5 and abs(minidl.randn(n).std().item() - 1) < 5 / (2 * n) ** 0.5
    )
    assert abs(minidl.bernoulli(minidl.full((n,), 0.3)).mean().item() - 0.3) < 5 * 0.46 / n**0.5
    assert set(minidl.randint(2, 5, (n,)).tolist()) == {2, 3, 4}
    assert sorted(minidl.randperm(50).tolist()) == list(range(50))


def test_the_same_seed_gives_the_same_numbers():
    state = minidl.get_rng_state()
    first = minidl.randn(5).tolist()
    minidl.set_rng_state(state)
    assert minidl.randn(5).tolist() == first != minidl.randn(5).tolist()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: minidl.zeros(2, -1), ShapeError, r"zeros: sizes must be at least 0, found \(2, -1\)"),
        (lambda: minidl.tensor([[1], [2, 3]]), ShapeError, "not of equal length"),
        (lambda: minidl.tensor([2**70]), DTypeError, "tensor"),
        (lambda: minidl.ones(2, dtype="int64", requires_grad=True), DTypeError, "only floating-point"),
        (lambda: minidl.arange(0, 1, 0), ValueError, "arange: a step of 0"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
