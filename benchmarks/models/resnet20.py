"""A training step of ResNet-20 on CIFAR-10's shapes: forward, cross-entropy, backward and SGD, through the public modules.

PyTorch runs in channels_last, the faster of its two memory formats here. Both nets start from the same weights, and the
learning rate is zero, so that the loss, which is compared, stays the same.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Case, Contender

BATCH = 128


def torch_resnet20() -> Any:
    """The same net in torch, with the same names in its state dict."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.stride, self.extra = stride, outputs - inputs

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.extra:
                half = self.extra // 2
                x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
            return F.relu(y + x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
            self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
            self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    return Net().to(memory_format=torch.channels_last)


def step(library: Any, model: Any, images: Any, labels: Any) -> Contender:
    optimizer = library.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
    loss_of = library.nn.CrossEntropyLoss()

    def call() -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


def contenders(with_torch: bool) -> dict[str, Contender]:
    import numpy as np

    import minidl
    import minidl.models

    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, 3, 32, 32), dtype=np.float32)
    labels = rng.integers(0, 10, BATCH)
    minidl.manual_seed(0)
    model = minidl.models.create("resnet20")
    found = {"minidl": step(minidl, model, minidl.tensor(images), minidl.tensor(labels))}
    if with_torch:
        import torch

        twin = torch_resnet20()
        twin.load_state_dict({name: torch.from_numpy(np.array(t.numpy())) for name, t in model.state_dict().items()})
        channels_last = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        found["torch"] = step(torch, twin, channels_last, torch.from_numpy(labels))
    return found


def cases() -> list[Case]:
    return [Case("resnet20 step", f"batch {BATCH}, 32x32, one training step; torch channels_last", contenders, target=0.48)]
