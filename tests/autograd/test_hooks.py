"""Hooks on leaves and computed tensors, and retain_grad."""

import numpy as np
import pytest

import minidl
from minidl.autograd import grad
from minidl.errors import GraphError, ShapeError


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


def test_a_hook_sees_the_whole_gradient_once():
    x = leaf(3)
    y = x * 2.0
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    x.register_hook(lambda g: seen.append(g.tolist()))
    (y * 3.0 + y).sum().backward()
    assert seen == [[4, 4, 4], [8, 8, 8]]


def test_hooks_replace_and_chain_in_order():
    x = leaf(3)
    y = x * 2.0
    y.register_hook(lambda g: g * 10.0)
    y.register_hook(lambda g: g + 1.0)
    x.register_hook(lambda g: -g)
    y.sum().backward()
    assert x.grad.tolist() == [-22, -22, -22]


def test_hooks_in_grad():
    x = leaf(3)
    y = x * 2.0
    y.register_hook(lambda g: g * 10.0)
    x.register_hook(lambda g: g + 1.0)
    gy, gx = grad(y.sum(), [y, x])
    assert gy.tolist() == [10, 10, 10] and gx.tolist() == [21, 21, 21]


def test_hooks_are_part_of_a_recorded_pass():
    x = leaf(3)
    x.register_hook(lambda g: g * g)
    (g,) = grad((x * x).sum(), x, create_graph=True)
    (h,) = grad(g.sum(), x.detach().requires_grad_(), allow_unused=True)
    assert h is None
    np.testing.assert_allclose(g.data, 4 * x.data**2, rtol=1e-14)
    y = leaf(2)
    z = y * 1.0
    z.register_hook(lambda g: g * z)
    (g,) = grad((z * z).sum(), y, create_graph=True)  # 2 y * y
    (h,) = grad(g.sum(), y)  # z is reached again, with a gradient of 4 y, and its hook is called again
    np.testing.assert_allclose(h.data, 4 * y.data**2, rtol=1e-14)


def test_removing_hooks():
    x = leaf(3)
    calls = []

    def hook(g):
        calls.append(1)

    first, second = x.register_hook(hook), x.register_hook(hook)
    first.remove()
    first.remove()  # the second call must not take the other one away
    x.sum().backward()
    assert calls == [1]
    second.remove()
    x.sum().backward()
    assert calls == [1]


def test_a_hook_that_removes_itself():
    x = leaf(3)
    handle = x.register_hook(lambda g: handle.remove())
    x.register_hook(lambda g: g * 2.0)
    x.sum().backward()
    x.sum().backward()
    assert x.grad.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("result", "error", "text"),
    [
        (3.0, TypeError, "Mul: a hook must return a Tensor or None, found float"),
        (minidl.ones(2, dtype=minidl.float64), ShapeError, r"returned float64 of shape \(2,\).*shape \(3,\)"),
        (minidl.ones(3), ShapeError, "returned float32 .* for a gradient of float64"),
    ],
)
def test_what_a_hook_returns_is_checked(result, error, text):
    x = leaf(3)
    y = x * 2.0
    y.register_hook(lambda g: result)
    with pytest.raises(error, match=text):
        y.sum().backward()


def test_hooks_need_a_gradient_to_come():
    with pytest.raises(GraphError, match="register_hook.*requires_grad_"):
        minidl.ones(3).register_hook(print)
    with pytest.raises(GraphError, match="retain_grad.*requires_grad_"):
        minidl.ones(3).retain_grad()


def test_retain_grad():
    x = leaf(3)
    y = x * 2.0
    assert y.grad is None
    y.retain_grad()
    y.retain_grad()
    x.retain_grad()  # nothing to do
    (y * 3.0).sum().backward()
    assert y.grad.tolist() == [3, 3, 3] and x.grad.tolist() == [6, 6, 6]


def test_retained_gradients_add_up_and_can_be_cleared():
    x = leaf(3)
    y = x * 2.0
    y.retain_grad()
    z = y.sum()
    z.backward(retain_graph=True)
    z.backward(retain_graph=True)
    assert y.grad.tolist() == [2, 2, 2]
    y.grad = None
    z.backward()
    assert y.grad.tolist() == [1, 1, 1]


def test_retain_grad_keeps_what_later_hooks_made():
    x = leaf(3)
    y = x * 2.0
    y.retain_grad()
    y.register_hook(lambda g: g * 10.0)
    y.sum().backward()
    assert y.grad.tolist() == [10, 10, 10]


def test_retained_gradients_share_no_memory():
    x = leaf(3)
    y = x + 1.0
    z = y + 1.0
    y.retain_grad()
    z.retain_grad()
    z.sum().backward()
    y.grad.mul_(7.0)
    assert z.grad.tolist() == [1, 1, 1] and x.grad.tolist() == [1, 1, 1]


def test_retain_grad_follows_an_in_place_change():
    x = leaf(3)
    y = x * 2.0
    y.retain_grad()
    y.mul_(5.0)
    (y * 3.0).sum().backward()
    assert y.grad.tolist() == [3, 3, 3] and x.grad.tolist() == [30, 30, 30]


def test_a_hook_stays_with_the_value_it_was_put_on():
    x = leaf(3)
    y = x * 2.0
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.mul_(5.0)
    y.sum().backward()
    assert seen == [[5, 5, 5]]
