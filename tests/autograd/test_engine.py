"""The backward pass: long chains, shared nodes, several outputs and roots, accumulation, threads."""

import sys
import threading
import weakref

import numpy as np
import pytest

import minidl
from minidl.autograd import Function, backward, enable_grad, grad
from minidl.errors import DTypeError, GraphError, ShapeError


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


class Halves(Function):
    """Two outputs: the first and the second half of a vector."""

    def forward(self, F, x):
        n = x.shape[0] // 2
        return F.getitem(x, index=slice(0, n)), F.getitem(x, index=slice(n, None))

    def backward(self, F, gys):
        zero = F.zeros_like(next(iter(gys.values())))
        return F.concatenate(gys.get(0, zero), gys.get(1, zero), axis=0)


# ---------------------------------------------------------------------------------------------------------- shape of graphs
def test_a_chain_of_100_000_operations():
    x = minidl.tensor(1.0, dtype=minidl.float64, requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + x
    y.backward()
    assert x.grad.item() == 100_001


def test_a_chain_of_a_million_operations_is_dropped_without_recursion():
    x = minidl.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1_000_000):
        y = -y
    dead = weakref.ref(y.edge)
    del y
    assert dead() is None


def test_a_long_chain_of_views_is_dropped_and_differentiated():
    x = leaf(4)
    y = x
    for i in range(20_000):
        y = y.reshape(2, 2) if i % 2 == 0 else y.reshape(4)
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1]
    del y


def test_a_long_chain_without_recursion_through_grad():
    x = leaf()
    y = x
    for _ in range(20_000):
        y = y * 1.0
    assert grad(y, x)[0].item() == 1


def test_diamond():
    x = leaf(3)
    a, b = x * 2.0, x * 3.0
    (a * b).sum().backward()  # 6 x^2
    np.testing.assert_allclose(x.grad.data, 12 * x.data, rtol=1e-15)


def test_a_ladder_of_diamonds_takes_linear_time():
    x = minidl.tensor(1.0, dtype=minidl.float64, requires_grad=True)
    y = x
    for _ in range(60):  # 2^60 paths
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**60


def test_a_node_used_by_younger_and_older_consumers():
    x = leaf(3)
    h = x.exp()
    early = h * 2.0
    for _ in range(5):
        early = early + 1.0
    late = h * early
    (late + early).sum().backward()
    e = np.exp(x.data)
    np.testing.assert_allclose(x.grad.data, e * (2 * e + 5) + 2 * e * e + 2 * e, rtol=1e-14)


def test_the_same_input_twice():
    x = leaf(3)
    (x * x).sum().backward()
    assert np.array_equal(x.grad.data, 2 * x.data)


def test_a_leaf_alone():
    x = leaf()
    x.backward()
    assert x.grad.item() == 1
    y = leaf(2)
    y.backward(minidl.tensor([2.0, 3.0], dtype=minidl.float64))
    assert y.grad.tolist() == [2, 3]


def test_several_outputs():
    x = leaf(4)
    a, b = Halves.apply(x * x)
    (a * b * a).sum().backward()
    u, v = x.data[:2], x.data[2:]
    np.testing.assert_allclose(x.grad.data, np.concatenate([4 * u**3 * v**2, 2 * u**4 * v]), rtol=1e-12)


@pytest.mark.parametrize("k", [0, 1])
def test_one_of_several_outputs(k):
    x = leaf(4)
    Halves.apply(x)[k].sum().backward()
    assert x.grad.tolist() == [1 - k, 1 - k, k, k]


def test_an_output_dropped_before_backward():
    x = leaf(4)
    a, b = Halves.apply(x)
    del b
    (a + a).sum().backward()
    assert x.grad.tolist() == [2, 2, 0, 0]


def test_second_derivative_through_several_outputs():
    x = leaf(4)
    a, b = Halves.apply(x * x)
    (g,) = grad((a * b).sum(), x, create_graph=True)
    (h,) = grad(g.sum(), x)
    u, v = x.data[:2], x.data[2:]  # g = (2 u v^2, 2 u^2 v)
    np.testing.assert_allclose(h.data, np.concatenate([2 * v**2 + 4 * u * v, 4 * u * v + 2 * u**2]), rtol=1e-12)


def test_several_roots():
    x = leaf(3)
    h = x * 2.0
    backward([h.sum(), (h * h).sum()])
    np.testing.assert_allclose(x.grad.data, 2 + 8 * x.data, rtol=1e-14)


def test_a_root_that_is_below_another():
    x = leaf(3)
    h = x * 2.0
    y = h * h
    ones = minidl.ones(3, dtype=minidl.float64)
    backward([h, y], [ones, ones])
    np.testing.assert_allclose(x.grad.data, 2 + 8 * x.data, rtol=1e-14)


