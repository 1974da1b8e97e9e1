"""The residual nets for ImageNet and their plain counterparts (He, Zhang, Ren, Sun 2015, arXiv:1512.03385).

A 7x7 convolution and max-pooling bring 224x224 pixels to 56x56; four stages of blocks with 64, 128, 256, 512 channels (four
times that in nets of bottlenecks) halve the maps to 7x7; then a global average and one linear layer.  Wide forms: Zagoruyko
and Komodakis 2016 (arXiv:1605.07146).
"""
from __future__ import annotations

from typing import Any

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register
from minidl.models.resnet_cifar import shortcut_a
from minidl.models.weights import torchvision
from minidl.nn import init
from minidl.tensor import Tensor


class PaddingShortcut(nn.Module):
    """The shortcut without parameters ("A"): every ``stride``-th pixel, zeros for the new channels."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H / stride, W / stride)."""
        return shortcut_a(x, self.out_channels, self.stride)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The shortcut with parameters ("B"): a 1x1 convolution and batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class _Block(nn.Module):
    """relu(f(x) + shortcut(x)), or relu(f(x)) when not ``residual``; a subclass says what f is.

    Sum and ReLU are computed with f's last batch norm, in one pass over memory, so a hook on that layer sees the block's result.
    """

    residual: bool
    downsample: nn.Module | None

    def shortcut(self, x: Tensor) -> Tensor | None:
        """What is added to f(x)."""
        if not self.residual:
            return None
        return x if self.downsample is None else self.downsample(x)


class BasicBlock(_Block):
    """Two 3x3 convolutions with batch norm.  ``width`` and ``stride_first`` are for Bottleneck, and ignored."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None, residual: bool = True,
        width: int | None = None, stride_first: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = self.bn1(self.conv1(x), relu=True)
        return self.bn2(self.conv2(y), relu=True, residual=self.shortcut(x))


class Bottleneck(_Block):
    """1x1 down to ``width`` channels, 3x3, and 1x1 up to four times ``channels``.

    At 256 channels a 3x3 convolution has 589,824 weights; the bottleneck's three convolutions have 69,632.
    ``stride_first`` puts the stride on the first 1x1 convolution, as published ("v1"), else on the 3x3 one ("v1.5").
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None, residual: bool = True,
        width: int | None = None, stride_first: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        width = width or channels
        strides = (stride, 1) if stride_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=strides[1], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = self.bn1(self.conv1(x), relu=True)
        y = self.bn2(self.conv2(y), relu=True)
        return self.bn3(self.conv3(y), relu=True, residual=self.shortcut(x))


class ResNet(nn.Module):
    """A net of four stages.

    Args:
        block: BasicBlock or Bottleneck.
        repeats: blocks in each stage.
        stride: where a bottleneck halves the maps: "v1.5" (on its 3x3 convolution, as torchvision) or "v1" (on its first
            1x1 convolution, as published: fewer operations, slightly less accurate).
        shortcut: where a block's shape changes: "B", a 1x1 convolution with batch norm; "A", zeros for the new channels.
        residual: False is the paper's plain net, without shortcuts.
        widening: factor on the width of the bottlenecks' 3x3 convolutions.
        zero_init_residual: start each block's last batch norm at 0, so that the block starts as the identity.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W at least 32 (smaller ones leave one pixel), made for 224.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], repeats: tuple[int, ...], num_classes: int = 1000,
        in_channels: int = 3, stride: str = "v1.5", shortcut: str = "B", residual: bool = True, widening: int = 1,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if stride not in ("v1", "v1.5"):
            raise ConfigError(f"ResNet: stride must be 'v1' or 'v1.5', got {stride!r}")
        if shortcut not in ("A", "B"):
            raise ConfigError(f"ResNet: shortcut must be 'A' or 'B', got {shortcut!r}")
        options = {"residual": residual, "stride_first": stride == "v1"}
        with init.skip_init():
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.maxpool = nn.MaxPool2d(3, 2, padding=1)
            channels = 64
            for index, count in enumerate(repeats):
                planes = 64 * 2**index
                blocks = []
                for i in range(count):
                    step = 2 if i == 0 and index else 1
                    out = planes * block.expansion
                    downsample: nn.Module | None = None
                    if residual and (step != 1 or channels != out):
                        downsample = projection(channels, out, step) if shortcut == "B" else PaddingShortcut(out, step)
                    blocks.append(block(channels, planes, step, downsample, width=planes * widening, **options))
                    channels = out
                self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.Linear)):
                module.reset_parameters()
        if zero_init_residual:
            last = "bn3.weight" if block is Bottleneck else "bn2.weight"
            for name, weight in self.named_parameters():
                if name.endswith(last):
                    init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        x = self.maxpool(self.bn1(self.conv1(x), relu=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


#: name -> block, repeats, widening, parameters, published weights.
_NETS: dict[str, tuple[Any, tuple[int, ...], int, int, Any]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 11_689_512, torchvision("resnet18-f37072fd", 69.758, 89.078)),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 21_797_672, torchvision("resnet34-b627a593", 73.314, 91.420)),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 25_557_032, torchvision("resnet50-0676ba61", 76.130, 92.862)),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 44_549_160, torchvision("resnet101-63fe2227", 77.374, 93.546)),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 60_192_808, torchvision("resnet152-394f9c45", 78.312, 94.046)),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 2, 68_883_240, torchvision("wide_resnet50_2-95faca4d", 78.468, 94.086)),
    "wide_resnet101_2": (
        Bottleneck, (3, 4, 23, 3), 2, 126_886_696, torchvision("wide_resnet101_2-32ee1156", 78.848, 94.284)
    ),
}
_REPORTED = "ILSVRC-2012 validation, ten crops: top-1 error {} %"
_ERRORS = {"resnet18": 27.88, "resnet34": 24.52, "resnet50": 22.85, "resnet101": 21.75, "resnet152": 21.43}
#: name -> repeats, parameters, top-1 error of the paper's plain nets.
_PLAIN = {"plain18": ((2, 2, 2, 2), 11_515_688, 27.94), "plain34": ((3, 4, 6, 3), 21_623_848, 28.54)}


def _register(name: str) -> None:
    block, repeats, widening, parameters, weights = _NETS[name]

    def build(
        num_classes: int = 1000, in_channels: int = 3, stride: str = "v1.5", shortcut: str = "B",
        zero_init_residual: bool = False,
    ) -> ResNet:
        return ResNet(
            block, repeats, num_classes, in_channels, stride, shortcut, widening=widening,
            zero_init_residual=zero_init_residual,
        )

    wide = f", bottlenecks {widening} times as wide" if widening > 1 else ""
    build.__doc__ = f"Residual net for ImageNet, {block.__name__} x {repeats}{wide}: {parameters:,} parameters."
    register(
        name, paper="arXiv:1605.07146" if wide else "arXiv:1512.03385", input_size=224, parameters=parameters,
        reported=_REPORTED.format(_ERRORS[name]) if name in _ERRORS else "", weights=weights,
    )(build)


def _register_plain(name: str) -> None:
    repeats, parameters, error = _PLAIN[name]

    def build(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
        return ResNet(BasicBlock, repeats, num_classes, in_channels, residual=False)

    build.__doc__ = f"Plain net for ImageNet, the residual one without shortcuts: {parameters:,} parameters."
    register(
        name, paper="arXiv:1512.03385", input_size=224, parameters=parameters, reported=_REPORTED.format(error)
    )(build)


for _name in _NETS:
    _register(_name)
for _name in _PLAIN:
    _register_plain(_name)
