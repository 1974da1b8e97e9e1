"""Conv2d and ConvTranspose2d."""
from __future__ import annotations

import math
from typing import Any

from minidl.errors import ConfigError, ShapeError
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.creation import empty
from minidl.tensor import Tensor

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def pair(value: Any, what: str) -> tuple[int, int]:
    """An int or an (h, w) pair as a pair; ``what`` names it in the error."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise ConfigError(f"{what} must be an integer or a pair (height, width) of integers, got {value!r}")


class _ConvNd(Module):
    """What Conv2d and ConvTranspose2d share: options, parameters and their initial values."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, output_padding: Any,
        dilation: Any, groups: int, bias: bool, padding_mode: str, transposed: bool, device: Any, dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(groups, int) or groups < 1:
            raise ConfigError(f"{name}: groups must be a positive integer, got {groups!r}")
        for what, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if not isinstance(channels, int) or channels < 0:
                raise ConfigError(f"{name}: {what} must be a non-negative integer, got {channels!r}")
            if channels % groups:
                raise ShapeError(f"{name}: {what}={channels} is not divisible by groups={groups}")
        if padding_mode not in PADDING_MODES:
            raise ConfigError(f"{name}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size, f"{name}: kernel_size")
        self.stride = pair(stride, f"{name}: stride")
        self.dilation = pair(dilation, f"{name}: dilation")
        self.output_padding = pair(output_padding, f"{name}: output_padding")
        self.padding = padding
        self.padding_mode, self.transposed = padding_mode, transposed
        for what, values in (("kernel_size", self.kernel_size), ("stride", self.stride), ("dilation", self.dilation)):
            if min(values) < 1:
                raise ConfigError(f"{name}: {what} must be at least 1, got {values}")
        split = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(empty((*split, *self.kernel_size), dtype=dtype, device=device))
        if bias:
            self.bias = Parameter(empty((out_channels,), dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weight and bias again: uniform in ±1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            init.uniform_fan_in_(self.bias, math.prod(self.weight.shape[1:]))

    def extra_repr(self) -> str:
        """The options that differ from their defaults, as torch prints them."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding not in ((0, 0), 0):
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != (0, 0):
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class Conv2d(_ConvNd):
    """2-D convolution (cross-correlation, as every deep-learning library has it).

    y[n, o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] * x[n, c, i*stride + u*dilation - padding, ...]

    Args:
        in_channels, out_channels: channels of input and output; both divisible by ``groups``.
        kernel_size, stride, dilation: an int or (height, width).
        padding: an int, (height, width), ((top, bottom), (left, right)), "valid" (none) or "same" (output as large as
            the input; needs stride 1; an odd total puts the extra row or column at the bottom or right).
        groups: split the channels into groups that do not see each other; ``groups=in_channels`` is depthwise.
        padding_mode: what lies beyond the edge: "zeros", "reflect", "replicate" or "circular".
        strict: raise a ShapeError when the kernel's steps do not end exactly at the input's edge ("doesn't fit")
            instead of dropping the rest (PyTorch's floor, the default).

    Shapes: x (N, C, H, W) -> (N, out_channels, H', W'), H' = (H + top + bottom - dilation*(kernel - 1) - 1) // stride + 1;
    weight (out_channels, in_channels/groups, kh, kw); bias (out_channels,).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None, *, strict: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, _conv_padding(padding), 0, dilation, groups, bias,
            padding_mode, False, device, dtype,
        )
        if padding == "same" and self.stride != (1, 1):
            raise ConfigError(f"Conv2d: padding='same' needs stride 1, got stride {self.stride}; give the padding in numbers")
        self.strict = strict
        self._border = None if padding_mode == "zeros" else self._explicit_padding()

    def _explicit_padding(self) -> tuple[int, int, int, int]:
        """The padding as F.pad wants it: (left, right, top, bottom)."""
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            v, h = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            return h // 2, h - h // 2, v // 2, v - v // 2
        (top, bottom), (left, right) = ((p, p) if isinstance(p, int) else p for p in self.padding)
        return left, right, top, bottom

    def forward(self, input: Tensor, *, relu: bool = False) -> Tensor:
        """Convolve ``input`` (N, in_channels, H, W) or (in_channels, H, W); ``relu=True`` returns max(result, 0) in one pass."""
        padding = self.padding
        if self._border is not None:
            input, padding = F.pad(input, self._border, mode=self.padding_mode), 0
        geometry = (self.stride, padding, self.dilation, self.groups)
        if self.strict:
            return F.conv2d(input, self.weight, self.bias, *geometry, strict=True, name=repr(self), relu=relu)
        return F.conv2d(input, self.weight, self.bias, *geometry, relu=relu)

    def extra_repr(self) -> str:
        """The options that differ from their defaults, as torch prints them."""
        return super().extra_repr() + (", strict=True" if self.strict else "")


def _conv_padding(padding: Any) -> Any:
    if padding in ("same", "valid"):
        return padding
    if isinstance(padding, str):
        raise ConfigError(f"Conv2d: padding must be numbers, 'same' or 'valid', got {padding!r}")
    if isinstance(padding, (tuple, list)) and len(padding) == 2 and not any(isinstance(side, int) for side in padding):
        values: Any = tuple(pair(side, "Conv2d: each side of padding") for side in padding)
        lowest = min(min(side) for side in values)
    else:
        if isinstance(padding, (tuple, list)) and len(padding) == 4:
            pairs = tuple(padding[:2]), tuple(padding[2:])
            raise ConfigError(f"Conv2d: padding={padding!r}: for top, bottom, left and right give padding={pairs}")
        values = pair(padding, "Conv2d: padding")
        lowest = min(values)
    if lowest < 0:
        raise ConfigError(f"Conv2d: padding must not be negative, got {padding!r}")
    return values


class ConvTranspose2d(_ConvNd):
    """Transposed convolution: the gradient of Conv2d with respect to its input, used to enlarge maps.

    Args as Conv2d's, with ``padding`` cutting the output's border and ``output_padding`` (smaller than stride or
    dilation) adding rows and columns at the bottom and right, to choose among the sizes that a strided convolution maps
    to the same one.

    Shapes: x (N, C, H, W) -> (N, out_channels, H', W'), H' = (H-1)*stride - 2*padding + dilation*(kernel-1) +
    output_padding + 1; weight (in_channels, out_channels/groups, kh, kw).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ConfigError(f"ConvTranspose2d: only padding_mode='zeros' exists, got {padding_mode!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, pair(padding, "ConvTranspose2d: padding"), output_padding,
            dilation, groups, bias, padding_mode, True, device, dtype,
        )

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Enlarge ``input``; ``output_size`` (height, width) picks ``output_padding`` for this call."""
        extra = self.output_padding if output_size is None else self._padding_for(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _padding_for(self, input: Tensor, output_size: Any) -> tuple[int, int]:
        wanted = tuple(output_size)[-2:]
        smallest = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(
                input.shape[-2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        extra = [w - low for w, low in zip(wanted, smallest, strict=True)]
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            largest = [low + s - 1 for low, s in zip(smallest, self.stride, strict=True)]
            raise ShapeError(
                f"ConvTranspose2d: output_size {wanted} cannot come from an input of {tuple(input.shape[-2:])}; "
                f"it must lie between {tuple(smallest)} and {tuple(largest)}"
            )
        return extra[0], extra[1]
