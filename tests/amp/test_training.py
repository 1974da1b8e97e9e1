"""A net trained in 16 bits follows the one trained in float32, on the CPU and on the emulator; and the trainer's runs go on."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import models, nn, optim
from tests.cuda_emulator.conftest import emulator  # noqa: F401 - a fixture

BFLOAT16 = pytest.param("bfloat16", marks=pytest.mark.skipif("not __import__('importlib.util').util.find_spec('ml_dtypes')"))
both = pytest.mark.parametrize("dtype", ["float16", BFLOAT16])
STEPS = 20


def losses(dtype, device="cpu", steps=STEPS):
    """Of a net in the manner of LeNet, and the net."""
    minidl.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 5),
    ).to(device)  # fmt: skip
    step = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = minidl.amp.GradScaler(enabled=dtype == "float16")
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 1, 12, 12)).astype(np.float32), np.arange(8) % 5
    minidl.manual_seed(1)  # dropout draws the same masks everywhere
    found = []
    for _ in range(steps):
        with minidl.autocast("float16" if dtype == "float32" else dtype, enabled=dtype != "float32"):
            loss = F.cross_entropy(model(minidl.tensor(images, device=device)), minidl.tensor(labels, device=device))
        step.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(step)
        scaler.update()
        found.append(loss.item())
    return found, model


# Rounding to 8 bits changes a number by 2^-9 at most, to 11 bits by 2^-12.  A hundred roundings of either sign add up to ten
# times that in a loss, and training enlarges a difference from step to step; a wrong gradient differs by tenths at once.
FOLLOWS = {"bfloat16": 0.05, "float16": 0.02}


@both
def test_it_follows_float32(dtype):
    (narrow, model), (wide, _) = losses(dtype), losses("float32")
    np.testing.assert_allclose(narrow, wide, rtol=FOLLOWS[dtype])
    assert narrow[-1] < 0.6 * narrow[0] and narrow != wide
    for p in model.parameters():
        assert p.dtype == p.grad.dtype == np.float32


@both
def test_it_is_the_same_on_the_emulator(dtype, emulator):  # noqa: F811
    """CUDA kernels on arrays of 16 bits: the CPU's losses but for the order of sums, which sometimes rounds to a neighbour."""
    steps = 6
    (here, _), (there, model) = losses(dtype, steps=steps), losses(dtype, "emu", steps)
    np.testing.assert_allclose(there, here, rtol={"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype])
    assert {"conv_tensor", "conv_weight_grad_tensor", "batch_norm_grad_join", "max_pool_grad", "dropout",
            "relu_grad", "softmax_cross_entropy_grad"} <= emulator.launched  # fmt: skip
    assert {p.grad.dtype.name for p in model.parameters()} == {"float32"}


@both
def test_twice_gives_the_same_bits(dtype):
    (first, a), (second, b) = losses(dtype, steps=4), losses(dtype, steps=4)
    assert first == second
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


def test_a_residual_net_in_bfloat16():
    """Batch norm with a residual, strides, an average over all pixels: as ResNet has them."""
    pytest.importorskip("ml_dtypes")
    model = models.create("resnet20", num_classes=4)
    x, labels = minidl.randn(4, 3, 16, 16), minidl.tensor([0, 1, 2, 3])
    seen = {}

    def note(module, inputs, output):
        seen[module] = output.dtype.name

    for module in model.modules():
        module.register_forward_hook(note)
    with minidl.autocast("bfloat16"):
        loss = F.cross_entropy(model(x), labels)
    loss.backward()
    assert set(seen.values()) == {"bfloat16"}, "no layer falls back to float32"
    assert loss.dtype == np.float32 and all(p.grad is not None and p.grad.dtype == np.float32 for p in model.parameters())
