"""The default net: small enough to train in two minutes on a laptop, good enough for shapes10."""
from __future__ import annotations

from collections.abc import Sequence

from minidl import nn
from minidl.models.registry import register
from minidl.tensor import Tensor


class SmallConv(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, then global average pooling and one linear layer.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W at least 2^len(widths).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        blocks = []
        for width in widths:
            blocks.append(nn.Sequential(
                nn.Conv2d(in_channels, width, 3, padding=1, bias=False),  # the batch norm has a bias of its own
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ))
            in_channels = width
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.fc(self.pool(self.features(x)).flatten(1))


@register("smallconv")
def smallconv(num_classes: int = 10, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64)) -> SmallConv:
    """Small conv net with batch norm (3 blocks of 16, 32, 64 channels); the default."""
    return SmallConv(num_classes, in_channels, widths)
