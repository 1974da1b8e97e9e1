"""SqueezeNet (Iandola et al.: AlexNet-level accuracy with 50x fewer parameters, 2016, arXiv:1602.07360)."""
from __future__ import annotations

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register
from minidl.models.weights import torchvision
from minidl.nn import init
from minidl.ops.shape import cat
from minidl.tensor import Tensor


class Fire(nn.Module):
    """Squeeze to few channels by 1x1 convolutions, expand by as many 1x1 as 3x3 ones side by side."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 2 * expand, H, W)."""
        x = self.squeeze_activation(self.squeeze(x))
        return cat([self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Fire modules between three max-poolings; the classifier is a 1x1 convolution and a global average.

    Args:
        version: "1_0" as published, or "1_1", the authors' revision with 2.4 times fewer operations.
        dropout: probability before the classifier.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W at least 21 (1_1: 17), made for 224.

    The classifier ends in a ReLU, as published and as in torchvision: a class whose scores fall below zero for every image
    gets no gradient any more and stays at 0.  With few images or small maps this happens within a dozen steps, in PyTorch as
    here; where it does, start the last convolution's bias at 1: ``nn.init.ones_(net.classifier[1].bias)``.
    """

    def __init__(
        self, version: str = "1_0", num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if version not in ("1_0", "1_1"):
            raise ConfigError(f"SqueezeNet: version must be '1_0' or '1_1', got {version!r}")
        first = (96, 7) if version == "1_0" else (64, 3)
        pools = (0, 3, 7) if version == "1_0" else (0, 2, 4)  # before which Fire
        layers: list[nn.Module] = [nn.Conv2d(in_channels, first[0], first[1], stride=2), nn.ReLU()]
        channels = first[0]
        fires = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
        for index, (squeeze, expand) in enumerate(fires):
            if index in pools:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Conv2d(channels, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_uniform_(module.weight)
                init.zeros_(module.bias)
        init.normal_(self.classifier[1].weight, 0.0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images ``x``; they end in a ReLU, so none is negative."""
        return self.classifier(self.features(x)).flatten(1)


@register(
    "squeezenet1_0", paper="arXiv:1602.07360", input_size=224, parameters=1_248_424,
    weights=torchvision("squeezenet1_0-b66bff10", 58.092, 80.420),
)
def squeezenet1_0(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> SqueezeNet:
    """SqueezeNet as published: 1,248,424 parameters."""
    return SqueezeNet("1_0", num_classes, in_channels, dropout)


@register(
    "squeezenet1_1", paper="arXiv:1602.07360", input_size=224, parameters=1_235_496,
    weights=torchvision("squeezenet1_1-b8a52dc0", 58.178, 80.624),
)
def squeezenet1_1(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> SqueezeNet:
    """SqueezeNet 1.1, its authors' faster revision: 1,235,496 parameters."""
    return SqueezeNet("1_1", num_classes, in_channels, dropout)
