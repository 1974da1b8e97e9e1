"""Residual nets that normalise before they convolve, for CIFAR-10: thin and deep, or wide.

Batch norm and ReLU come before each convolution, so that the shortcut carries x itself from end to end (He, Zhang, Ren, Sun:
Identity mappings in deep residual networks, 2016, arXiv:1603.05027).  The wide nets have k times the filters in far fewer
layers (Zagoruyko and Komodakis: Wide residual networks, 2016, arXiv:1605.07146).
"""
from __future__ import annotations

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register
from minidl.nn import init
from minidl.tensor import Tensor


class _PreActBlock(nn.Module):
    """x + f(relu(bn1(x))); where the shape changes, a 1x1 convolution of the normalised x takes the place of x."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def branch(self, y: Tensor) -> Tensor:
        """The residual of the normalised input."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = self.bn1(x, relu=True)
        return (x if self.shortcut is None else self.shortcut(y)) + self.branch(y)


class PreActBasic(_PreActBlock):
    """Two 3x3 convolutions, dropout between them."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__(in_channels, channels, stride, dropout)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def branch(self, y: Tensor) -> Tensor:
        """The residual of the normalised input."""
        return self.conv2(self.dropout(self.bn2(self.conv1(y), relu=True)))


class PreActBottleneck(_PreActBlock):
    """1x1, 3x3, and 1x1 up to four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__(in_channels, 4 * channels, stride, dropout)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)

    def branch(self, y: Tensor) -> Tensor:
        """The residual of the normalised input."""
        y = self.conv2(self.bn2(self.conv1(y), relu=True))
        return self.conv3(self.dropout(self.bn3(y, relu=True)))


class PreActResNet(nn.Module):
    """A 3x3 convolution, three stages of blocks, a last batch norm, global average pooling and a linear layer.

    Args:
        block: PreActBasic or PreActBottleneck.
        blocks: how many in each stage.
        width: channels of the first stage (times 4 with bottlenecks); doubled in the second and third.
        dropout: probability before each block's last convolution.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); made for 32x32.
    """

    def __init__(
        self, block: type[PreActBasic] | type[PreActBottleneck], blocks: int, num_classes: int = 10, in_channels: int = 3,
        width: int = 16, dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for stage in range(3):
            layers = []
            for i in range(blocks):
                layers.append(block(channels, width * 2**stage, 2 if stage and not i else 1, dropout))
                channels = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn1 = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(self.bn1(x, relu=True).mean((2, 3)))


#: depth -> parameters, CIFAR-10 test error of the paper's table 2 in percent.
_THIN = {20: (272_282, None), 56: (855_578, None), 110: (1_730_522, 6.37), 164: (1_703_258, 5.46)}
#: (depth, k) -> parameters, CIFAR-10 test error of the paper's table 5 in percent.
_WIDE = {(16, 4): (2_748_890, None), (40, 4): (8_949_210, 4.53), (16, 8): (10_961_370, 4.27), (28, 10): (36_479_194, 4.00)}


def _register_thin(depth: int) -> None:
    parameters, error = _THIN[depth]
    bottleneck = depth >= 164
    block, per_block = (PreActBottleneck, 9) if bottleneck else (PreActBasic, 6)

    def build(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> PreActResNet:
        return PreActResNet(block, depth // per_block, num_classes, in_channels, width)

    kind = "bottlenecks" if bottleneck else "basic blocks"
    build.__doc__ = f"Pre-activation residual net of {depth} layers in {kind}, for CIFAR-10: {parameters:,} parameters."
    reported = f"CIFAR-10: test error {error} %" if error else ""
    register(f"preact_resnet{depth}", paper="arXiv:1603.05027", parameters=parameters, reported=reported)(build)


def _register_wide(depth: int, k: int) -> None:
    parameters, error = _WIDE[depth, k]

    def build(num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0) -> PreActResNet:
        if not 0 <= dropout < 1:
            raise ConfigError(f"wide_resnet: dropout must be at least 0 and less than 1, got {dropout}")
        return PreActResNet(PreActBasic, (depth - 4) // 6, num_classes, in_channels, 16 * k, dropout)

    build.__doc__ = f"Wide residual net of {depth} layers, {k} times the filters, for CIFAR-10: {parameters:,} parameters."
    reported = f"CIFAR-10: test error {error:.2f} %" if error else ""
    register(f"wide_resnet{depth}_{k}", paper="arXiv:1605.07146", parameters=parameters, reported=reported)(build)


for _depth in _THIN:
    _register_thin(_depth)
for _depth, _k in _WIDE:
    _register_wide(_depth, _k)
