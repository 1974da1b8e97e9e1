"""The default net: small enough to train in two minutes on a laptop, good enough for shapes10."""
from __future__ import annotations

from collections.abc import Sequence

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register
from minidl.tensor import Tensor


class SmallConv(nn.Module):
    """Four convolutions, each with batch norm and ReLU, then global average pooling and one linear layer.

    The first, 5x5, has stride 2: at full size the maps would cost more than all the rest.  The second and third, 3x3, are
    followed by 2x2 max-pooling; the fourth, 3x3, sees 39x39 pixels, all of a small image.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W at least 8.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64, 64)
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ConfigError(f"smallconv: widths are the channels of its 4 convolutions, got {widths!r}")
        a, b, c, d = widths
        self.features = nn.Sequential(
            *_block(in_channels, a, 5, 2),
            *_block(a, b), nn.MaxPool2d(2),
            *_block(b, c), nn.MaxPool2d(2),
            *_block(c, d),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(d, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.fc(self.pool(self.features(x)).flatten(1))


def _block(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    # No bias in the convolution: the batch norm has one of its own.
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


@register("smallconv")
def smallconv(num_classes: int = 10, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64, 64)) -> SmallConv:
    """Small conv net with batch norm: four convolutions of 16, 32, 64 and 64 channels; the default."""
    return SmallConv(num_classes, in_channels, widths)
