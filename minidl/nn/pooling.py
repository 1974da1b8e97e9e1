"""Max, average and adaptive pooling; none of them has parameters."""
from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class MaxPool2d(Module):
    """Maximum over windows; ties go to the first maximum, and NaN wins over any number.

    Args:
        kernel_size, stride (default: kernel_size), padding, dilation: an int or (height, width); padding (at most half
            the kernel) counts as minus infinity, never as zero.
        return_indices: also return the flat index (into H*W) of each maximum, int64.
        ceil_mode: keep a last, incomplete window instead of dropping it.

    Shapes: x (N, C, H, W) -> (N, C, H', W').
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        """Pool ``input``; returns (output, indices) with ``return_indices``."""
        return F.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        """The window's options."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Mean over windows.

    Args:
        kernel_size, stride (default: kernel_size), padding: an int or (height, width).
        ceil_mode: keep a last, incomplete window instead of dropping it.
        count_include_pad: divide by the whole window, padding included; False divides by the real pixels.

    Shapes: x (N, C, H, W) -> (N, C, H', W').
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """Pool ``input``."""
        return F.avg_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        """The window's options."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptivePool2d(Module):
    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        """The output's size."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_AdaptivePool2d):
    """Mean over windows chosen so that the output has ``output_size`` (an int, or (h, w) where None keeps the size).

    Window i of n over H pixels runs from floor(i*H/n) to ceil((i+1)*H/n).  Shapes: (N, C, H, W) -> (N, C, h, w).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool ``input``."""
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool2d(_AdaptivePool2d):
    """Maximum over windows chosen as in AdaptiveAvgPool2d; ``return_indices`` also returns where the maxima are."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """Pool ``input``; returns (output, indices) with ``return_indices``."""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)
