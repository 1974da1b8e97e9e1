"""Vision Transformer (Dosovitskiy et al.: An image is worth 16x16 words, 2020, arXiv:2010.11929).

The image is cut into square patches; each becomes a vector ("token"), a class token goes before them, and a Transformer
encoder mixes them by self-attention.  Attention does not know where a patch was, so its position is added: learned, from
sines and cosines, or not at all.
"""
from __future__ import annotations

import math
from typing import Any

from minidl import nn
from minidl.errors import ConfigError, ShapeError
from minidl.models.registry import register
from minidl.models.weights import Weights, torchvision
from minidl.nn import functional as F
from minidl.nn import init
from minidl.ops.creation import empty, tensor, zeros
from minidl.ops.shape import cat
from minidl.tensor import Tensor

POSITIONS = ("learned", "sincos", "none")
EPS = 1e-6  # of all layer norms, as the authors and torchvision have it


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Positions of a grid of patches from sines and cosines, without parameters: (1, 1 + height * width, dim).

    The formula of Vaswani et al. 2017 once for the row, in the first half of the vector, and once for the column:
    for k < dim/4,  w_k = 10000^(-4k/dim),  the quarters are sin(w row), cos(w row), sin(w column), cos(w column).
    The class token's are zeros.
    """
    if dim % 4:
        raise ConfigError(f"sincos_positions: dim must be divisible by 4, got {dim}")
    rates = [10_000.0 ** (-4 * k / dim) for k in range(dim // 4)]
    rows: list[list[float]] = [[0.0] * dim]
    for i in range(height):
        for j in range(width):
            rows.append([f(rate * at) for at in (i, j) for f in (math.sin, math.cos) for rate in rates])
    return tensor([rows])


def interpolate_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Learned positions of a grid of ``old`` (height, width) patches, for one of ``new``.

    Args:
        positions: (1, 1 + old height * old width, dim), the class token's first; it stays as it is.

    Returns:
        (1, 1 + new height * new width, dim), bicubic between the old grid's points, whose corners stay the corners: what
        torchvision does (the paper's section 3.2 leaves the formula open).

    Raises:
        ShapeError: ``positions`` does not belong to a grid of ``old``.
    """
    if positions.ndim != 3 or positions.shape[1] != 1 + old[0] * old[1]:
        raise ShapeError(
            f"interpolate_positions: positions {tuple(positions.shape)} are not those of a class token and a grid of "
            f"{old[0]}x{old[1]} patches, (1, {1 + old[0] * old[1]}, dim)"
        )
    if old == new:
        return positions
    token, grid = positions[:, :1], positions[:, 1:]
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=True)
    return cat([token, grid.flatten(2).transpose(1, 2)], 1)


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, num_heads: int, dim: int, mlp_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=EPS)
        self.self_attention = nn.MultiheadAttention(dim, num_heads, dropout=attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp_dim, dim), nn.Dropout(dropout)
        )
        for layer in (self.mlp[0], self.mlp[3]):
            init.xavier_uniform_(layer.weight)
            init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """(N, L, dim) -> the same; the attention weights (N, heads, L, L) are appended to ``maps``."""
        y = self.ln_1(x)
        y, weights = self.self_attention(y, y, y, need_weights=maps is not None, average_attn_weights=False)
        if maps is not None:
            maps.append(weights)
        x = x + self.dropout(y)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Positions, the blocks, and a last layer norm."""

    def __init__(
        self, grid: tuple[int, int], num_layers: int, num_heads: int, dim: int, mlp_dim: int, dropout: float,
        attention_dropout: float, positions: str,
    ) -> None:
        super().__init__()
        self.grid, self.dim, self.positions = grid, dim, positions
        if positions == "learned":
            self.pos_embedding = nn.Parameter(empty(1, 1 + grid[0] * grid[1], dim))
            init.normal_(self.pos_embedding, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential({
            f"encoder_layer_{i}": EncoderBlock(num_heads, dim, mlp_dim, dropout, attention_dropout)
            for i in range(num_layers)
        })
        self.ln = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor, grid: tuple[int, int], maps: list[Tensor] | None = None) -> Tensor:
        """Encode the tokens ``x`` (N, 1 + height * width, dim) of a ``grid`` of (height, width) patches."""
        if self.positions == "learned":
            x = x + interpolate_positions(self.pos_embedding, self.grid, grid)
        elif self.positions == "sincos":
            x = x + sincos_positions(*grid, self.dim).to(x.device)
        x = self.dropout(x)
        for block in self.layers:
            x = block(x, maps)
        return self.ln(x)


class VisionTransformer(nn.Module):
    """A Vision Transformer whose answer is read from the class token.

    Args:
        image_size: what the positions are made for, an int or (height, width); divisible by ``patch_size``.
        patch_size: side of the patches, in pixels.
        num_layers, num_heads: of the encoder.
        hidden_dim: length of the vectors.
        mlp_dim: width of the two-layer MLP in each block.
        positions: "learned", "sincos" (see ``sincos_positions``) or "none".
        dropout, attention_dropout: in the blocks, and of the attention weights.

    Shapes: (N, in_channels, H, W) -> (N, num_classes); H and W divisible by ``patch_size``.  Learned positions are
    interpolated when the images are of another size.
    """

    def __init__(
        self, image_size: int | tuple[int, int], patch_size: int, num_layers: int, num_heads: int, hidden_dim: int,
        mlp_dim: int, num_classes: int = 1000, in_channels: int = 3, positions: str = "learned", dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ConfigError(f"VisionTransformer: positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.patch_size = patch_size
        self.conv_proj = nn.Conv2d(in_channels, hidden_dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(zeros(1, 1, hidden_dim))
        self.encoder = Encoder(
            self._grid(height, width), num_layers, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, positions
        )
        self.heads = nn.Sequential({"head": nn.Linear(hidden_dim, num_classes)})
        init.trunc_normal_(self.conv_proj.weight, std=1 / math.sqrt(in_channels * patch_size**2))
        init.zeros_(self.conv_proj.bias)
        init.zeros_(self.heads.head.weight)
        init.zeros_(self.heads.head.bias)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """How many patches an image has, (rows, columns)."""
        p = self.patch_size
        if height % p or width % p or not height or not width:
            near = max(p, round(height / p) * p), max(p, round(width / p) * p)
            raise ShapeError(
                f"VisionTransformer: images of {height}x{width} cannot be cut into patches of {p}x{p}; "
                f"resize them to {near[0]}x{near[1]}"
            )
        return height // p, width // p

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``x``."""
        return self._encode(x, None)

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """The attention weights of every block for images ``x``: (N, heads, 1 + patches, 1 + patches) each.

        Row 0 is what the class token looks at: ``maps[-1][0, :, 0, 1:]`` reshaped to (heads, rows, columns) of the grid
        shows where each head of the last block looks.
        """
        maps: list[Tensor] = []
        self._encode(x, maps)
        return maps

    def _encode(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        grid = self._grid(*x.shape[2:])
        x = self.conv_proj(x).flatten(2).transpose(1, 2)  # (N, patches, hidden_dim)
        x = cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        return self.heads(self.encoder(x, grid, maps)[:, 0])

    def adapt_state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state dict as this net has it, from one with the MLP's old names or another image size's positions.

        torchvision's files call the MLP's layers linear_1 and linear_2; the positions of a square grid are interpolated.
        """
        new = {
            key.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3."): value for key, value in state.items()
        }
        key = "encoder.pos_embedding"
        if key in new and self.encoder.positions == "learned" and len(new[key].shape) == 3:
            side = math.isqrt(max(0, new[key].shape[1] - 1))
            if 1 + side**2 == new[key].shape[1] and side:
                new[key] = interpolate_positions(tensor(new[key]), (side, side), self.encoder.grid)
        return new


def _swag(file: str, top1: float, top5: float, size: int) -> Weights:
    return torchvision(
        file, top1, top5, source="torchvision, from SWAG (arXiv:2201.08371)", licence="CC-BY-NC-4.0", resize=size, crop=size
    )[0]


#: name -> patch, layers, heads, dim, MLP's width, parameters, published weights.
_NETS: dict[str, tuple[int, int, int, int, int, int, tuple[Weights, ...]]] = {
    "vit_b_16": (16, 12, 12, 768, 3072, 86_567_656, torchvision("vit_b_16-c867db91", 81.072, 95.318)),
    "vit_b_32": (32, 12, 12, 768, 3072, 88_224_232, torchvision("vit_b_32-d86f8d99", 75.912, 92.466)),
    "vit_l_16": (16, 24, 16, 1024, 4096, 304_326_632, torchvision("vit_l_16-852ce7e3", 79.662, 94.638, resize=242)),
    "vit_l_32": (32, 24, 16, 1024, 4096, 306_535_400, torchvision("vit_l_32-c7638314", 76.972, 93.070)),
    "vit_h_14": (14, 32, 16, 1280, 5120, 632_045_800, (
        _swag("vit_h_14_lc_swag-c1eb923e", 85.708, 97.730, 224), _swag("vit_h_14_swag-80465313", 88.552, 98.694, 518),
    )),
}


def _register(name: str) -> None:
    patch, layers, heads, dim, mlp_dim, parameters, weights = _NETS[name]

    def build(
        num_classes: int = 1000, in_channels: int = 3, image_size: int | tuple[int, int] = 224, positions: str = "learned",
        dropout: float = 0.0, attention_dropout: float = 0.0,
    ) -> VisionTransformer:
        return VisionTransformer(
            image_size, patch, layers, heads, dim, mlp_dim, num_classes, in_channels, positions, dropout, attention_dropout
        )

    build.__doc__ = f"Vision Transformer, {layers} blocks of width {dim}, patches of {patch}x{patch}: {parameters:,} parameters."
    register(name, paper="arXiv:2010.11929", input_size=224, parameters=parameters, weights=weights)(build)


for _name in _NETS:
    _register(_name)


@register("vit_tiny_cifar", paper="arXiv:2010.11929", input_size=32, parameters=2_693_578)
def vit_tiny_cifar(
    num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32, positions: str = "learned",
    dropout: float = 0.0, attention_dropout: float = 0.0, num_layers: int = 6, num_heads: int = 3, hidden_dim: int = 192,
    mlp_dim: int = 768,
) -> VisionTransformer:
    """Vision Transformer for CIFAR-10: 6 blocks of width 192, patches of 4x4, 2,693,578 parameters."""
    return VisionTransformer(
        image_size, 4, num_layers, num_heads, hidden_dim, mlp_dim, num_classes, in_channels, positions, dropout,
        attention_dropout,
    )
