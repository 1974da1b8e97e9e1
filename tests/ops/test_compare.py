"""isclose, allclose, equal, and clamp between tensors."""
import numpy as np
import pytest

import minidl
from minidl.errors import DTypeError, ShapeError

NAN, INF = float("nan"), float("inf")
A = [1.0, 1.0, 0.0, INF, INF, -INF, NAN, 100.0]
B = [1.0, 1.0 + 2e-5, 1e-9, INF, -INF, 1.0, NAN, 100.0005]


@pytest.mark.parametrize("equal_nan", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_isclose_as_numpy(dtype, equal_nan):
    a, b = np.array(A, dtype), np.array(B, dtype)
    found = minidl.isclose(minidl.tensor(a), minidl.tensor(b), equal_nan=equal_nan)
    np.testing.assert_array_equal(found.numpy(), np.isclose(a.astype(float), b.astype(float), equal_nan=equal_nan))
    assert minidl.allclose(minidl.tensor(a), minidl.tensor(b), equal_nan=equal_nan) is False
    assert minidl.tensor(a[:1]).allclose(minidl.tensor(b[:1])) is True


@pytest.mark.parity
def test_isclose_as_torch(torch):
    for x, y in (([1, 5, 9], [1, 6, 9]), (A, B)):
        a, b = np.array(x), np.array(y)
        np.testing.assert_array_equal(
            minidl.isclose(minidl.tensor(a), minidl.tensor(b)).numpy(), torch.isclose(torch.tensor(a), torch.tensor(b)).numpy()
        )


def test_isclose_refuses_mixed_dtypes():
    with pytest.raises(DTypeError, match=r"isclose: found float32 and float64.*\.to\(dtype\)"):
        minidl.isclose(minidl.ones(2), minidl.ones(2, dtype=minidl.float64))


def test_equal():
    x = minidl.tensor([1.0, 2.0])
    assert x.equal(x.clone()) is True
    assert minidl.equal(x, minidl.tensor([1.0, 3.0])) is False
    assert minidl.equal(x, x.reshape(1, 2)) is False
    assert minidl.equal(minidl.tensor([NAN]), minidl.tensor([NAN])) is False
    with pytest.raises(TypeError, match="equal: expected a Tensor, found list"):
        minidl.equal(x, [1.0, 2.0])


def test_clamp_between_tensors_differentiates_to_whoever_won():
    x = minidl.tensor([0.0, 2.0, 4.0], requires_grad=True)
    low, high = minidl.tensor([1.0, 1.0, 1.0], requires_grad=True), minidl.tensor([3.0, 3.0, 3.0], requires_grad=True)
    y = x.clamp(low, high)
    assert y.tolist() == [1.0, 2.0, 3.0]
    y.sum().backward()
    assert (x.grad.tolist(), low.grad.tolist(), high.grad.tolist()) == ([0, 1, 0], [1, 0, 0], [0, 0, 1])
    assert x.detach().clamp(max=minidl.tensor(1.0)).tolist() == [0.0, 1.0, 1.0]
    assert minidl.tensor([5.0]).clamp(minidl.tensor(4.0), minidl.tensor(2.0)).tolist() == [2.0]      # as torch: max wins
    with pytest.raises(ShapeError, match="maximum"):
        x.clamp(minidl.ones(2))
