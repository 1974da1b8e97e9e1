"""Every update rule against torch's over 20 steps, with every option; groups, state and errors."""
from __future__ import annotations

import copy

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.errors import CheckpointError, ConfigError

STEPS = 20
OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.1, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "betas": (0.4, 0.7)}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.1, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.1, "centered": True}),
    ("RMSprop", {"lr": 0.1, "momentum": 0.5, "centered": True, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.3, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("Adagrad", {"maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.1}),
    ("Adadelta", {"maximize": True}),
]
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in OPTIMIZERS]


def start(lib):
    rng = np.random.default_rng(0)
    return [lib.tensor(rng.normal(size=shape), requires_grad=True) for shape in ((4, 3), (5,), ())]


def steps(lib, params, optimizer, first=0, last=STEPS):
    """Gradients that depend on the parameters, and a parameter that has none now and then."""
    for i in range(first, last):
        rng = np.random.default_rng(100 + i)
        for k, p in enumerate(params):
            gradient = rng.normal(size=tuple(p.shape))
            p.grad = None if k == 1 and i % 3 == 0 else lib.tensor(gradient) + p.detach() * 0.5
        optimizer.step()
    return [p.detach().numpy() for p in params]


@pytest.mark.parity
@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=IDS)
def test_trajectory_and_state_as_torch(torch, name, options):
    ours, theirs = start(minidl), start(torch)
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for p, q in zip(steps(minidl, ours, a), steps(torch, theirs, b), strict=True):
        np.testing.assert_allclose(p, q, 1e-10, 1e-12)  # float64, 20 steps of another order of operations
    mine, other = a.state_dict(), b.state_dict()
    assert mine["state"].keys() == other["state"].keys()
    for number, state in other["state"].items():
        assert mine["state"][number].keys() == state.keys(), "the same names"
        for key, value in state.items():
            np.testing.assert_allclose(np.asarray(mine["state"][number][key]), value.numpy(), 1e-10, 1e-12)
    assert set(mine["param_groups"][0]) <= set(other["param_groups"][0]), "options under torch's names"


@pytest.mark.parity
@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=IDS)
def test_state_goes_both_ways(torch, name, options):
    ours, theirs = start(minidl), start(torch)
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    half, whole = STEPS // 2, steps(torch, theirs, b)

    theirs = start(torch)
    b = getattr(torch.optim, name)(theirs, **options)
    values = steps(torch, theirs, b, 0, half)
    ours = [minidl.tensor(v, requires_grad=True) for v in values]
    a = getattr(optim, name)(ours)
    a.load_state_dict(b.state_dict())
    for p, q in zip(steps(minidl, ours, a, half), whole, strict=True):
        np.testing.assert_allclose(p, q, 1e-10, 1e-12)

    ours = start(minidl)
    a = getattr(optim, name)(ours, **options)
    values = steps(minidl, ours, a, 0, half)
    theirs = [torch.tensor(v, requires_grad=True) for v in values]
    b = getattr(torch.optim, name)(theirs)
    state = a.state_dict()
    state["state"] = {
        i: {k: torch.tensor(v.numpy()) if isinstance(v, minidl.Tensor) else torch.tensor(float(v)) for k, v in s.items()}
        for i, s in state["state"].items()
    }
    b.load_state_dict(state)
    for p, q in zip(steps(torch, theirs, b, half), whole, strict=True):
        np.testing.assert_allclose(p, q, 1e-10, 1e-12)


@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=IDS)
def test_resuming_from_plain_arrays_is_exact(name, options):
    """As a checkpoint gives it back: NumPy arrays, string keys, lists for tuples."""
    kind = getattr(optim, name)
    params = start(minidl)
    whole = [p.copy() for p in steps(minidl, params, kind(params, **options))]
    params = start(minidl)
    first = kind(params, **options)
    values = [v.copy() for v in steps(minidl, params, first, 0, 7)]
    state = copy.deepcopy(first.state_dict())
    state["state"] = {
        str(i): {k: v.numpy() if isinstance(v, minidl.Tensor) else v for k, v in s.items()} for i, s in state["state"].items()
    }
    for group in state["param_groups"]:
        group.update({k: list(v) for k, v in group.items() if isinstance(v, tuple)})
    params = [minidl.tensor(v, requires_grad=True) for v in values]
    second = kind(params)
    second.load_state_dict(state)
    for p, q in zip(steps(minidl, params, second, 7), whole, strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"])
def test_every_rule_finds_a_minimum(name):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    rng = np.random.default_rng(0)
    x = minidl.tensor(rng.normal(size=(32, 3)).astype(np.float32))
    y = minidl.tensor(np.sin(x.numpy().sum(1, keepdims=True)))
    rates = {"SGD": 0.1, "Adagrad": 0.1, "Adadelta": 3.0}
    optimizer = getattr(optim, name)(net.parameters(), lr=rates.get(name, 0.01))
    losses = []
    for _ in range(150):
        def closure():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            return loss
        losses.append(optimizer.step(closure).item())
    assert losses[-1] < 0.5 * losses[0]


def test_groups_have_options_of_their_own():
    a, b = nn.Parameter(minidl.ones(2)), nn.Parameter(minidl.ones(2))
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0, "name": "head"}], lr=0.5)
    a.grad = b.grad = None
    a.grad, b.grad = minidl.ones(2), minidl.ones(2)
    optimizer.step()
    assert a.tolist() == [0.5, 0.5] and b.tolist() == [0.0, 0.0]
    assert optimizer.param_groups[1]["name"] == "head" and optimizer.state_dict()["param_groups"][1]["params"] == [1]
    optimizer.add_param_group({"params": nn.Linear(1, 1).named_parameters()})
    assert optimizer.param_groups[2]["param_names"] == ["weight", "bias"]
    assert "Parameter Group 2" in repr(optimizer) and "    lr: 1.0" in repr(optimizer)


