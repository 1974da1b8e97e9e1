"""What the engine frees and what it keeps: second passes, reference cycles, saved arrays."""

import gc
import weakref

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.autograd import grad, no_grad
from minidl.errors import GraphError


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


def test_second_backward_says_what_to_do():
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GraphError, match="Sum: backward a second time .* retain_graph=True .* compute the loss again"):
        y.backward()
    with pytest.raises(GraphError, match="retain_graph=True"):
        grad(y, x)


def test_retain_graph():
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert np.array_equal(x.grad.data, 4 * x.data)
    with pytest.raises(GraphError, match="retain_graph"):
        y.backward()


def test_a_freed_part_is_named_when_another_root_reaches_it():
    x = leaf(3)
    h = x * x
    h.sum().backward()
    with pytest.raises(GraphError, match="Mul: backward a second time"):
        (h * 2.0).sum().backward()


def test_grad_stops_at_a_freed_tensor_that_is_asked_for():
    x = leaf(3)
    h = x * x
    h.sum().backward()
    assert grad((h * 3.0).sum(), h)[0].tolist() == [3, 3, 3]


def test_grad_frees_what_it_walked_and_nothing_else():
    x, w = leaf(3), leaf(3)
    a, b = x * x, w * w
    y = (a + b).sum()
    grad(y, x)
    with pytest.raises(GraphError):
        y.backward()
    b.sum().backward()  # the branch that did not lead to x is whole
    assert np.array_equal(w.grad.data, 2 * w.data)


def dies(make):
    """Whether what `make()` returns weak references to is gone when it returns, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        return [r() is None for r in make()]
    finally:
        gc.enable()


def refs(*tensors):
    return [weakref.ref(o) for t in tensors for o in (t, t.data, t.edge)]


def test_no_cycles_after_backward():
    def make():
        x = leaf(4)
        y = x.exp()
        z = (y * x).relu()
        w = (z * y).sum()
        found = refs(y, z, w)
        w.backward()
        return found

    assert all(dies(make))


def test_no_cycles_in_a_graph_never_run():
    def make():
        x = leaf(4)
        y = x.exp() * x
        return refs(y) + [weakref.ref(a) for a in y.edge.saved]

    assert all(dies(make))


def test_no_cycles_with_create_graph_through_grad():
    def make():
        x = leaf(4)
        y = x.exp()
        (g,) = grad((y * y).sum(), x, create_graph=True)
        (h,) = grad(g.sum(), x, create_graph=True)
        return refs(y, g, h)

    assert all(dies(make))


def test_no_cycles_with_views_hooks_and_in_place_writes():
    def make():
        x = leaf(4)
        y = x * 2.0
        v = y.reshape(2, 2)[0]
        v.mul_(x[:2])
        y.register_hook(lambda g: g * 2.0)
        y.retain_grad()
        (y.sum() + v.sum()).backward()
        return refs(y, v)

    assert all(dies(make))


def test_no_cycles_through_a_whole_net():
    def make():
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3))
        y = net(minidl.randn(2, 1, 6, 6))
        loss = nn.functional.cross_entropy(y, minidl.tensor([0, 2]))
        found = refs(y, loss)
        loss.backward()
        return found

    assert all(dies(make))


def test_only_what_backward_asked_for_is_kept():
    x = leaf(4)
    a = x + x
    dead = weakref.ref(a.data)
    b = a.relu()  # keeps its output alone
    del a
    assert dead() is None
    kept = weakref.ref(b.data)
    y = b.sum()
    del b
    assert kept() is not None
    y.backward()
    assert kept() is None


def test_arrays_are_freed_as_the_pass_goes():
    x = leaf(3)
    h = x.exp()
    y = (h * h).sum()
    kept = weakref.ref(h.data)
    seen = []
    x.register_hook(lambda g: seen.append(kept() is None))
    del h
    y.backward()
    assert seen == [True]


def test_retained_tensors_are_not_needed_for_a_saved_array_under_no_grad():
    x = leaf(4)
    with no_grad():
        y = x.exp()
        dead = weakref.ref(y.data)
        z = y * 2.0
        del y
    assert dead() is None and z.grad_fn is None
