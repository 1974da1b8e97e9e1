"""OverFeat (Sermanet et al.: OverFeat: integrated recognition, localization and detection using convnets, 2013)."""
from __future__ import annotations

from minidl import nn
from minidl.models.registry import register
from minidl.tensor import Tensor


class OverFeat(nn.Module):
    """The accurate (large) net of the paper's table 3: six convolutions of 96 to 1024 filters, three full layers.

    Windows of max-pooling do not overlap: 3x3, 2x2 and 3x3.  (Razavian et al. 2014, whom the lectures quote, write "3x3 and
    5x5"; 5x5 is the size of the maps after the last pooling.)  144,656,488 parameters, the paper's "144 million".

    Args:
        dropout: probability before the first and the second fully connected layer.
        fc_width: size of the hidden fully connected layers.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); made for 221.
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3),
            nn.Conv2d(96, 256, 7), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(),
            nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(),
            nn.Conv2d(512, 1024, 3, padding=1), nn.ReLU(),
            nn.Conv2d(1024, 1024, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((5, 5))  # changes nothing at 221
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(1024 * 5 * 5, fc_width), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(fc_width, fc_width), nn.ReLU(),
            nn.Linear(fc_width, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@register(
    "overfeat", paper="arXiv:1312.6229", input_size=221, parameters=144_656_488,
    reported="ILSVRC-2012 validation: top-5 error 14.18 % (one accurate net, four scales, fine stride)",
)
def overfeat(num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, fc_width: int = 4096) -> OverFeat:
    """OverFeat, the accurate net for 221x221 images: 144,656,488 parameters."""
    return OverFeat(num_classes, in_channels, dropout, fc_width)