def test_parameters_without_a_gradient_do_not_move():
    a, b = nn.Parameter(minidl.ones(2)), nn.Parameter(minidl.ones(2))
    optimizer = optim.Adam([a, b], weight_decay=0.1)
    a.grad = minidl.ones(2)
    optimizer.step()
    assert b.tolist() == [1, 1] and b not in optimizer.state


def test_a_step_makes_an_older_graph_fail():
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    x = minidl.ones(1, 2, requires_grad=True)
    y = layer(x).sum()
    y.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(minidl.errors.InplaceError):
        y.backward()


def test_zero_grad():
    p = nn.Parameter(minidl.ones(2))
    optimizer = optim.SGD([p])
    (p * p).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0]
    optimizer.zero_grad()
    assert p.grad is None


def test_state_is_cast_to_the_parameters_dtype():
    p = nn.Parameter(minidl.ones(2))
    optimizer = optim.SGD([p], momentum=0.9)
    optimizer.load_state_dict({
        "state": {0: {"momentum_buffer": np.ones(2)}}, "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0]}]})
    assert str(optimizer.state[p]["momentum_buffer"].dtype) == "float32"


W = nn.Parameter


@pytest.mark.parametrize("call, error, text", [
    (lambda: optim.SGD([]), ConfigError, "got no parameters"),
    (lambda: optim.SGD(minidl.ones(1)), TypeError, "put it in a list"),
    (lambda: optim.SGD([3]), TypeError, "number 0 is a int"),
    (lambda: optim.SGD({W(minidl.ones(1))}), TypeError, "set"),
    (lambda: optim.SGD([W(minidl.ones(1)) * 2]), ConfigError, "computed from others"),
    (lambda: optim.SGD([{"lr": 1}]), TypeError, "with 'params'"),
    (lambda: optim.SGD([w := W(minidl.ones(1)), w]), ConfigError, "given twice"),
    (lambda: optim.SGD([{"params": w} for w in [W(minidl.ones(1))] * 2]), ConfigError, "given twice"),
    (lambda: optim.SGD([W(minidl.ones(1))], lr=-1), ConfigError, "SGD: lr must be at least 0, got -1"),
    (lambda: optim.SGD([{"params": W(minidl.ones(1)), "momentum": -1}]), ConfigError, "momentum must be at least 0"),
    (lambda: optim.SGD([W(minidl.ones(1))], nesterov=True), ConfigError, "nesterov needs momentum > 0 and dampening 0"),
    (lambda: optim.SGD([W(minidl.ones(1))], lr=float("nan")), ConfigError, "lr must be"),
    (lambda: optim.Adam([W(minidl.ones(1))], betas=(0.9, 1.0)), ConfigError, r"beta2 must be in \[0, 1\), got 1.0"),
    (lambda: optim.Adam([W(minidl.ones(1))], eps=-1), ConfigError, "eps"),
    (lambda: optim.RMSprop([W(minidl.ones(1))], alpha=-1), ConfigError, "alpha"),
    (lambda: optim.Adagrad([W(minidl.ones(1))], lr_decay=-1), ConfigError, "lr_decay"),
    (lambda: optim.Adadelta([W(minidl.ones(1))], rho=1.5), ConfigError, "rho"),
])
def test_bad_options(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_loading_what_does_not_fit():
    optimizer = optim.SGD([nn.Parameter(minidl.ones(2))], momentum=0.9)
    with pytest.raises(CheckpointError, match="expected a dict with 'state'"):
        optimizer.load_state_dict({})
    with pytest.raises(CheckpointError, match=r"have \[2\] parameters, this optimiser's \[1\]"):
        optimizer.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})
    with pytest.raises(CheckpointError, match=r"momentum_buffer has shape \(3,\), its parameter \(2,\)"):
        optimizer.load_state_dict({"state": {0: {"momentum_buffer": np.ones(3)}}, "param_groups": [{"params": [0]}]})
    with pytest.raises(CheckpointError, match="parameter 4, which no group has"):
        optimizer.load_state_dict({"state": {4: {}}, "param_groups": [{"params": [0]}]})
