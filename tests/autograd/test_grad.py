"""grad(): inputs, outputs, pruning, errors; and derivatives of derivatives."""

import numpy as np
import pytest

import minidl
from minidl.autograd import Function, backward, grad
from minidl.errors import DTypeError, GraphError, ShapeError


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


# ---------------------------------------------------------------------------------------------------------------- grad()
def test_grad_leaves_dot_grad_alone():
    x = leaf(3)
    (g,) = grad((x * x).sum(), x)
    assert x.grad is None and not g.requires_grad and np.array_equal(g.data, 2 * x.data)


def test_grad_of_leaves_and_intermediates():
    x = leaf(3)
    h = x * 2.0
    y = (h * h).sum()
    gh, gx, gy = grad(y, [h, x, y])
    np.testing.assert_array_equal(gh.data, 4 * x.data)
    np.testing.assert_array_equal(gx.data, 8 * x.data)
    assert gy.item() == 1


def test_grad_of_one_input_twice_and_of_itself():
    x = leaf(2)
    a, b = grad(x.sum(), [x, x])
    assert a.tolist() == b.tolist() == [1, 1]
    assert grad(x, x, minidl.ones(2, dtype=minidl.float64))[0].tolist() == [1, 1]


def test_grad_prunes():
    """Operations that do not lead to the inputs are not run backward."""

    class Never(Function):
        def forward(self, F, x):
            return F.mul(x, x)

        def backward(self, F, gy):
            raise AssertionError("ran, though nobody asked")

    x, w = leaf(3), leaf(3)
    y = (Never.apply(x) * w).sum()
    grad(y, w)


def test_grad_stops_at_an_intermediate():
    class Never(Function):
        def forward(self, F, x):
            return F.mul(x, x)

        def backward(self, F, gy):
            raise AssertionError("ran, though nobody asked")

    h = Never.apply(leaf(3))
    grad((h * h).sum(), h)


def test_grad_of_something_unused():
    x, w = leaf(3), leaf(3)
    y = (x * 2.0).sum()
    with pytest.raises(GraphError, match=r"input 1 of shape \(3,\) was not used.*allow_unused=True"):
        grad(y, [x, w], retain_graph=True)
    gx, gw = grad(y, [x, w], allow_unused=True)
    assert gw is None and gx.tolist() == [2, 2, 2]


def test_grad_outputs():
    x = leaf(3)
    y = x * x
    v = minidl.tensor([1.0, 0.0, 2.0], dtype=minidl.float64)
    (g,) = grad(y, x, v, retain_graph=True)
    np.testing.assert_array_equal(g.data, 2 * x.data * v.data)
    with pytest.raises(GraphError, match=r"shape \(3,\) needs an explicit gradient"):
        grad(y, x)
    with pytest.raises(ShapeError, match=r"gradient has shape \(2,\), the tensor \(3,\)"):
        grad(y, x, minidl.ones(2, dtype=minidl.float64))
    with pytest.raises(DTypeError, match="gradient is float32, the tensor float64"):
        grad(y, x, minidl.ones(3))
    with pytest.raises(TypeError, match="the gradient must be a Tensor or a list of Tensors, found ndarray"):
        grad(y, x, np.ones(3))
    with pytest.raises(GraphError, match="2 outputs but 1 gradients"):
        grad([y, y], x, [v])


def test_errors_of_backward_and_grad():
    x = leaf(3)
    with pytest.raises(GraphError, match=r"shape \(3,\) needs an explicit gradient.*\.sum\(\)"):
        (x * 2.0).backward()
    with pytest.raises(GraphError, match="requires_grad_.*no_grad.*detach"):
        minidl.ones(3).sum().backward()
    with pytest.raises(GraphError, match="input of shape .* needs no gradient"):
        grad(x.sum(), minidl.ones(3))
    with pytest.raises(TypeError, match="inputs must be a Tensor or a list of Tensors, found ndarray"):
        grad(x.sum(), np.ones(3))
    with pytest.raises(TypeError, match="expected a Tensor, found float"):
        grad([1.0], x)


def test_backward_into_some_inputs():
    x, w = leaf(3), leaf(3)
    y = (x * w).sum()
    y.backward(inputs=[x], retain_graph=True)
    assert w.grad is None and np.array_equal(x.grad.data, w.data)
    y.backward(inputs=w)
    assert np.array_equal(w.grad.data, x.data) and np.array_equal(x.grad.data, w.data)
    with pytest.raises(GraphError, match="inputs must be leaves"):
        y.backward(inputs=[x * 2.0])
    with pytest.raises(GraphError, match="inputs is empty"):
        y.backward(inputs=[])


# ------------------------------------------------------------------------------------------------------ higher derivatives
def test_third_derivative():
    x = leaf(3)
    y = (x**5).sum()
    orders = [5 * x.data**4, 20 * x.data**3, 60 * x.data**2]
    for expected in orders:
        (g,) = grad(y, x, create_graph=True)
        np.testing.assert_allclose(g.data, expected, rtol=1e-13)
        y = g.sum()


def test_a_gradient_penalty_reaches_the_parameters():
    w, x = leaf(3, 3), leaf(2, 3)
    y = (x @ w).tanh().sum()
    (g,) = grad(y, x, create_graph=True)
    (g * g).sum().backward()
    assert w.grad is not None and w.grad.shape == (3, 3) and np.abs(w.grad.data).max() > 0


def test_backward_with_create_graph():
    x = leaf(3)
    (x**3).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    (h,) = grad(x.grad.sum(), x)
    np.testing.assert_allclose(h.data, 6 * x.data, rtol=1e-14)
    x.grad = None  # a cycle through .grad, which the user breaks


def test_recorded_and_plain_passes_give_the_same_bits():
    x, w = leaf(4, 3), leaf(3, 3)
    y = ((x @ w).tanh() * (x.exp() / (w * w + 1.0).sum())).sum()
    plain = grad(y, [x, w], retain_graph=True)
    recorded = grad(y, [x, w], create_graph=True)
    for a, b in zip(plain, recorded, strict=True):
        assert np.array_equal(a.data, b.data) and not a.requires_grad and b.requires_grad


def test_a_replaced_array_is_named():
    x = leaf(3)
    x.data = np.ones(4)
    with pytest.raises(ShapeError, match=r"gradient of shape \(4,\) arrived at a leaf of shape \(3,\)"):
        (x * 2.0).sum().backward()


def test_lists_of_something_else():
    x = leaf(3)
    with pytest.raises(TypeError, match="backward: the gradient must be a Tensor, found float"):
        backward([x.sum()], [3.0])
    with pytest.raises(TypeError, match="grad: expected a Tensor, found float"):
        grad(x.sum(), [1.0])
    with pytest.raises(TypeError, match="outputs must be a Tensor or a list of Tensors, found int"):
        backward(3)
