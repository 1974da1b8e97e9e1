"""AlexNet: the single-column form that everybody uses, and the two-column original.

Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks, 2012; the single column is
from Krizhevsky: One weird trick for parallelizing convolutional neural networks, 2014 (arXiv:1404.5997).
"""
from __future__ import annotations

from minidl import nn
from minidl.models.registry import register
from minidl.models.weights import torchvision
from minidl.nn import init
from minidl.tensor import Tensor


class AlexNet(nn.Module):
    """Five convolutions of 64, 192, 384, 256, 256 filters and three fully connected layers; 61,100,840 parameters.

    Args:
        dropout: probability before the first and the second fully connected layer.
        fc_width: size of the hidden fully connected layers.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W at least 63, made for 224 or 227.  The last maps are pooled
    to 6x6, so that other sizes work; at 224 and 227 they are 6x6 already.
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 6 * 6, fc_width), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(fc_width, fc_width), nn.ReLU(),
            nn.Linear(fc_width, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _lrn() -> nn.LocalResponseNorm:
    # The paper's n = 5, k = 2, alpha = 1e-4, beta = 0.75: there alpha multiplies the sum over n channels, here their mean.
    return nn.LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0)


class AlexNetOriginal(nn.Module):
    """AlexNet as published: 96, 256, 384, 384, 256 filters in two columns, with local response normalisation.

    The second, fourth and fifth convolution see only their own column (two groups), since each of the two GPUs held one;
    60,965,224 parameters.  Weights start as the paper has them: normal with standard deviation 0.01, biases 1 in
    convolutions 2, 4, 5 and the hidden fully connected layers (so that ReLUs start alive), else 0.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); made for 227 (the paper says 224, which does not fit its own first
    layer: (224 - 11) / 4 is no integer).
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096
    ) -> None:
        super().__init__()
        with init.skip_init():
            self.features = nn.Sequential(
                nn.Conv2d(in_channels, 96, 11, stride=4), nn.ReLU(), _lrn(), nn.MaxPool2d(3, 2),
                nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), _lrn(), nn.MaxPool2d(3, 2),
                nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
                nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            )
            self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = nn.Sequential(
                nn.Dropout(dropout), nn.Linear(256 * 6 * 6, fc_width), nn.ReLU(),
                nn.Dropout(dropout), nn.Linear(fc_width, fc_width), nn.ReLU(),
                nn.Linear(fc_width, num_classes),
            )
        layers = [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        for layer, bias in zip(layers, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
            init.normal_(layer.weight, 0.0, 0.01)
            init.constant_(layer.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@register(
    "alexnet", paper="arXiv:1404.5997", input_size=224, parameters=61_100_840,
    weights=torchvision("alexnet-owt-7be5be79", 56.522, 79.066),
)
def alexnet(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096) -> AlexNet:
    """AlexNet in one column, as PyTorch has it: 61,100,840 parameters."""
    return AlexNet(num_classes, in_channels, dropout, fc_width)


@register(
    "alexnet_original", paper="Krizhevsky et al., NeurIPS 2012", input_size=227, parameters=60_965_224,
    reported="ILSVRC-2012 validation: top-1 error 40.7 %, top-5 18.2 % (one net, ten crops)",
)
def alexnet_original(
    num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096
) -> AlexNetOriginal:
    """AlexNet as published in 2012: two columns, local response normalisation, 60,965,224 parameters."""
    return AlexNetOriginal(num_classes, in_channels, dropout, fc_width)