def test_the_same_root_twice():
    x = leaf()
    y = x * 3.0
    backward([y, y, x], [minidl.tensor(1.0, dtype=minidl.float64), None, None])
    assert x.grad.item() == 7


def test_inputs_without_gradient_get_none():
    x, c = leaf(3), minidl.ones(3, dtype=minidl.float64)
    y = x * c
    assert y.grad_fn.next_functions[1] is None
    y.sum().backward()
    assert c.grad is None and not c.requires_grad


def test_size_zero_and_zero_axes():
    x = leaf(0, 3)
    (x * 2.0).sum().backward()
    assert x.grad.shape == (0, 3)
    s = leaf()
    (s * s).backward()
    assert s.grad.shape == () and type(s.grad.data) is np.ndarray


# ------------------------------------------------------------------------------------------------------- accumulation
def test_gradients_add_up_over_passes_and_the_earlier_one_is_left_alone():
    x = leaf(3)
    (x * 2.0).sum().backward()
    first = x.grad
    (x * 3.0).sum().backward()
    assert first.tolist() == [2, 2, 2] and x.grad.tolist() == [5, 5, 5]


def test_leaves_do_not_share_their_gradients():
    a, b, g = leaf(3), leaf(3), minidl.ones(3, dtype=minidl.float64)
    (a + b).backward(g)
    arrays = [a.grad.data, b.grad.data, g.data]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])
    a.grad.mul_(5.0)
    assert b.grad.tolist() == [1, 1, 1] and g.tolist() == [1, 1, 1]


def test_a_gradient_is_an_array_of_its_own():
    x = leaf(2, 2)
    (x.reshape(4) * 2.0).sum().backward()
    assert x.grad.data.base is None and x.grad.data.flags.writeable
    y = leaf(2, 2)
    y.sum().backward()  # the gradient is a broadcast view inside
    y.grad.add_(1.0)
    assert y.grad.tolist() == [[2, 2], [2, 2]]


def test_a_fresh_gradient_is_taken_not_copied(monkeypatch):
    a, b = leaf(3), leaf(3)
    y = a * b
    taken = []
    own = a.F.own

    def spy(g):
        taken.append(id(g))
        return own(g)

    # The spy holds one more reference than the engine alone does.
    monkeypatch.setattr("minidl.backend.cpu._SOLE", sys.modules["minidl.backend.cpu"]._SOLE + 1)
    monkeypatch.setattr(a.F, "own", spy, raising=False)
    y.backward(minidl.ones(3, dtype=minidl.float64))
    assert sorted(taken) == sorted([id(a.grad.data), id(b.grad.data)])


def test_grad_can_be_set_and_cleared():
    x = leaf(3)
    x.grad = minidl.ones(3, dtype=minidl.float64)
    (x * 2.0).sum().backward()
    assert x.grad.tolist() == [3, 3, 3]
    x.grad = None
    assert x.grad is None
    with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
        x.grad = minidl.ones(2, dtype=minidl.float64)
    with pytest.raises(DTypeError, match="float32.*float64"):
        x.grad = minidl.ones(3)
    with pytest.raises(TypeError, match="ndarray"):
        x.grad = np.ones(3)
    with pytest.raises(GraphError, match="requires_grad_"):
        minidl.ones(3).grad = minidl.ones(3)
    y = x * 2.0
    y.grad = None
    with pytest.raises(GraphError, match="Mul.*retain_grad"):
        y.grad = minidl.ones(3, dtype=minidl.float64)


# ---------------------------------------------------------------------------------------------------------------- threads
def test_threads_with_graphs_of_their_own():
    errors = []

    def work(seed):
        try:
            rng = np.random.default_rng(seed)
            for _ in range(30):
                x = minidl.tensor(rng.standard_normal(50), requires_grad=True)
                (x.exp() * x).sum().backward()
                np.testing.assert_allclose(x.grad.data, np.exp(x.data) * (1 + x.data), rtol=1e-13, atol=1e-13)
        except BaseException as e:
            errors.append(e)

    run_threads(work)
    assert not errors


def run_threads(work, n=4):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_threads_that_share_a_leaf_lose_no_gradient():
    w = minidl.zeros(200, dtype=minidl.float64, requires_grad=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run_threads(lambda i: [(w * 1.0).sum().backward() for _ in range(200)])
    finally:
        sys.setswitchinterval(interval)
    assert w.grad.tolist() == [800.0] * 200


def test_a_pass_inside_a_hook():
    """Nested passes do not meet."""
    x, w = leaf(3), leaf(3)

    @enable_grad()  # a hook runs unrecorded, as the pass around it
    def hook(g):
        (w * w).sum().backward()

    x.register_hook(hook)
    (x * 2.0).sum().backward()
    assert np.array_equal(w.grad.data, 2 * w.data) and x.grad.tolist() == [2, 2, 2]
