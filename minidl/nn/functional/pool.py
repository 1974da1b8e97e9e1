"""Pooling, and resizing images."""
from __future__ import annotations

import math
from typing import Any

from minidl.autograd.function import tensors
from minidl.config import strict_shapes
from minidl.errors import ConfigError, ShapeError
from minidl.nn.functional.checks import floating
from minidl.ops.checks import expect_tensors
from minidl.ops.creation import tensor
from minidl.ops.geometry import pool2d_geometry
from minidl.tensor import Tensor


def max_pool2d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:
    """The largest element of each window.

    Of equal elements the first, in row order, wins and gets the gradient; NaN beats everything; padding never wins.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: int or (h, w); the stride is the kernel size by default.
        ceil_mode: round the size of the output up instead of down; a window must still start inside the image.
        return_indices: also return where each maximum was: int64, the flat index into H * W.

    Returns:
        (N, C, H', W'), or a pair of it and the indices.

    Raises:
        ShapeError: the window does not fit, or is padded by more than half of its size.

    >>> import minidl
    >>> from minidl.nn import functional as F
    >>> x = minidl.tensor([[1., 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])
    >>> F.max_pool2d(x.reshape(1, 1, 4, 4), 2)[0, 0]
    tensor([[6., 8.],
            [3., 4.]])
    """
    x, geom = _prepare("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    y, indices = tensors.max_pool2d(x, geom=geom)
    if input.ndim == 3:
        y, indices = y.squeeze(0), indices.squeeze(0)
    return (y, indices) if return_indices else y


def avg_pool2d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True) -> Tensor:
    """The mean of each window.

    Args:
        input: (N, C, H, W) or (C, H, W).
        count_include_pad: divide by the window's size with its padding; else by the number of pixels of the image in it.

    Raises:
        ShapeError: the window does not fit, or is padded by more than half of its size.
    """
    x, geom = _prepare("avg_pool2d", input, kernel_size, stride, padding, 1, ceil_mode)
    y = tensors.avg_pool2d(x, geom=geom, count_include_pad=count_include_pad)
    return y.squeeze(0) if input.ndim == 3 else y


def _batched(name: str, x: Tensor) -> Tensor:
    """(C, H, W) as a batch of one."""
    return x.unsqueeze(0) if floating(name, x).ndim == 3 else x


