"""Nets without convolution: a linear classifier and the multi-layer perceptron."""
from __future__ import annotations

from collections.abc import Sequence

from minidl import nn
from minidl.models.registry import register


def pixels(in_channels: int, image_size: int | Sequence[int]) -> int:
    """How many numbers an image holds."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return in_channels * height * width


@register("linear", parameters=30_730)
def linear(num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32) -> nn.Sequential:
    """Linear classifier: one template per class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels(in_channels, image_size), num_classes))


@register("mlp", parameters=308_310)
def mlp(
    num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32,
    hidden: Sequence[int] = (100,), dropout: float = 0.0,
) -> nn.Sequential:
    """Multi-layer perceptron: W2 max(0, W1 x), with as many hidden layers as ``hidden`` has sizes.

    With the default, 3072 -> 100 -> 10: 308,310 parameters.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    size = pixels(in_channels, image_size)
    for width in hidden:
        layers += [nn.Linear(size, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        size = width
    return nn.Sequential(*layers, nn.Linear(size, num_classes))
