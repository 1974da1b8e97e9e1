"""Modules that only change shapes: flattening, rearranging, resizing and padding."""
from __future__ import annotations

from typing import Any

from minidl.errors import ConfigError, ShapeError
from minidl.nn import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class Flatten(Module):
    """Join the axes ``start_dim`` to ``end_dim`` into one: (N, C, H, W) -> (N, C*H*W) by default."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Flatten ``input``."""
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """The axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Split axis ``dim`` into ``unflattened_size`` (one entry may be -1): the inverse of Flatten."""

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        """Split the axis of ``input``."""
        shape = tuple(input.shape)
        if not -len(shape) <= self.dim < len(shape):
            raise ShapeError(f"Unflatten: dim {self.dim} is out of range for an input of shape {shape}")
        axis = self.dim % len(shape)
        return input.reshape(*shape[:axis], *self.unflattened_size, *shape[axis + 1 :])

    def extra_repr(self) -> str:
        """The axis and its parts."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class PixelShuffle(Module):
    """(*, C r^2, H, W) -> (*, C, H r, W r): channels become pixels (Shi et al. 2016)."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Rearrange ``input``."""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """The factor."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(*, C, H r, W r) -> (*, C r^2, H, W): the inverse of PixelShuffle."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Rearrange ``input``."""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """The factor."""
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Deal the channels of (N, C, *) out anew, one of each group in turn (Zhang et al. 2017, ShuffleNet)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        """Rearrange ``input``."""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        """The groups."""
        return f"groups={self.groups}"


class Upsample(Module):
    """Resize images (N, C, H, W) to ``size``, or by ``scale_factor``; see :func:`minidl.nn.functional.interpolate`.

    Args:
        size: (h, w) or one int.
        scale_factor: one number or (h, w).
        mode: "nearest", "area", "bilinear" or "bicubic".
        align_corners: for the last two: the centres of the corner pixels stay where they are.
    """

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
    ) -> None:
        super().__init__()
        self.size, self.mode, self.align_corners = size, mode, align_corners
        self.scale_factor = tuple(map(float, scale_factor)) if isinstance(scale_factor, (tuple, list)) else (
            None if scale_factor is None else float(scale_factor))

    def forward(self, input: Tensor) -> Tensor:
        """Resize ``input``."""
        return F.interpolate(input, self.size, self.scale_factor, self.mode, bool(self.align_corners))

    def extra_repr(self) -> str:
        """The size or the factor, and the mode."""
        what = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"


class _Pad2d(Module):
    """Pads the last two axes by (left, right, top, bottom); one int pads all four sides."""

    mode = "constant"

    def __init__(self, padding: Any) -> None:
        super().__init__()
        if isinstance(padding, int):
            padding = (padding,) * 4
        if not isinstance(padding, (tuple, list)) or len(padding) != 4:
            raise ConfigError(
                f"{type(self).__name__}: padding must be an integer or (left, right, top, bottom), got {padding!r}"
            )
        self.padding = tuple(padding)
        self.value = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """Pad ``input`` (N, C, H, W)."""
        if self.mode == "constant":
            return F.pad(input, self.padding, "constant", self.value)
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        """The padding."""
        return str(self.padding)


class ConstantPad2d(_Pad2d):
    """Pad with ``value``."""

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        """The padding and the value."""
        return f"padding={self.padding}, value={self.value}"


class ZeroPad2d(_Pad2d):
    """Pad with zeros."""


class ReflectionPad2d(_Pad2d):
    """Pad with the mirror image, the edge itself not repeated."""

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """Pad by repeating the edge."""

    mode = "replicate"


class CircularPad2d(_Pad2d):
    """Pad with the opposite side."""

    mode = "circular"
