"""The nets that are timed, and the ratios to PyTorch that we promise to stay under."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

INFERENCE_TARGET = 1.0  # one image, forward only
MEMORY_TARGET = 0.8


@dataclass(frozen=True)
class Net:
    """A net of the zoo with its data.

    Args:
        name: how the cases are called: "NAME step" and "NAME batch 1".
        model: its name in the zoo.
        batch: images in a training step.
        shape: of an image, (C, H, W).
        classes: length of the output.
        target: the ratio of a training step to the best of PyTorch's eager forms.
        options: of the zoo's builder, the number of classes aside.
    """

    name: str
    model: str
    batch: int
    shape: tuple[int, int, int]
    classes: int
    target: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def what(self) -> str:
        channels, height, width = self.shape
        return f"batch {self.batch}, {channels}x{height}x{width}"


NETS = (
    Net("lenet5", "lenet5", 128, (1, 28, 28), 10, 0.60),
    Net("mlp3", "mlp", 128, (1, 28, 28), 10, 0.60, {"in_channels": 1, "image_size": 28, "hidden": (256, 128)}),
    Net("resnet20", "resnet20", 128, (3, 32, 32), 10, 0.48),
    Net("vit", "vit_tiny_cifar", 64, (3, 32, 32), 10, 0.80),
    Net("alexnet", "alexnet", 32, (3, 224, 224), 1000, 0.50),
    Net("resnet18", "resnet18", 16, (3, 224, 224), 1000, 0.55),
    Net("vgg11", "vgg11", 8, (3, 224, 224), 1000, 0.55),
    Net("resnet50", "resnet50", 8, (3, 224, 224), 1000, 0.75),
)
