"""Convolution and its transpose, and the patches behind them."""
from __future__ import annotations

from typing import Any

from minidl.autograd.function import tensors
from minidl.config import strict_shapes
from minidl.errors import ShapeError
from minidl.nn.functional.checks import same_dtype
from minidl.ops.geometry import Conv2dGeometry, conv2d_geometry, conv_transpose2d_geometry
from minidl.tensor import Tensor


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1, *, strict: bool | None = None, name: str = "conv2d", relu: bool = False) -> Tensor:
    r"""Cross-correlate images with filters.

        y[n, o, i, j] = bias[o] + sum over c, u, v of weight[o, c, u, v] * x[n, c, i * s + u * d, j * s + v * d]

    with stride s, dilation d, x padded by zeros, and c running over the channels of o's group.  It is what the field
    calls convolution; the filters are not flipped.

    Args:
        input: (N, C, H, W), or one image (C, H, W).
        weight: (O, C / groups, kh, kw).
        bias: (O,).
        stride, dilation: int or (h, w).
        padding: int, (h, w), "same" (stride 1), "valid", or ((top, bottom), (left, right)).
        groups: the channels fall into so many groups, each with filters of its own; C is depthwise convolution.
        strict: raise when the filters do not fit evenly, instead of leaving pixels out at the edge; by default as
            ``minidl.config.strict_shapes`` says (off).
        relu: return max(y, 0), computed in the same pass.

    Returns:
        (N, O, H', W') with H' = floor((H + padding - dilation * (kh - 1) - 1) / stride) + 1.

    Raises:
        ShapeError: shapes that do not fit; the message says which axis, and what would.
        DTypeError: input, weight and bias are not of one dtype.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998.

    >>> import minidl
    >>> from minidl.nn import functional as F
    >>> F.conv2d(minidl.zeros(2, 3, 32, 32), minidl.zeros(6, 3, 5, 5), minidl.zeros(6)).shape
    (2, 6, 28, 28)
    """
    if input.ndim == 3:
        return conv2d(input.unsqueeze(0), weight, bias, stride, padding, dilation, groups, strict=strict, name=name,
                      relu=relu).squeeze(0)
    geom = conv2d_geometry(input.shape, weight.shape, stride, padding, dilation, groups,
                           strict_shapes.get() if strict is None else strict, name)
    _check_bias(name, bias, geom.O)
    same_dtype(name, input, weight, bias)
    return tensors.conv2d(input, weight, bias, geom=geom, relu=relu)


def conv_transpose2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:
    """The transpose of :func:`conv2d`: what takes its output's shape back to its input's.

    Args:
        input: (N, I, h, w), or one (I, h, w).
        weight: (I, O / groups, kh, kw).
        bias: (O,).
        output_padding: rows and columns added at the bottom and right, where several input sizes share an output size.

    Returns:
        (N, O, H, W) with H = (h - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1.

    Raises:
        ShapeError, DTypeError: as :func:`conv2d`.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016, arXiv:1603.07285.
    """
    if input.ndim == 3:
        return conv_transpose2d(input.unsqueeze(0), weight, bias, stride, padding, output_padding, groups, dilation).squeeze(0)
    geom = conv_transpose2d_geometry(input.shape, weight.shape, stride, padding, output_padding, dilation, groups)
    _check_bias("conv_transpose2d", bias, geom.C)
    same_dtype("conv_transpose2d", input, weight, bias)
    y = tensors.conv2d_input_grad(input, weight, geom=geom)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _check_bias(name: str, bias: Tensor | None, channels: int) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"{name}: the bias has shape {bias.shape}; it must be ({channels},), one number for each output channel")


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Every window of (N, C, H, W) as a column: (N, C * kh * kw, windows).  Known as im2col.

    Windows are in row order, and in a column the pixels of a window, channel by channel; so a convolution is
    ``weight.reshape(O, -1) @ unfold(x, (kh, kw))``.  Pixels of the padding are 0.

    Raises:
        ShapeError: the window is larger than the padded image.
    """
    return tensors.im2col(input, geom=_window_geometry("unfold", input.shape, kernel_size, dilation, padding, stride))


def fold(input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """The transpose of :func:`unfold`: columns (N, C * kh * kw, windows) added up into (N, C, H, W).

    Raises:
        ShapeError: the columns are not those of an image of that size.
    """
    kh, kw = _pair(kernel_size)
    if input.ndim != 3 or input.shape[1] % (kh * kw):
        raise ShapeError(f"fold: expected (N, C * {kh} * {kw}, windows), found shape {input.shape}")
    shape = (input.shape[0], input.shape[1] // (kh * kw), *_pair(output_size))
    geom = _window_geometry("fold", shape, kernel_size, dilation, padding, stride)
    if geom.out_h * geom.out_w != input.shape[2]:
        raise ShapeError(f"fold: an image of {shape[2]}x{shape[3]} has {geom.out_h * geom.out_w} windows, the input has "
                         f"{input.shape[2]}")
    return tensors.col2im(input, geom=geom)


def _window_geometry(name: str, shape: tuple[int, ...], kernel_size: Any, dilation: Any, padding: Any,
                     stride: Any) -> Conv2dGeometry:
    channels = shape[1] if len(shape) > 1 else 1
    return conv2d_geometry(shape, (1, channels, *_pair(kernel_size)), stride, padding, dilation, 1, False, name)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)      # type: ignore[return-value]
