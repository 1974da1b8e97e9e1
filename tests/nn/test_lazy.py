"""Layers without initial values, and layers that are only shapes."""
from __future__ import annotations

import pytest

import minidl
from minidl import config, nn


def state(seed):
    minidl.manual_seed(seed)
    return nn.Linear(4, 3)


def test_skip_init_draws_nothing():
    minidl.manual_seed(5)
    with nn.init.skip_init():
        skipped = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 3), nn.MultiheadAttention(8, 2), nn.Embedding(9, 4))
    after = minidl.get_rng_state()
    minidl.manual_seed(5)
    assert after == minidl.get_rng_state()
    skipped[1].load_state_dict(state(0).state_dict())
    assert skipped[1].weight.tolist() == state(0).weight.tolist()


@pytest.mark.parametrize("fill", [
    nn.init.zeros_, nn.init.ones_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.xavier_uniform_,
    nn.init.kaiming_normal_, nn.init.orthogonal_, nn.init.eye_,
])
def test_every_function_leaves_its_tensor_alone_and_returns_it(fill):
    x = minidl.full((3, 4), 7.0)
    with nn.init.skip_init():
        assert fill(x) is x and fill(tensor=x) is x
    assert (x.numpy() == 7).all()
    assert fill(x) is x and not (x.numpy() == 7).all()


def test_shape_only_has_shape_and_dtype_but_no_memory():
    with nn.init.shape_only():
        layer = nn.Linear(30_000, 20_000)
        with nn.init.skip_init():  # does not undo the outer block
            inner = nn.Linear(3, 2)
    for p in (*layer.parameters(), *inner.parameters()):
        assert p.data.strides == (0,) * p.ndim and p.dtype == minidl.float32 and p.requires_grad
    assert layer.weight.shape == (20_000, 30_000)
    assert layer(minidl.zeros(0, 30_000)).shape == (0, 20_000)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.data[0, 0] = 1.0


def test_the_blocks_end():
    for block in (nn.init.skip_init, nn.init.shape_only):
        with pytest.raises(KeyError), block():
            raise KeyError
        assert config.initialisation.get() == "draw"
    assert state(1).weight.data.strides != (0, 0)
    assert state(1).weight.tolist() == state(1).weight.tolist()
