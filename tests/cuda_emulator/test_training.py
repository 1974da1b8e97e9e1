"""A whole training on the emulator: convolution, norm, pooling, dropout, loss and optimiser step after step, as on the CPU."""
import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn, optim
from tests.cuda_emulator.emulator import SCHEDULES

STEPS = 20


def losses(device, optimizer):
    minidl.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 5),
    ).to(device)  # fmt: skip
    step = optimizer(model.parameters())
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 1, 12, 12)).astype(np.float32), np.arange(8) % 5
    minidl.manual_seed(1)                            # dropout draws the same masks on both devices
    found = []
    for _ in range(STEPS):
        loss = F.cross_entropy(model(minidl.tensor(images, device=device)), minidl.tensor(labels, device=device))
        step.zero_grad()
        loss.backward()
        step.step()
        found.append(loss.item())
    return found


OPTIMIZERS = {"sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9), "adam": lambda p: optim.Adam(p, lr=0.01)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_losses_of_a_training(optimizer, schedule, emulator):
    emulator.schedule = schedule
    here, there = losses("cpu", optimizer), losses("emu", optimizer)
    # Rounding differences of 1e-7 grow with every update; after twenty they are still far below what a wrong gradient does.
    np.testing.assert_allclose(there, here, rtol=2e-3)
    assert here[-1] < 0.6 * here[0]
    assert {"conv_fma", "conv_weight_grad_fma", "max_pool_grad", "dropout", "softmax_cross_entropy_grad"} <= emulator.launched
