"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998)."""
from __future__ import annotations

from minidl import nn
from minidl.errors import ConfigError, ShapeError
from minidl.models.registry import register
from minidl.nn import functional as F
from minidl.nn import init
from minidl.ops.creation import tensor
from minidl.ops.shape import stack
from minidl.tensor import Tensor

SIDE = 32  # the digits of 28x28 pixels stand in a frame of 32x32, so that strokes near the edge reach a filter's centre


def frame(x: Tensor) -> Tensor:
    """Pad images smaller than 32x32 with zeros on all sides, as the paper does."""
    height, width = x.shape[-2:]
    if height > SIDE or width > SIDE:
        raise ShapeError(f"LeNet-5: images of {height}x{width} are too large, it takes up to {SIDE}x{SIDE}; resize them")
    if (height, width) == (SIDE, SIDE):
        return x
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    return F.pad(x, (left, SIDE - width - left, top, SIDE - height - top))


class LeNet5(nn.Module):
    """LeNet-5 as it is built today: average pooling, every C3 filter sees every map, a linear output; 61,706 parameters.

    Args:
        activation: "tanh", "sigmoid" or "relu".

    Shapes: (N, in_channels, H, W) with H, W <= 32 (smaller ones are framed with zeros) -> (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, activation: str = "tanh") -> None:
        super().__init__()
        if activation not in ("tanh", "sigmoid", "relu"):
            raise ConfigError(f"lenet5: activation must be 'tanh', 'sigmoid' or 'relu', got {activation!r}")
        act = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}[activation]
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5), act(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), act(), nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, num_classes),
        )
        gain = init.calculate_gain(activation)
        for module in self.modules():  # torch's default start is too small for tanh; sigmoid then does not train at all
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                init.xavier_uniform_(module.weight, 4.0 if activation == "sigmoid" else gain)
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self.classifier(self.features(frame(x)))


#: Which S2 maps each of the 16 C3 maps sees (the paper's table I): six neighbours of three, six of four, three broken
#: fours, and one that sees all.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)

#: A 7x12 picture of each digit, the target of F6's 84 units (black +1, white -1), drawn in rows of 7.
GLYPHS = (
    "....... ..###.. .#...#. #.....# #.....# #.....# #.....# #.....# #.....# .#...#. ..###.. .......",
    "....... ...#... ..##... .#.#... ...#... ...#... ...#... ...#... ...#... ...#... .#####. .......",
    "....... ..####. .#....# ......# ......# .....#. ....#.. ...#... ..#.... .#..... ####### .......",
    "....... .#####. #.....# ......# ......# ..####. ......# ......# ......# #.....# .#####. .......",
    "....... ....##. ...#.#. ..#..#. .#...#. #....#. ####### .....#. .....#. .....#. .....#. .......",
    "....... ####### #...... #...... #.####. ##....# ......# ......# ......# #.....# .#####. .......",
    "....... ..####. .#..... #...... #...... #.####. ##....# #.....# #.....# .#....# ..####. .......",
    "....... ####### ......# .....#. .....#. ....#.. ....#.. ...#... ...#... ..#.... ..#.... .......",
    "....... .#####. #.....# #.....# #.....# .#####. #.....# #.....# #.....# #.....# .#####. .......",
    "....... .#####. #.....# #.....# #.....# .###### ......# ......# ......# .#....# ..####. .......",
)


def scaled_tanh(x: Tensor) -> Tensor:
    """1.7159 tanh(2x/3): its value is ±1 at ±1, where it bends most (the paper's appendix A)."""
    return F.tanh(x * (2 / 3)) * 1.7159


class Subsampling(nn.Module):
    """S2 and S4: the sum over 2x2 windows times one weight per map, plus one bias per map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor([1.0] * channels))
        self.bias = nn.Parameter(tensor([0.0] * channels))

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width of ``x``."""
        return F.avg_pool2d(x, 2) * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class SparseConv(nn.Module):
    """C3: 16 filters of 5x5, each over its own 3 to 6 of the 6 input maps (C3_TABLE); 1,516 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.ModuleList(nn.Conv2d(len(maps), 1, 5) for maps in C3_TABLE)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, 14, 14) -> (N, 16, 10, 10)."""
        # One dense convolution whose absent connections are zero: faster than sixteen small ones.
        weight = stack([self._dense(conv.weight, maps) for conv, maps in zip(self.filters, C3_TABLE, strict=True)])
        bias = stack([conv.bias[0] for conv in self.filters])
        return F.conv2d(x, weight, bias)

    @staticmethod
    def _dense(weight: Tensor, maps: tuple[int, ...]) -> Tensor:
        """One filter (1, len(maps), 5, 5) as (6, 5, 5), zero for the maps that it does not see."""
        empty = weight[0, 0] * 0
        return stack([weight[0, maps.index(m)] if m in maps else empty for m in range(6)])


class LeNet5Original(nn.Module):
    """LeNet-5 as published: trainable subsampling, sparse C3, and an output that measures distances; 60,000 parameters.

    156 (C1) + 12 (S2) + 1,516 (C3) + 32 (S4) + 48,120 (C5) + 10,164 (F6); the output's 10 x 84 codes are fixed pictures of
    the digits.  The paper's output is the squared distance of F6 to a class's code, small for the right class; here it is
    negated, so that the largest is the answer and cross-entropy can train it.

    Shapes: (N, 1, H, W) with H, W <= 32 (smaller ones are framed with zeros) -> (N, num_classes), num_classes <= 10.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        if in_channels != 1 or not 1 <= num_classes <= len(GLYPHS):
            raise ConfigError(
                f"lenet5_original: takes 1 channel and up to 10 classes, as published, got {in_channels} and {num_classes}; "
                "lenet5 takes any"
            )
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = SparseConv()
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        codes = [[1.0 if c == "#" else -1.0 for c in glyph.replace(" ", "")] for glyph in GLYPHS[:num_classes]]
        self.register_buffer("codes", tensor(codes))
        for module in self.modules():  # the paper's start: uniform in ±2.4 / fan_in
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                bound = 2.4 / module.weight[0].numel()
                init.uniform_(module.weight, -bound, bound)
                init.uniform_(module.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Minus the squared distances of F6 to the classes' codes."""
        x = scaled_tanh(self.c1(frame(x)))
        x = scaled_tanh(self.s2(x))
        x = scaled_tanh(self.c3(x))
        x = scaled_tanh(self.s4(x))
        x = scaled_tanh(self.c5(x)).flatten(1)
        x = scaled_tanh(self.f6(x))
        return -((x.reshape(-1, 1, 84) - self.codes) ** 2).sum(2)


@register("lenet5", paper="LeCun et al., Proc. IEEE 86, 1998", parameters=61_706)
def lenet5(num_classes: int = 10, in_channels: int = 1, activation: str = "tanh") -> LeNet5:
    """LeNet-5 as built today: average pooling, tanh, 61,706 parameters for grey images."""
    return LeNet5(num_classes, in_channels, activation)


@register(
    "lenet5_original", paper="LeCun et al., Proc. IEEE 86, 1998", parameters=60_000,
    reported="MNIST: test error 0.95 %, 0.8 % with distorted training images",
)
def lenet5_original(num_classes: int = 10, in_channels: int = 1) -> LeNet5Original:
    """LeNet-5 as published in 1998: sparse C3, trainable subsampling, 60,000 parameters."""
    return LeNet5Original(num_classes, in_channels)
