"""Activation checkpointing: the same numbers, less memory, and errors where the second run would differ."""

import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.autograd import checkpoint, explain, grad, gradcheck, gradgradcheck, no_grad
from minidl.errors import GraphError, InplaceError
from minidl.nn import functional as F


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


def both(function, *args):
    """(outputs, gradients) of a call and of the same call checkpointed, from the same random state."""
    results = []
    for run in (function, lambda *a: checkpoint(function, *a)):
        minidl.manual_seed(5)
        inputs = [minidl.tensor(a, requires_grad=True) for a in args]
        y = run(*inputs)
        after = minidl.get_rng_state()
        gradients = grad((y * y).sum(), inputs)
        assert minidl.get_rng_state() == after
        results.append([y.data, *[g.data for g in gradients], np.array(after)])
    return results


FUNCTIONS = {
    "plain": lambda x, w: (x @ w).tanh().exp() * x.sum(),
    "dropout": lambda x, w: F.dropout((x @ w).tanh(), 0.5, training=True) * x.mean(),
    "in place": lambda x, w: ((x * w.sum()).add_(1.0).square() * 2.0).tanh_(),
    "view writes": lambda x, w: write_rows(x, w) * write_rows(x, w),
    "kept, not overwritten": lambda x, w: four_steps(x) @ w,
    "softmax": lambda x, w: F.softmax(x @ w, -1) * F.layer_norm(x, (3,)),
    "identity": lambda x, w: x * w.sum(),
}


def write_rows(x, w):
    y = x * 1.0
    y[0] = w[0]
    y[1:].mul_(3.0)
    return y


def four_steps(x):
    h = x * 2.0
    h.add_(1.0)  # before h is kept
    z = h * h
    return z * z


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_bits(name):
    rng = np.random.default_rng(1)
    plain, checkpointed = both(FUNCTIONS[name], rng.standard_normal((20, 3)), rng.standard_normal((3, 3)))
    for a, b in zip(plain, checkpointed, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "dropout"])
def test_first_and_second_derivatives(name):
    def run(x, w):
        return checkpoint(FUNCTIONS[name], x, w)

    assert gradcheck(run, [leaf(4, 3), leaf(3, 3)])
    # Third powers and exponentials of a dozen numbers: the second derivatives are large.
    assert gradgradcheck(run, [leaf(2, 3) * 0.5, leaf(3, 3) * 0.5], atol=1e-4)