def _prepare(name: str, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    x = _batched(name, input)
    geom = pool2d_geometry(x.shape, kernel_size, stride if stride not in ((), []) else None, padding, dilation, ceil_mode, name)
    if strict_shapes.get() and not ceil_mode:
        for axis, size, k, s, pad, d in (("height", geom.H, geom.kh, geom.stride[0], geom.padding[0], geom.dilation[0]),
                                         ("width", geom.W, geom.kw, geom.stride[1], geom.padding[2], geom.dilation[1])):
            left = (size + 2 * pad - d * (k - 1) - 1) % s
            if left:
                raise ShapeError(f"{name}: windows of {k} with stride {s} do not fit evenly into {axis} {size}: {left} left "
                                 "over; change the padding, or leave strict_shapes off")
    return x, geom


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means over windows chosen so that the result is ``output_size``: rows floor(i * H / h) to ceil((i + 1) * H / h).

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: int or (h, w); None keeps that axis.

    Returns:
        (N, C, h, w) or (C, h, w).

    Raises:
        ShapeError: the input is no image, or the output would have no pixels.
    """
    x = _batched("adaptive_avg_pool2d", input)
    y = tensors.adaptive_avg_pool2d(x, out_hw=_output_size("adaptive_avg_pool2d", x, output_size))
    return y.squeeze(0) if input.ndim == 3 else y


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over the windows of :func:`adaptive_avg_pool2d`; with their flat indices into H * W if asked for.

    Arguments, result and errors as there; of equal elements the first wins, as in :func:`max_pool2d`.
    """
    x = _batched("adaptive_max_pool2d", input)
    y, indices = tensors.adaptive_max_pool2d(x, out_hw=_output_size("adaptive_max_pool2d", x, output_size))
    if input.ndim == 3:
        y, indices = y.squeeze(0), indices.squeeze(0)
    return (y, indices) if return_indices else y


def _output_size(name: str, x: Tensor, size: Any) -> tuple[int, int]:
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ShapeError(f"{name}: expected (N, C, H, W) or (C, H, W) with pixels in it, found shape {x.shape}")
    pair = (size, size) if isinstance(size, int) or size is None else tuple(size)
    if len(pair) != 2 or any(n is not None and n < 1 for n in pair):
        raise ShapeError(f"{name}: output_size must be one or two integers of at least 1, found {size!r}")
    return tuple(x.shape[2 + i] if n is None else n for i, n in enumerate(pair))     # type: ignore[return-value]


def interpolate(input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                align_corners: bool = False) -> Tensor:
    """Resize images (N, C, H, W).

    Args:
        size: (h, w) or one int; or give ``scale_factor``, one number or (h, w): the size is rounded down, the pixels' places
            are those of the exact factor.
        mode: "nearest"; "area", the mean over :func:`adaptive_avg_pool2d`'s windows; "bilinear", linear between two pixels along
            each axis; or "bicubic", cubic through four (Keys 1981: Cubic convolution interpolation for digital image processing,
            with a = -0.75 as in PyTorch and OpenCV), which may overshoot.  But for "area" nothing is averaged when images shrink.
        align_corners: for the last two: the centres of the corner pixels stay where they are (else the corners of the image do).

    Raises:
        ShapeError: neither or both of size and scale_factor, or no pixels on either side.  ConfigError: another mode.
        DTypeError: bilinear or bicubic, and the input is not floating point.
    """
    expect_tensors("interpolate", input)
    if (size is None) == (scale_factor is None) or input.ndim != 4:
        raise ShapeError(f"interpolate: give size or scale_factor for an (N, C, H, W) input, found shape {input.shape}")
    if mode not in ("nearest", "area", "bilinear", "bicubic"):
        raise ConfigError(f"interpolate: mode {mode!r} is not known; use nearest, area, bilinear or bicubic")
    h, w = input.shape[2:]
    if size is None:
        fh, fw = (scale_factor, scale_factor) if isinstance(scale_factor, (int, float)) else scale_factor
        out_h, out_w = int(h * fh), int(w * fw)
    else:
        out_h, out_w = (size, size) if isinstance(size, int) else size
        fh = fw = None
    if out_h < 1 or out_w < 1 or 0 in (h, w):
        raise ShapeError(f"interpolate: the input {input.shape} and the output ({out_h}, {out_w}) must be at least 1 pixel "
                         "high and wide")
    if mode == "nearest":
        return input[:, :, _nearest(h, out_h, fh)][:, :, :, _nearest(w, out_w, fw)]
    if mode == "area":
        return adaptive_avg_pool2d(input, (out_h, out_w))
    floating("interpolate", input)
    taps = _linear_taps if mode == "bilinear" else _cubic_taps
    y = _resample(input, 2, [taps(at, h) for at in _places(h, out_h, fh, align_corners)])
    return _resample(y, 3, [taps(at, w) for at in _places(w, out_w, fw, align_corners)])


def _nearest(n: int, out: int, factor: float | None) -> list[int]:
    """Which of n pixels each of ``out`` ones shows."""
    return [i * n // out if factor is None else min(int(i / factor), n - 1) for i in range(out)]


def _places(n: int, out: int, factor: float | None, align_corners: bool) -> list[float]:
    """Where, in pixels of the n given ones, each of ``out`` new pixels lies; 0 is the centre of the first."""
    if align_corners:
        return [i * (n - 1) / max(out - 1, 1) for i in range(out)]
    step = n / out if factor is None else 1 / factor
    return [(i + 0.5) * step - 0.5 for i in range(out)]


def _linear_taps(at: float, n: int) -> list[tuple[int, float]]:
    """The two pixels around the place ``at`` with their weights; beyond the border the last pixel goes on."""
    at = max(at, 0.0)
    low = min(int(at), n - 1)
    return [(low, 1 - (at - int(at))), (min(low + 1, n - 1), at - int(at))]


def _cubic_taps(at: float, n: int) -> list[tuple[int, float]]:
    """The four pixels around the place ``at`` with their weights by Keys' cubic."""
    low, a = math.floor(at), -0.75

    def near(d: float) -> float:  # |distance| <= 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: float) -> float:  # 1 <= |distance| <= 2
        return a * (((d - 5) * d + 8) * d - 4)

    t = at - low
    weights = (far(1 + t), near(t), near(1 - t), far(2 - t))
    return [(min(max(low + k, 0), n - 1), weight) for k, weight in zip((-1, 0, 1, 2), weights, strict=True)]


def _resample(x: Tensor, axis: int, taps: list[list[tuple[int, float]]]) -> Tensor:
    """Each new pixel along ``axis`` as a weighted sum of old ones: its (index, weight) pairs, equally many for each."""
    lead = (slice(None),) * axis
    terms = []
    for column in zip(*taps, strict=True):
        weight = tensor([w for _, w in column], dtype=x.dtype, device=x.F)
        weight = weight.reshape(*[-1 if k == axis else 1 for k in range(x.ndim)])
        terms.append(x[(*lead, [i for i, _ in column])] * weight)
    return sum(terms[1:], start=terms[0])
