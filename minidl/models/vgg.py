"""VGG (Simonyan and Zisserman: Very deep convolutional networks for large-scale image recognition, 2014, arXiv:1409.1556).

Stacks of 3x3 convolutions: three of them see 7x7 pixels, as one 7x7 convolution does, with 27 C^2 instead of 49 C^2 weights
and two more nonlinearities.
"""
from __future__ import annotations

from typing import Any

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register
from minidl.models.weights import torchvision
from minidl.nn import init
from minidl.tensor import Tensor

#: The columns of the paper's table 1: filters of 3x3 convolutions, "M" for 2x2 max-pooling, "LRN", and filters of 1x1
#: convolutions as (filters, 1).
CONFIGURATIONS: dict[str, tuple[Any, ...]] = {
    "A": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "A-LRN": (64, "LRN", "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "B": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "C": (64, 64, "M", 128, 128, "M", 256, 256, (256, 1), "M", 512, 512, (512, 1), "M", 512, 512, (512, 1), "M"),
    "D": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    "E": (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"),
}


class VGG(nn.Module):
    """A net of one of the paper's configurations.

    Args:
        configuration: "A", "A-LRN", "B", "C", "D" or "E".
        batch_norm: a batch norm between each convolution and its ReLU (not in the paper).
        dropout: probability after the first and the second fully connected layer.
        fc_width: size of the hidden fully connected layers.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W at least 32, made for 224.  The last maps are pooled to 7x7,
    so that other sizes work.
    """

    def __init__(
        self, configuration: str, num_classes: int = 1000, in_channels: int = 3, batch_norm: bool = False,
        dropout: float = 0.5, fc_width: int = 4096,
    ) -> None:
        super().__init__()
        if configuration not in CONFIGURATIONS:
            raise ConfigError(f"VGG: configuration must be one of {', '.join(CONFIGURATIONS)}, got {configuration!r}")
        with init.skip_init():
            self.features = nn.Sequential(*self._layers(CONFIGURATIONS[configuration], in_channels, batch_norm))
            self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, fc_width), nn.ReLU(), nn.Dropout(dropout),
                nn.Linear(fc_width, fc_width), nn.ReLU(), nn.Dropout(dropout),
                nn.Linear(fc_width, num_classes),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                init.normal_(module.weight, 0.0, 0.01)
                init.zeros_(module.bias)

    @staticmethod
    def _layers(configuration: tuple[Any, ...], channels: int, batch_norm: bool) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for item in configuration:
            if item == "M":
                layers.append(nn.MaxPool2d(2, 2))
            elif item == "LRN":  # AlexNet's constants; alpha is divided by the size here, and is not in the paper
                layers.append(nn.LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0))
            else:
                filters, kernel = item if isinstance(item, tuple) else (item, 3)
                layers.append(nn.Conv2d(channels, filters, kernel, padding=kernel // 2))
                layers += [nn.BatchNorm2d(filters), nn.ReLU()] if batch_norm else [nn.ReLU()]
                channels = filters
        return layers

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


#: name -> configuration, parameters without and with batch norm, top-5 error of the paper (one net, one scale, S = 256).
_NETS = {
    "vgg11": ("A", 132_863_336, 132_868_840, 10.4),
    "vgg11_lrn": ("A-LRN", 132_863_336, None, 10.5),
    "vgg13": ("B", 133_047_848, 133_053_736, 9.9),
    "vgg16c": ("C", 133_638_952, 133_647_400, 9.4),
    "vgg16": ("D", 138_357_544, 138_365_992, 8.8),
    "vgg19": ("E", 143_667_240, 143_678_248, 9.0),
}
_WEIGHTS = {
    "vgg11": torchvision("vgg11-8a719046", 69.020, 88.628),
    "vgg13": torchvision("vgg13-19584684", 69.928, 89.246),
    "vgg16": torchvision("vgg16-397923af", 71.592, 90.382),
    "vgg19": torchvision("vgg19-dcbb9e9d", 72.376, 90.876),
    "vgg11_bn": torchvision("vgg11_bn-6002323d", 70.370, 89.810),
    "vgg13_bn": torchvision("vgg13_bn-abd245e5", 71.586, 90.374),
    "vgg16_bn": torchvision("vgg16_bn-6c64b313", 73.360, 91.516),
    "vgg19_bn": torchvision("vgg19_bn-c79401a0", 74.218, 91.842),
}


def _register(name: str, batch_norm: bool) -> None:
    configuration, plain, normalised, top5 = _NETS[name]
    parameters = normalised if batch_norm else plain
    full_name = name + "_bn" if batch_norm else name

    def build(
        num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096
    ) -> VGG:
        return VGG(configuration, num_classes, in_channels, batch_norm, dropout, fc_width)

    build.__doc__ = f"VGG, configuration {configuration}{', with batch norm' if batch_norm else ''}: {parameters:,} parameters."
    register(
        full_name, paper="arXiv:1409.1556", input_size=224, parameters=parameters, weights=_WEIGHTS.get(full_name, ()),
        reported="" if batch_norm else f"ILSVRC-2012 validation: top-5 error {top5} % (table 3, one scale of 256)",
    )(build)


for _name in _NETS:
    _register(_name, batch_norm=False)
    if _NETS[_name][2] is not None:
        _register(_name, batch_norm=True)
