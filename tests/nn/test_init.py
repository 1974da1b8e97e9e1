"""Initialisation: torch's distributions, by their statistics; exact schemes by value."""
from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import ConfigError, ShapeError
from minidl.nn import init

SHAPE = (64, 32, 3, 3)  # 18,432 values: a mean has a standard error of std / 136
COUNT = math.prod(SHAPE)


def values(fill, shape=SHAPE):
    t = minidl.zeros(shape)
    assert fill(t) is t
    return t.numpy().astype(np.float64)


def assert_statistics(x, mean, std):
    # Five standard errors; the seed is fixed, so the test does not depend on luck.
    assert abs(x.mean() - mean) < 5 * std / math.sqrt(x.size)
    # The standard error of a standard deviation is at most std / sqrt(2 size) for these distributions.
    assert abs(x.std() - std) < 5 * std / math.sqrt(2 * x.size)


def kaiming_bound(fan, gain):
    return gain * math.sqrt(3 / fan)


UNIFORM = {  # function and half-width
    "uniform": (lambda t: init.uniform_(t, -0.5, 0.5), 0.5),
    "xavier": (lambda t: init.xavier_uniform_(t, gain=2), 2 * math.sqrt(6 / (32 * 9 + 64 * 9))),
    "kaiming": (lambda t: init.kaiming_uniform_(t), kaiming_bound(32 * 9, math.sqrt(2))),
    "kaiming-a": (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), 1 / math.sqrt(32 * 9)),
    "kaiming-out": (lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="tanh"), kaiming_bound(64 * 9, 5 / 3)),
}
NORMAL = {  # function, mean and standard deviation
    "normal": (lambda t: init.normal_(t, 2, 0.5), 2, 0.5),
    "xavier": (lambda t: init.xavier_normal_(t), 0, math.sqrt(2 / (32 * 9 + 64 * 9))),
    "kaiming": (lambda t: init.kaiming_normal_(t, nonlinearity="relu"), 0, math.sqrt(2 / (32 * 9))),
    "kaiming-out": (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="linear"), 0, math.sqrt(1 / (64 * 9))),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform(name):
    fill, bound = UNIFORM[name]
    x = values(fill)
    assert_statistics(x, 0, bound / math.sqrt(3))
    assert abs(x).max() <= bound * (1 + 1e-6), "up to float32's rounding"
    assert abs(x).max() > 0.999 * bound


@pytest.mark.parametrize("name", NORMAL)
def test_normal(name):
    fill, mean, std = NORMAL[name]
    x = values(fill)
    assert_statistics(x, mean, std)
    kurtosis = ((x - x.mean()) ** 4).mean() / x.std() ** 4
    assert abs(kurtosis - 3) < 0.2, "a uniform distribution has 1.8"


def test_trunc_normal():
    x = values(lambda t: init.trunc_normal_(t, std=0.02))
    assert_statistics(x, 0, 0.02)  # ±100 standard deviations cut nothing
    x = values(lambda t: init.trunc_normal_(t, mean=1.0, std=1.0, a=0.0, b=2.0))
    assert x.min() >= 0 and x.max() <= 2
    assert_statistics(x, 1, 0.53956)  # sqrt(1 - 2 phi(1) / (2 Phi(1) - 1))
    with pytest.raises(ConfigError, match="almost nothing"):
        values(lambda t: init.trunc_normal_(t, a=5, b=6))
    with pytest.raises(ConfigError):
        values(lambda t: init.trunc_normal_(t, a=1, b=0))


def test_exact_schemes():
    assert set(values(lambda t: init.constant_(t, 3)).ravel()) == {3}
    assert set(values(init.ones_).ravel()) == {1} and set(values(init.zeros_).ravel()) == {0}
    np.testing.assert_array_equal(values(init.eye_, (3, 5)), np.eye(3, 5))


@pytest.mark.parity
@pytest.mark.parametrize("shape, groups", [((4, 4, 3, 3), 1), ((6, 2, 3, 4), 2), ((2, 5, 3), 1), ((4, 2, 1, 1), 2)])
def test_dirac_as_torch(torch, shape, groups):
    np.testing.assert_array_equal(
        values(lambda t: init.dirac_(t, groups), shape), torch.nn.init.dirac_(torch.empty(shape), groups).numpy())


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (4, 3, 2, 2)])
def test_orthogonal(shape):
    x = values(lambda t: init.orthogonal_(t, gain=2), shape).reshape(shape[0], -1)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)  # float32 values
    assert init.orthogonal_(minidl.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parity
@pytest.mark.parametrize("nonlinearity, param", [
    ("linear", None), ("conv2d", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("leaky_relu", None),
    ("leaky_relu", 0.1), ("selu", None),
])
def test_gain_as_torch(torch, nonlinearity, param):
    assert init.calculate_gain(nonlinearity, param) == torch.nn.init.calculate_gain(nonlinearity, param)


def test_generator_and_seed():
    a, b = (values(lambda t: init.normal_(t, generator=minidl.Generator(3))) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    minidl.manual_seed(1)
    first = nn.Linear(3, 3).weight.tolist()
    assert nn.Linear(3, 3).weight.tolist() != first
    minidl.manual_seed(1)
    assert nn.Linear(3, 3).weight.tolist() == first


def test_errors():
    for call, error, text in (
        (lambda: init.calculate_gain("swish"), ConfigError, "unknown nonlinearity 'swish'; known: linear"),
        (lambda: init.calculate_gain("leaky_relu", True), ConfigError, "negative slope"),
        (lambda: init.xavier_uniform_(minidl.zeros(3)), ShapeError, "biases are usually filled with zeros_"),
        (lambda: init.kaiming_normal_(minidl.zeros(3, 3), mode="fan"), ConfigError, "fan_in"),
        (lambda: init.eye_(minidl.zeros(3)), ShapeError, "expected a matrix"),
        (lambda: init.dirac_(minidl.zeros(3, 3)), ShapeError, "3 to 5 axes"),
        (lambda: init.dirac_(minidl.zeros(3, 3, 1), groups=2), ShapeError, "does not divide"),
        (lambda: init.orthogonal_(minidl.zeros(3)), ShapeError, "at least 2 axes"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_a_leaf_that_needs_a_gradient_may_be_filled():
    p = nn.Parameter(minidl.zeros(4, 4))
    assert init.xavier_uniform_(p) is p and p.is_leaf and p.requires_grad


@pytest.mark.parity
@pytest.mark.parametrize("build", [
    lambda nn: nn.Linear(40, 300), lambda nn: nn.Conv2d(8, 64, 5), lambda nn: nn.Conv2d(16, 128, 3, groups=4),
    lambda nn: nn.ConvTranspose2d(64, 8, 5), lambda nn: nn.Embedding(200, 40), lambda nn: nn.MultiheadAttention(48, 4),
    lambda nn: nn.BatchNorm2d(7), lambda nn: nn.LayerNorm(7),
])
def test_layers_start_as_torch(torch, build):
    """Per parameter the same mean, spread and extremes, within the noise of their size."""
    torch.manual_seed(0)
    ours, theirs = build(nn), build(torch.nn)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        a, b = p.detach().numpy().astype(np.float64), q.detach().numpy().astype(np.float64)
        if b.std() == 0:
            np.testing.assert_array_equal(a, b)
            continue
        noise = 7 * b.std() / math.sqrt(a.size)  # five standard errors of a difference
        assert abs(a.mean() - b.mean()) < noise and abs(a.std() - b.std()) < noise, name
        if a.size > 500 and not isinstance(ours, nn.Embedding):
            assert abs(abs(a).max() / abs(b).max() - 1) < 0.02, name
