"""Random graphs against PyTorch, and the details of its engine that users rely on."""

import numpy as np
import pytest

import minidl

pytestmark = pytest.mark.parity

OPERATIONS = (
    lambda m, a, b: a + b,
    lambda m, a, b: a * b * 0.5,
    lambda m, a, b: a - b,
    lambda m, a, b: a / (b * b + 1.0),
    lambda m, a, b: m.tanh(a),
    lambda m, a, b: m.where(a > b, a, b * 0.3),
    lambda m, a, b: a.sum(0) + b,
    lambda m, a, b: (a @ b.T) @ b * 0.1,
    lambda m, a, b: m.cat([a, b], 1)[:, 1:4],
)


def random_graph(m, leaves, seed):
    """The same forty random operations on the leaves of either library; returns a scalar."""
    rng = np.random.default_rng(seed)
    pool = list(leaves)
    for _ in range(40):
        i, j = rng.integers(max(0, len(pool) - 12), len(pool), 2)
        pool.append(OPERATIONS[rng.integers(len(OPERATIONS))](m, pool[i], pool[j]).clip(-3, 3))
    return (pool[-1] + pool[-2] * pool[-3]).sum()


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(torch, seed):
    rng = np.random.default_rng(1000 + seed)
    arrays = [rng.standard_normal((2, 3)) for _ in range(3)]
    ours = [minidl.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = random_graph(minidl, ours, seed), random_graph(torch, theirs, seed)
    np.testing.assert_allclose(y.item(), z.item(), rtol=1e-9)
    if not z.requires_grad:
        assert not y.requires_grad
        return
    y.backward()
    z.backward()
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            # Forty operations of order one, in float64, in another order of summation.
            np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(10))
def test_second_derivatives_of_random_graphs(torch, seed):
    arrays = [np.random.default_rng(seed).standard_normal((2, 3)) * 0.5 for _ in range(3)]
    results = []
    for m, leaves in (
        (minidl, [minidl.tensor(a, requires_grad=True) for a in arrays]),
        (torch, [torch.tensor(a, requires_grad=True) for a in arrays]),
    ):
        y = random_graph(m, leaves, seed)
        grads = m.autograd.grad(y, leaves, create_graph=True, allow_unused=True)
        total = sum(((g * g).sum() for g in grads if g is not None), m.zeros((), dtype=m.float64))
        second = m.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * 3
        results.append([np.zeros((2, 3)) if g is None else np.asarray(g) for g in second])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)  # as above, squared


def accumulate(m):
    x = m.ones(3, dtype=m.float64, requires_grad=True)
    y = x * 2
    y.retain_grad()
    z = (y * y).sum()
    z.backward(retain_graph=True)
    z.backward()
    return x.grad, y.grad


def hooks(m):
    x = m.ones(3, dtype=m.float64, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 3)
    y.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: g - 1)
    (y * y).sum().backward()
    return x.grad, y.grad


def in_place_and_retain(m):
    x = m.ones(3, dtype=m.float64, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    y.sum().backward()
    return x.grad, y.grad


def zeroed(m):
    x = m.ones(3, dtype=m.float64, requires_grad=True)
    y = x * 2
    y.zero_()
    y.sum().backward()
    return (x.grad,)


def grad_to_a_freed_tensor(m):
    x = m.ones(3, dtype=m.float64, requires_grad=True)
    h = x * x
    h.sum().backward()
    return m.autograd.grad((h * 3).sum(), h)


def several_roots(m):
    x = m.ones(3, dtype=m.float64, requires_grad=True)
    y = x * 2
    m.autograd.backward([y.sum(), (y * x).sum()])
    return (x.grad,)


def unused(m):
    x, w = (m.ones(3, dtype=m.float64, requires_grad=True) for _ in range(2))
    return m.autograd.grad((x * x).sum(), [w, x], allow_unused=True)


def mixed_precision(m):
    x = m.ones(3, requires_grad=True)
    w = m.ones(3, dtype=m.float64, requires_grad=True)
    (x * w).sum().backward()
    return x.grad, w.grad


@pytest.mark.parametrize(
    "program",
    [accumulate, hooks, in_place_and_retain, zeroed, grad_to_a_freed_tensor, several_roots, unused, mixed_precision],
    ids=lambda f: f.__name__,
)
def test_the_engine_does_as_pytorchs(torch, program):
    for a, b in zip(program(minidl), program(torch), strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            np.testing.assert_array_equal(a.data, b.numpy())
            assert a.dtype == b.numpy().dtype
