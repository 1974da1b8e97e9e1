"""``minidl train --device cuda``, and what it is made of, on the stand-in for CuPy and the CUDA emulator."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import minidl
from minidl import nn, optim
from minidl.cli import cli
from minidl.data import ArrayDataset, DataLoader
from minidl.errors import OutOfMemoryError
from minidl.nn import functional as F
from minidl.train import Trainer
from tests.cuda_emulator.emulator import COMPILER
from tests.fake_cupy import fake_cupy

needs_kernels = pytest.mark.skipif(COMPILER is None, reason="the CUDA emulator needs g++")


def net():
    minidl.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 5),
    )  # fmt: skip


def losses(device):
    model = net().to(device)
    step = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 1, 12, 12)).astype(np.float32), np.arange(8) % 5
    minidl.manual_seed(1)  # dropout draws the same masks on both devices
    found = []
    for _ in range(3):
        loss = F.cross_entropy(model(minidl.tensor(images, device=device)), minidl.tensor(labels, device=device))
        step.zero_grad()
        loss.backward()
        step.step()
        found.append(loss.item())
    return found


@needs_kernels
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_two_devices_in_one_process(device, install):
    cupy = install(fake_cupy())
    # Rounding differences of 1e-7 grow with every update; after three they are far below what a wrong gradient does.
    np.testing.assert_allclose(losses(device), losses("cpu"), rtol=1e-4)
    assert {call[2] for call in cupy.calls if call[0] == "launch"} >= {"max_pool_grad", "dropout"}


@needs_kernels
def test_minidl_train(install, tmp_path):
    install(fake_cupy())
    arguments = "train --data shapes10 --model smallconv --limit 12 --batch-size 4 --epochs 2 --max-steps 4 --seed 3 --threads 1"
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        result = CliRunner().invoke(cli, [*arguments.split(), "--quiet", "--device", device, "--out", str(out)])
        assert result.exit_code == 0, result.output
        found[device] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for here, there in zip(found["cpu"], found["cuda"], strict=True):
        assert here["kind"] == there["kind"] and here["step"] == there["step"]
        if here["kind"] == "epoch":
            # As above; the augmented images are the same bits.
            assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-3)
            assert there["test_loss"] == pytest.approx(here["test_loss"], rel=1e-3)
    assert minidl.cuda.max_memory_allocated() > 0


@pytest.mark.parametrize(
    "device, words",
    [
        ("cuda:7", "cuda:7: there are 2 devices, numbered from 0"),
        ("gpu", "device 'gpu': not known; use 'cpu', 'cuda' or 'cuda:0'"),
    ],
)
def test_a_device_that_is_not_there(device, words, install, tmp_path):
    install(fake_cupy())
    result = CliRunner().invoke(cli, ["train", "--limit", "8", "--device", device, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and words in result.output and result.output.count("\n") == 1


def test_minidl_train_without_a_gpu(install, tmp_path):
    install(None)
    result = CliRunner().invoke(cli, ["train", "--limit", "8", "--device", "cuda", "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and "cuda: CuPy is not installed; pip install" in result.output


class Hungry(nn.Module):
    """Allocates 64 KiB for each image."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        minidl.zeros(x.shape[0], 1 << 14, device=x.device)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    "limit, words",
    [
        (600, r"step 1: a batch of 32 does not fit, a batch of 8 should \(--batch-size 8\); out of memory on cuda:0: 2.0 MiB"),
        (48, r"step 1: a batch of 32 does not fit, nor would one image: take a smaller net; out of memory"),
    ],
)
def test_too_little_memory(limit, words, install):
    install(fake_cupy(limit=limit << 10))
    data = ArrayDataset(np.zeros((64, 1, 4, 4), np.uint8), np.arange(64) % 2, name="zeros")
    model = Hungry().to("cuda")
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1), DataLoader(data, 32), device="cuda")
    with pytest.raises(OutOfMemoryError, match=words):
        trainer.fit()
