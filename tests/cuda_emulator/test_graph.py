"""minidl.cuda.graph: a captured step computes what the step does, to the bit, on a stand-in for CuPy that records and repeats."""
import warnings

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn, optim
from minidl.errors import ConfigError, DeviceError, DTypeError, ShapeError
from tests.cuda_emulator.emulator import COMPILER
from tests.fake_cupy import fake_cupy, installer
from tests.fake_graph import with_capture

CALLS = 10


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    if COMPILER is None:
        pytest.skip("the CUDA emulator needs g++")
    for put in installer(monkeypatch, tmp_path):
        yield with_capture(put(fake_cupy(count=1)), monkeypatch)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 12), nn.ReLU(), nn.Dropout(0.5),
                         nn.Linear(12, 5))  # fmt: skip


def momentum(parameters):
    return optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)


def adam(parameters):
    return optim.Adam(parameters, lr=0.02)


def adamw(parameters):
    return optim.AdamW([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(parameters)])


def batches(calls=CALLS):
    rng = np.random.default_rng(0)
    for _ in range(calls):
        yield rng.standard_normal((6, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, 6)


class Run:
    """A training of some steps; ``wrap`` is what makes a graph of its step."""

    def __init__(self, model, optimizer, wrap, schedule=True):
        minidl.manual_seed(0)
        self.model = model().to("cuda")
        self.optimizer = optimizer(self.model.parameters())
        self.scheduler = optim.lr_scheduler.ExponentialLR(self.optimizer, 0.8) if schedule else None
        self.step = wrap(self.update)
        self.losses = []

    def update(self, images, labels):
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self, calls=CALLS):
        minidl.manual_seed(1)
        for images, labels in batches(calls):
            self.losses.append(self.step(minidl.tensor(images, device="cuda"), minidl.tensor(labels, device="cuda")))
            if self.scheduler is not None:
                self.scheduler.step()
        return self

    def everything(self):
        """All that a training leaves: losses, weights, buffers, gradients, the optimiser's state and the generator's."""
        found = {f"loss {i}": loss.item() for i, loss in enumerate(self.losses)}
        found |= {name: t.numpy() for name, t in self.model.state_dict().items()}
        found |= {f"{name}.grad": p.grad.numpy() for name, p in self.model.named_parameters()}
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{number} {key}": value.numpy() if hasattr(value, "numpy") else value for key, value in state.items()}
        found["generator"], found["lr"] = minidl.get_rng_state(), [g["lr"] for g in self.optimizer.param_groups]
        return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("model, optimizer", [(lenet, momentum), (lenet, adamw), (mlp, adam), (mlp, momentum)],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_the_same_as_the_step_to_the_bit(model, optimizer, cupy):
    expected = Run(model, optimizer, lambda step: step).train().everything()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = Run(model, optimizer, minidl.cuda.graph).train()
    assert run.step.reason is None and repr(run.step) == "<minidl.cuda.graph of update, captured>"
    assert_same(run.everything(), expected)
    launched = [entry for entry in cupy.calls if entry[0] == "graph"]
    assert len(launched) == CALLS - 3
