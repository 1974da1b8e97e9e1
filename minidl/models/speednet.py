"""A net made to learn CIFAR-10 in minutes on a CPU.

Its ideas are those of the published speed runs, collected and measured by Jordan (2024, arXiv:2404.00498): a first layer that
whitens the image's patches and is not trained (Page 2018, "How to train your ResNet"), convolutions that begin as the
identity, batch norms without a scale, logits scaled down.  The widths and sizes are chosen for Winograd's F(4, 3): channels in
sixteens, and maps of 32, 16, 8 and 4 pixels, which 4x4 tiles cover exactly.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

from minidl import nn
from minidl.errors import ConfigError, ShapeError
from minidl.models.registry import register
from minidl.nn import functional as F
from minidl.nn import init
from minidl.ops.creation import tensor
from minidl.tensor import Tensor

ACTIVATIONS = ("relu", "gelu")
ENOUGH = 1000  # images: their 900,000 patches decide on 378 numbers
EPS = 5e-4  # of the whitening: a direction in which patches hardly differ is noise, and must not be blown up without bound


class Block(nn.Module):
    """conv, max-pooling, norm, activation, conv, norm, activation: (N, C, H, W) -> (N, planes, H/2, W/2).

    The pooling comes before the norm, which is then a quarter of the work.
    """

    def __init__(self, in_planes: int, planes: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(planes, momentum=0.4)  # few updates: the statistics have to follow soon
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(planes, momentum=0.4)
        self.activation = activation
        for norm in (self.norm1, self.norm2):
            assert norm.weight is not None
            norm.weight.requires_grad = False  # the next layer can scale as well
        for conv in (self.conv1, self.conv2):
            # The first channels pass through, the others are random: what a residual net gets from its shortcuts.
            init.dirac_(conv.weight.detach()[: conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        """The maps, half as high and wide."""
        x = self._normalised(self.norm1, self.pool(self.conv1(x)))
        return self._normalised(self.norm2, self.conv2(x))

    def _normalised(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return norm(x, relu=True) if self.activation == "relu" else F.gelu(norm(x))


class SpeedNet(nn.Module):
    """A whitening layer, three blocks of two convolutions, max-pooling, a linear layer.

    Before training, ``prepare`` sets the first layer's weights from training images.

    Args:
        image_size: side, or (height, width), of the images in pixels.
        widths: channels of the blocks, of which each halves the maps.
        filters: of the whitening layer, in pairs of opposite sign; at most two for each of a 3x3 patch's values.
        activation: "relu" or "gelu".
        scale: of the logits; a small one keeps the softmax soft while the learning rate is high.

    Shapes: (N, in_channels, H, W) -> (N, num_classes).
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32,
        widths: Sequence[int] = (64, 256, 256), filters: int = 32, activation: str = "relu", scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"speednet: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        last = height >> len(widths), width >> len(widths)
        if min(last) < 1 or not widths:
            raise ConfigError(
                f"speednet: widths {tuple(widths)} are the channels of blocks that halve the maps; there must be one at least, "
                f"and images of {height}x{width} allow {min(height, width).bit_length() - 1}"
            )
        if filters % 2 or not 2 <= filters <= 18 * in_channels:
            raise ConfigError(f"speednet: filters must be an even number from 2 to {18 * in_channels}, got {filters!r}")
        self.activation, self.scale = activation, scale
        self.whiten = nn.Conv2d(in_channels, filters, 3, padding=1, bias=False)
        self.whiten.weight.requires_grad = False
        planes, blocks = filters, []
        for channels in widths:
            blocks.append(Block(planes, channels, activation))
            planes = channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.MaxPool2d(last)
        self.fc = nn.Linear(planes, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        x = self.whiten(x)
        x = F.relu(x) if self.activation == "relu" else F.gelu(x)
        return self.fc(self.pool(self.blocks(x)).flatten(1)) * self.scale

    def prepare(self, images: Tensor) -> None:
        """Make the first layer whiten patches like those of ``images`` (N, C, H, W), preprocessed as for training.

        Its filters are e / sqrt(eigenvalue + 0.0005) for the first eigenvectors e of the 3x3 patches' covariance, and the same
        with the sign changed, since the activation drops one half of each: outputs that are uncorrelated, and of equal size.

        Raises:
            ShapeError: the images have other channels than the net, or are smaller than a patch.
        """
        weight = self.whiten.weight
        if images.ndim != 4 or images.shape[1] != weight.shape[1] or not len(images) or min(images.shape[2:]) < 3:
            raise ShapeError(
                f"SpeedNet.prepare: expected images (N, {weight.shape[1]}, H, W) of at least 3x3 pixels, "
                f"got shape {tuple(images.shape)}"
            )
        found = covariance(images[:ENOUGH])
        values, vectors = (part.tolist() for part in found.F.eigh(found.double().data))
        pairs = list(zip(values, zip(*vectors, strict=True), strict=True))[::-1][: len(weight) // 2]
        filters = [[x / math.sqrt(max(value, 0.0) + EPS) for x in vector] for value, vector in pairs]
        filters += [[-x for x in row] for row in filters]
        weight.copy_(tensor(filters).reshape(*weight.shape))


def covariance(images: Tensor) -> Tensor:
    """The mean product of each two of the 9C values in a 3x3 patch of ``images`` (N, C, H, W)."""
    columns = F.unfold(images, 3)  # (N, 9C, patches)
    products = columns @ columns.transpose(1, 2)
    return products.mean(0) / columns.shape[2]


@register("speednet", paper="arXiv:2404.00498", parameters=1_977_952)
def speednet(
    num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32,
    widths: Sequence[int] = (64, 256, 256), filters: int = 32, activation: str = "relu", scale: float = 1 / 9,
) -> SpeedNet:
    """Net for a speed run on CIFAR-10: a whitening layer and six convolutions, 1,977,952 parameters."""
    return SpeedNet(num_classes, in_channels, image_size, widths, filters, activation, scale)
