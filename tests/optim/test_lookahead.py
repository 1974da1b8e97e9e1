"""Lookahead against its formula, written out with NumPy."""

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.errors import ConfigError


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def move(model, amount):
    with minidl.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            if tensor.is_floating_point():
                tensor.add_(amount)


def test_the_formula():
    model = net()
    slow = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    fast = {name: array.copy() for name, array in slow.items()}
    lookahead = optim.Lookahead(model, total=7, keep=0.8, every=2)
    for t in range(1, 8):
        move(model, 0.1 * t)
        lookahead.update()
        for name in slow:
            if slow[name].dtype.kind != "f":
                continue
            fast[name] = fast[name] + np.float32(0.1 * t)
            if t == 7:
                fast[name] = slow[name].copy()
            elif t % 2 == 0:
                keep = 0.8 * (t / 7) ** 3
                slow[name] = keep * slow[name] + (1 - keep) * fast[name]
                fast[name] = slow[name].copy()
            np.testing.assert_allclose(model.state_dict()[name].numpy(), fast[name], rtol=1e-5)  # float32, other order


def test_it_goes_on_from_its_state():
    one, other = net(), net()
    other.load_state_dict(one.state_dict())
    whole, first = optim.Lookahead(one, 9, 0.7, 2), optim.Lookahead(other, 9, 0.7, 2)
    for t in range(9):
        if t == 3:
            second = optim.Lookahead(other, 9, 0.7, 2)
            second.load_state_dict(first.state_dict())
            first = second
        for model, lookahead in ((one, whole), (other, first)):
            move(model, 0.3)
            lookahead.update()
    for name, tensor in one.state_dict().items():
        assert tensor.numpy().tobytes() == other.state_dict()[name].numpy().tobytes()


@pytest.mark.parametrize("options", [{"total": 0}, {"total": 5, "every": 0}, {"total": 5, "keep": 1.0}])
def test_numbers_that_make_no_sense(options):
    with pytest.raises(ConfigError, match="must be"):
        optim.Lookahead(net(), **options)
