"""The net of the ConvNetJS CIFAR-10 demo (Karpathy 2014)."""
from __future__ import annotations

from minidl import nn
from minidl.models.mlp import pixels
from minidl.models.registry import register


@register("convnetjs", paper="Karpathy, the ConvNetJS CIFAR-10 demo, 2014", parameters=22_466, reported="CIFAR-10: about 80 %")
def convnetjs(num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32) -> nn.Sequential:
    """ConvNetJS's CIFAR-10 net: three 5x5 convolutions of 16, 20, 20 filters, 22,466 parameters.

    1,216 + 8,020 + 10,020 + 3,210 for 32x32x3 images and 10 classes.  Its demo trains with Adadelta, batches of 4, L2
    1e-4, and averages test predictions over shifted and flipped copies.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    layers: list[nn.Module] = []
    for channels in (16, 20, 20):
        layers += [nn.Conv2d(in_channels, channels, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        in_channels = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(pixels(in_channels, (height // 8, width // 8)), num_classes))
