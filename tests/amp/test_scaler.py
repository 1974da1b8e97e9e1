"""The gradient scaler: what it does to gradients, scale and updates, and that it goes on where it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.amp import GradScaler
from minidl.errors import CheckpointError, ConfigError, DTypeError, GraphError


def net():
    minidl.manual_seed(0)
    layer = nn.Linear(3, 2)
    return layer, optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)


def loss_of(layer, factor=1.0):
    return (layer(minidl.ones(1, 3)) * factor).sum()


def weights(layer):
    return [p.detach().numpy().copy() for p in layer.parameters()]


def test_an_update_is_the_same_with_it():
    """The scale is a power of two: multiplying and dividing by it changes no bit."""
    (plain, plain_step), (scaled, scaled_step), scaler = net(), net(), GradScaler()
    for _ in range(3):
        plain_step.zero_grad()
        loss_of(plain).backward()
        plain_step.step()
        scaled_step.zero_grad()
        loss = loss_of(scaled)
        assert scaler.scale(loss).item() == loss.item() * 2.0**16
        scaler.scale(loss).backward()
        scaler.step(scaled_step)
        scaler.update()
    for a, b in zip(weights(plain), weights(scaled), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_an_overflow_skips_the_update_and_halves_the_scale(bad):
    (layer, step), scaler = net(), GradScaler(init_scale=1024.0)
    scaler.scale(loss_of(layer)).backward()
    scaler.step(step)
    scaler.update()
    before, state = weights(layer), step.state_dict()["state"][0]["momentum_buffer"].numpy().copy()
    step.zero_grad()
    scaler.scale(loss_of(layer)).backward()
    layer.bias.grad = minidl.tensor([0.0, bad])
    assert scaler.step(step) is None
    scaler.update()
    assert scaler.get_scale() == 512.0
    for a, b in zip(before, weights(layer), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(state, step.state_dict()["state"][0]["momentum_buffer"].numpy())


def test_it_grows_after_updates_in_a_row():
    (layer, step), scaler = net(), GradScaler(init_scale=4.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=2)
    scales = []
    for overflows in (False, False, True, False, False, False):
        step.zero_grad()
        scaler.scale(loss_of(layer, math.inf if overflows else 1.0)).backward()
        scaler.step(step)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [4.0, 12.0, 3.0, 3.0, 9.0, 9.0]


def test_it_does_not_grow_beyond_float32():
    (layer, step), scaler = net(), GradScaler(init_scale=2.0**126, growth_interval=1)
    for expected in (2.0**126, 2.0**126):
        step.zero_grad()
        (loss_of(layer) * 0).backward()
        scaler.step(step)
        scaler.update()
        assert scaler.get_scale() == expected


def test_small_gradients_survive_float16():
    """1e-8 is 0 in float16, and 6.5e-4 when it is multiplied by 2^16."""
    x = minidl.ones(1, requires_grad=True)
    (x.half() * 1.0).float().mul(1e-8).backward()
    assert x.grad.item() == 0.0
    scaler, step = GradScaler(), optim.SGD([x], lr=1.0)
    x.grad = None
    scaler.scale((x.half() * 1.0).float().mul(1e-8)).backward()
    scaler.unscale_(step)
    assert x.grad.item() == pytest.approx(1e-8, rel=2**-10)  # rounded to float16 once


def test_a_narrow_loss_is_scaled_in_float32():
    scaled = GradScaler().scale(minidl.tensor(2.0).half())
    assert scaled.dtype == np.float32 and scaled.item() == 2.0**17  # more than float16 can hold


def test_gradients_can_be_clipped_between():
    (layer, step), scaler = net(), GradScaler()
    scaler.scale(loss_of(layer, 100.0)).backward()
    scaler.unscale_(step)
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    assert norm.item() == pytest.approx(100.0 * math.sqrt(8), rel=1e-6)
    before = weights(layer)
    scaler.step(step)
    moved = math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, weights(layer), strict=True)))
    assert moved == pytest.approx(0.1, rel=1e-5)  # lr * the norm they were clipped to


def test_two_optimisers():
    """Each has its own overflow; the scale shrinks when one of them had one."""
    (a, step_a), (b, step_b), scaler = net(), net(), GradScaler(init_scale=8.0)
    scaler.scale([loss_of(a), loss_of(b)])
    for loss in scaler.scale((loss_of(a, math.inf), loss_of(b))):
        loss.backward()
    before_a, before_b = weights(a), weights(b)
    scaler.step(step_a)
    scaler.step(step_b)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert all((x == y).all() for x, y in zip(before_a, weights(a), strict=True))
    assert not all((x == y).all() for x, y in zip(before_b, weights(b), strict=True))


def test_unscaled_and_never_stepped_still_counts():
    (layer, step), scaler = net(), GradScaler(init_scale=8.0)
    scaler.scale(loss_of(layer, math.inf)).backward()
    scaler.unscale_(step)
    scaler.update()
    assert scaler.get_scale() == 4.0


def test_switched_off_it_is_not_there():
    (layer, step), scaler = net(), GradScaler(enabled=False)
    loss = loss_of(layer)
    assert scaler.scale(loss) is loss and scaler.get_scale() == 1.0 and not scaler.is_enabled()
    loss.backward()
    before = weights(layer)
    scaler.unscale_(step)
    scaler.step(step)
    scaler.update()
    assert not (weights(layer)[0] == before[0]).all()
    assert scaler.state_dict() == {}
    scaler.load_state_dict({})


def test_the_state_goes_on():
    (layer, step), scaler = net(), GradScaler(init_scale=4.0, growth_interval=3)
    other = GradScaler()

    def one_update(scaler):
        step.zero_grad()
        scaler.scale(loss_of(layer)).backward()
        scaler.step(step)
        scaler.update()

    one_update(scaler)
    one_update(scaler)
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    one_update(other)
    assert other.get_scale() == 8.0


@pytest.mark.parity
def test_the_state_is_torchs(torch):
    ours, theirs = GradScaler(init_scale=128.0), torch.amp.GradScaler("cpu", init_scale=64.0)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert ours.get_scale() == 64.0
    theirs.load_state_dict(GradScaler(init_scale=32.0).state_dict())
    assert theirs.get_scale() == 32.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"init_scale": 0.0}, "init_scale must be above 0 and finite, found 0.0"),
        ({"init_scale": math.inf}, "init_scale must be above 0"),
        ({"growth_factor": 1.0}, "growth_factor must be above 1, found 1.0"),
        ({"backoff_factor": 1.0}, "backoff_factor must be between 0 and 1, found 1.0"),
        ({"growth_interval": 0}, "growth_interval must be at least 1, found 0"),
    ],
)
def test_values_out_of_range(options, match):
    with pytest.raises(ConfigError, match=f"GradScaler: {match}"):
        GradScaler(**options)


def test_misuse_is_told():
    (layer, step), scaler = net(), GradScaler()
    with pytest.raises(GraphError, match="update: no gradients were looked at .*; call step"):
        scaler.update()
    with pytest.raises(GraphError, match=r"step: no parameter of this optimiser has a gradient; call scale\(loss\).backward"):
        scaler.step(step)
    scaler.update()
    scaler.scale(loss_of(layer)).backward()
    scaler.unscale_(step)
    with pytest.raises(GraphError, match="unscale_: called a second time since the last update"):
        scaler.unscale_(step)
    scaler.step(step)
    with pytest.raises(GraphError, match="step: called a second time since the last update"):
        scaler.step(step)
    with pytest.raises(GraphError, match=r"unscale_: called after step\(\)"):
        scaler.unscale_(step)
    with pytest.raises(ConfigError, match="step: a closure cannot be used"):
        scaler.step(step, lambda: None)
    with pytest.raises(ConfigError, match="update: the scale must be above 0 and finite, found 0"):
        scaler.update(0)
    scaler.update(64)
    assert scaler.get_scale() == 64.0
    with pytest.raises(TypeError, match="scale: expected a Tensor, or a tuple or list of them, found float"):
        scaler.scale(1.0)
    with pytest.raises(CheckpointError, match="load_state_dict: scale, .* missing"):
        scaler.load_state_dict({"growth_factor": 2.0})


def test_float16_parameters_are_refused():
    layer = nn.Linear(3, 2).half()
    step, scaler = optim.SGD(layer.parameters(), lr=0.1), GradScaler()
    scaler.scale(layer(minidl.ones(1, 3).half()).sum()).backward()
    with pytest.raises(DTypeError, match=r"a parameter of shape \(2, 3\) is float16.*keep the parameters float32"):
        scaler.step(step)
