"""Filters are packed and transformed at every call: whatever changes a weight is seen by the next convolution."""
import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.kernels import variants
from minidl.nn import functional as F
from minidl.ops.geometry import conv2d_geometry

CASES = {"transformed": (16, 24, 3, 12), "in pieces": (136, 136, 3, 7), "5x5": (16, 16, 5, 9), "direct": (24, 16, 1, 8)}


def replaced(weight):
    weight.data = weight.data * np.float32(2)


def loaded(weight):
    layer = nn.Conv2d(*weight.shape[1::-1], weight.shape[2], bias=False)
    layer.weight = weight
    layer.load_state_dict({"weight": weight.detach() * 3})


def stepped(weight):
    weight.grad = minidl.ones(weight.shape)
    minidl.optim.SGD([weight], lr=0.5).step()


def written(weight):
    weight.data[...] += 1
    minidl.autograd.increment_version(weight)


def through_a_view(weight):
    with minidl.no_grad():
        weight[0].mul_(-1)


@pytest.mark.parametrize("change", [replaced, loaded, stepped, written, through_a_view])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_changed_weight_is_used(case, change):
    c, o, k, size = case
    rng = np.random.default_rng(0)
    weight = nn.Parameter(minidl.tensor(rng.standard_normal((o, c, k, k)).astype(np.float32)))
    x = minidl.tensor(rng.standard_normal((2, c, size, size)).astype(np.float32), requires_grad=True)

    def both():
        x.grad = None
        y = F.conv2d(x, weight, padding=k // 2)
        y.sum().backward()
        return y.detach().numpy(), x.grad.numpy()

    before = both()
    change(weight)
    after = both()
    fresh = nn.Parameter(minidl.tensor(weight.detach().numpy().copy()))
    weight = fresh
    for old, new, expected in zip(before, after, both(), strict=True):
        assert abs(old - new).max() > 0.1
        np.testing.assert_array_equal(new, expected)


def test_two_weights_at_one_address():
    """A freed array's memory goes to the next one of its size."""
    rng = np.random.default_rng(1)
    x, conv2d = rng.standard_normal((1, 16, 9, 9)).astype(np.float32), variants("conv2d")["vector"]
    geom, memory = conv2d_geometry(x.shape, (16, 16, 3, 3), 1, 1), np.empty((16, 16, 3, 3), np.float32)
    for seed in range(3):
        memory[...] = np.random.default_rng(seed).standard_normal(memory.shape)
        np.testing.assert_array_equal(conv2d(x, memory[:], None, geom), conv2d(x, memory.copy(), None, geom))
