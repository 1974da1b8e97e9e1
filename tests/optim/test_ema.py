"""The moving average: its formula, swapping in and out, saving."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import CheckpointError, ConfigError
from minidl.optim import EMA


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def move(model, seed):
    rng = np.random.default_rng(seed)
    with minidl.no_grad():
        for p in model.parameters():
            p.copy_(minidl.tensor(rng.normal(size=p.shape).astype(np.float32)))
    model(minidl.randn(4, 2))


@pytest.mark.parametrize("warmup", [False, True])
def test_formula(warmup):
    model = net()
    ema = EMA(model, decay=0.8, warmup=warmup)
    expected = {k: v.numpy().astype(np.float64) for k, v in model.state_dict().items()}
    for t in range(1, 6):
        move(model, t)
        ema.update()
        d = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        for k, v in model.state_dict().items():
            expected[k] = v.numpy() if "num_batches" in k else d * expected[k] + (1 - d) * v.numpy()
    for k, v in ema.average.items():
        np.testing.assert_allclose(v.numpy(), expected[k], 1e-5, 1e-6)  # float32 against float64


def test_the_block_swaps_in_and_back_whatever_happens():
    model = net()
    ema = EMA(model, decay=0.5)
    move(model, 1)
    ema.update()
    own = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    weight = model[0].weight
    with pytest.raises(ZeroDivisionError), ema.average_parameters():
        assert model[0].weight is weight, "the optimiser's parameters stay the same objects"
        for k, v in model.state_dict().items():
            np.testing.assert_array_equal(v.numpy(), ema.average[k].numpy())
        with pytest.raises(ConfigError, match="restore"):
            ema.update()
        with pytest.raises(ConfigError, match="applied already"):
            ema.apply()
        1 / 0
    for k, v in model.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), own[k])
    with pytest.raises(ConfigError, match="nothing is applied"):
        ema.restore()


def test_state_goes_through_plain_arrays():
    model = net()
    ema = EMA(model, decay=0.5, warmup=True)
    move(model, 1)
    ema.update()
    state = ema.state_dict()
    state["average"] = {k: v.numpy().copy() for k, v in state["average"].items()}
    other = EMA(net(), decay=0.9)
    other.load_state_dict(state)
    assert (other.decay, other.warmup, other.updates) == (0.5, True, 1)
    for k, v in other.average.items():
        np.testing.assert_array_equal(v.numpy(), state["average"][k])


def test_errors():
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\), got 1.0"):
        EMA(net(), decay=1.0)
    ema = EMA(net())
    state = EMA(nn.Linear(2, 3)).state_dict()
    with pytest.raises(CheckpointError, match="made for another model; missing, extra or misshapen: 0.bias, 0.weight"):
        ema.load_state_dict(state)
    with pytest.raises(CheckpointError, match="has no average, decay, warmup, updates; expected what EMA.state_dict gave"):
        ema.load_state_dict({})