def test_parameters_inside_get_their_gradients():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    x = minidl.randn(5, 3)
    gradients = []
    for run in (net, lambda x: checkpoint(net, x)):
        net.zero_grad()
        run(x).square().sum().backward()
        gradients.append([p.grad.data for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert np.array_equal(a, b)


def test_the_function_runs_twice_and_no_more():
    runs = []

    def function(x):
        runs.append(1)
        y = x
        for _ in range(5):
            y = y.sin() * y
        return y

    x = leaf(3)
    y = checkpoint(function, x)
    assert len(runs) == 1
    other = minidl.zeros(3)
    other.add_(1.0)  # a write elsewhere makes the engine look closely at every node
    y.sum().backward()
    assert len(runs) == 2


def test_a_second_pass_over_a_retained_graph():
    x = leaf(3)
    y = checkpoint(lambda x: x.exp() * x, x).sum()
    y.backward(retain_graph=True)
    first = x.grad.data.copy()
    y.backward()
    np.testing.assert_array_equal(x.grad.data, 2 * first)
    with pytest.raises(GraphError, match="retain_graph"):
        y.backward()


def test_only_a_part_is_asked_for():
    x, w = leaf(3), leaf(3)
    y = checkpoint(lambda x, w: x.exp() * w.sin(), x, w)
    (g,) = grad(y.sum(), w)
    np.testing.assert_allclose(g.data, np.exp(x.data) * np.cos(w.data), rtol=1e-14)


def test_several_outputs_in_any_container():
    x = leaf(4)

    def function(x):
        e = x.exp()
        return {"list": [e * e, x.sin()], "pair": (e, None, 3)}

    out = checkpoint(function, x)
    (out["list"][0] + out["list"][1] + out["pair"][0]).sum().backward()
    e = np.exp(x.data)
    np.testing.assert_allclose(x.grad.data, 2 * e * e + np.cos(x.data) + e, rtol=1e-14)


def test_nested():
    def inner(x):
        return (x.exp() * x).sin()

    def outer(x):
        return checkpoint(inner, x * 0.5) * checkpoint(inner, x)

    x = leaf(3)
    (plain,) = grad((inner(x * 0.5) * inner(x)).sum(), x)
    (nested,) = grad(checkpoint(outer, x).sum(), x)
    assert np.array_equal(plain.data, nested.data)
    assert gradgradcheck(lambda x: checkpoint(outer, x), [leaf(3)])


def test_keyword_arguments_and_pytorchs_option():
    x, w = leaf(3), leaf(3)
    checkpoint(lambda x, *, w: x * w, x, w=w, use_reentrant=False).sum().backward()
    assert np.array_equal(w.grad.data, x.data)
    with pytest.raises(ValueError, match="use_reentrant"):
        checkpoint(lambda x: x, x, use_reentrant=True)


def test_without_recording_it_is_a_call():
    with no_grad():
        assert not checkpoint(lambda x: x.exp(), leaf(3)).requires_grad
    assert not checkpoint(lambda x: x.exp(), minidl.ones(3)).requires_grad


def test_random_state_may_be_left_alone():
    x = minidl.ones(1000, requires_grad=True)
    y = checkpoint(lambda x: F.dropout(x, 0.5, training=True) * x, x, preserve_rng_state=False)
    y.sum().backward()
    assert not np.array_equal(x.grad.data, 2 * y.data)  # another mask the second time


def memory(run):
    """Peak and kept bytes of the forward pass, and peak bytes of the backward pass."""
    tracemalloc.start()
    try:
        loss = run()
        forward = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        loss.backward()
        return forward[0], tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_less_memory():
    x = minidl.zeros(50_000, requires_grad=True)
    size = x.nbytes

    def block(x):
        for _ in range(8):
            x = x.sin().cos()
        return x

    def run(call):
        y = x
        for _ in range(6):
            y = call(y)
        return y.sum()

    plain_kept, plain_peak = memory(lambda: run(block))
    kept, peak = memory(lambda: run(lambda y: checkpoint(block, y)))
    assert plain_kept > 90 * size  # 6 blocks of 16 operations keep their inputs
    assert kept < 8 * size  # the inputs of the blocks alone
    assert peak < 30 * size < plain_peak


# ------------------------------------------------------------------------------------------------- what would go wrong
def changing(first, second):
    runs = []

    def function(x):
        runs.append(1)
        return (first if len(runs) == 1 else second)(x)

    return function


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (lambda x: x.exp(), lambda x: x.sin(), r"first run recorded \('Exp'.*the second \('Sin'"),
        (lambda x: x.exp(), lambda x: x.exp().exp(), "first run recorded 1 operations, the second 2"),
        (lambda x: x[:2].exp(), lambda x: x[:1].exp(), r"\(2,\).*\(1,\)"),
        (lambda x: x.exp(), lambda x: x.detach().exp(), "first run recorded 1 operations, the second 0"),
    ],
)
def test_a_second_run_that_differs(first, second, text):
    y = checkpoint(changing(first, second), leaf(3))
    with pytest.raises(GraphError, match="checkpoint: the .*" + text):
        y.sum().backward()


def test_what_the_function_used_must_not_change():
    x, w = leaf(3), leaf(3)
    h = x * 2.0
    for function, args, changed in (
        (lambda h: h.exp(), (h,), h),
        (lambda h: h * w, (h,), w),
        (lambda h: h + w.reshape(3, 1).exp() * 2.0, (h,), h[1:]),
    ):
        y = checkpoint(function, *args)
        with no_grad():
            changed.mul_(2.0)
        with pytest.raises(
            InplaceError, match=r"checkpoint: an array of shape .* that the function used was changed in place"
        ):
            y.sum().backward()


def test_what_the_function_returned_may_change():
    x = leaf(3)
    y = checkpoint(lambda x: (x * 2.0).sigmoid(), x)
    y.mul_(3.0)
    y.sum().backward()
    s = 1 / (1 + np.exp(-2 * x.data))
    np.testing.assert_allclose(x.grad.data, 6 * s * (1 - s), rtol=1e-12)


def test_an_overwritten_value_inside_is_still_found():
    def function(x):
        h = x * 2.0
        z = h * h
        h.add_(1.0)
        return z

    y = checkpoint(function, leaf(3))
    with pytest.raises(InplaceError, match="Mul"):
        y.sum().backward()


def test_explain_does_not_run_it():
    runs = []
    x = leaf(3)
    y = checkpoint(lambda x: runs.append(1) or x.exp(), x).sum()
    assert "inside a checkpoint" in minidl.autograd.to_dot(y) and len(runs) == 1
    assert "inside a checkpoint" in explain(y)
    y.backward()
    assert x.grad is not None


def test_running_statistics_are_updated_twice():
    layer = nn.BatchNorm1d(3)
    y = checkpoint(layer, minidl.randn(8, 3, requires_grad=True))
    once = layer.running_mean.data.copy()
    y.square().sum().backward()
    assert not np.array_equal(layer.running_mean.data, once)
