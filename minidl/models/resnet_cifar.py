"""The residual nets for CIFAR-10 and their plain counterparts (He, Zhang, Ren, Sun 2015, section 4.2).

Depth 6n + 2: a 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, global average pooling, a linear
layer.  The shortcuts have no parameters ("option A"), so a plain net has as many as its residual twin.
"""
from __future__ import annotations

from typing import Any

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register
from minidl.nn import functional as F
from minidl.nn import init
from minidl.tensor import Tensor

DEPTHS = (20, 32, 44, 56, 110)
PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}  # 3 channels, 10 classes
ERRORS = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}  # CIFAR-10 test error in percent (the paper's table 6)


def shortcut_a(x: Tensor, channels: int, stride: int) -> Tensor:
    """The shortcut without parameters: every ``stride``-th pixel, and zeros for the new channels, half on each side."""
    if stride > 1:
        x = x[:, :, ::stride, ::stride]
    extra = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, extra // 2, extra - extra // 2)) if extra else x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm: relu(x + f(x)), or relu(f(x)) when not ``residual``."""

    def __init__(self, in_planes: int, planes: int, stride: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.stride, self.residual = stride, residual
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_planes, H, W) -> (N, planes, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x), relu=True)
        y = self.conv2(y)
        shortcut = shortcut_a(x, y.shape[1], self.stride) if self.residual else None
        return self.bn2(y, relu=True, residual=shortcut)  # relu(bn2(y) + shortcut)


class CifarResNet(nn.Module):
    """A net of the given depth.

    Args:
        depth: 6n + 2, n >= 1.
        residual: with shortcuts; False is the paper's plain net.
        width: channels of the first stage, 16 in the paper.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); made for 32x32.
    """

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, residual: bool = True, width: int = 16
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(f"CifarResNet: depth must be 6n + 2 (8, 14, 20, 26, 32, ...), got {depth}")
        n = depth // 6
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, n, 1, residual)
        self.layer2 = self._stage(width, 2 * width, n, 2, residual)
        self.layer3 = self._stage(2 * width, 4 * width, n, 2, residual)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_planes: int, planes: int, n: int, stride: int, residual: bool) -> nn.Sequential:
        first = BasicBlock(in_planes, planes, stride, residual)
        return nn.Sequential(first, *(BasicBlock(planes, planes, 1, residual) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        x = self.bn1(self.conv1(x), relu=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _register(depth: int, residual: bool) -> None:
    def build(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> Any:
        return CifarResNet(depth, num_classes, in_channels, residual, width)

    kind = "Residual" if residual else "Plain"
    build.__doc__ = f"{kind} net of {depth} layers for CIFAR-10 (He et al. 2015), {PARAMETERS[depth]:,} parameters."
    register(
        f"{'resnet' if residual else 'plain'}{depth}", paper="arXiv:1512.03385", parameters=PARAMETERS[depth],
        reported=f"CIFAR-10: test error {ERRORS[depth]} %" if residual else "",
    )(build)


for _depth in DEPTHS:
    _register(_depth, residual=True)
    _register(_depth, residual=False)
