"""Elements moved between channels and pixels."""
from __future__ import annotations

from minidl.errors import ShapeError
from minidl.ops.checks import expect_tensors
from minidl.tensor import Tensor


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C * r^2, H, W) -> (*, C, H * r, W * r): each pixel's r^2 channels become a square of pixels.

    y[c][h * r + i][w * r + j] = x[c * r^2 + i * r + j][h][w].

    Raises:
        ShapeError: there are fewer than three axes, or r^2 does not divide the channels.

    Source: Shi et al. 2016, arXiv:1609.05158.
    """
    expect_tensors("pixel_shuffle", input)
    r = upscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-3] % (r * r):
        raise ShapeError(f"pixel_shuffle: found shape {input.shape} for the factor {r}; expected (*, C, H, W) with a multiple of "
                         f"{r} * {r} channels")
    *lead, c, h, w = input.shape
    n = len(lead)
    squares = input.reshape(*lead, c // (r * r), r, r, h, w).permute(*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return squares.reshape(*lead, c // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H * r, W * r) -> (*, C * r^2, H, W): the inverse of :func:`pixel_shuffle`.

    Raises:
        ShapeError: there are fewer than three axes, or r does not divide height and width.
    """
    expect_tensors("pixel_unshuffle", input)
    r = downscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-2] % r or input.shape[-1] % r:
        raise ShapeError(f"pixel_unshuffle: found shape {input.shape} for the factor {r}; expected (*, C, H, W) with height "
                         f"and width multiples of {r}")
    *lead, c, h, w = input.shape
    n = len(lead)
    squares = input.reshape(*lead, c, h // r, r, w // r, r).permute(*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return squares.reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """(N, C, *) with its channels dealt out anew: the first of each group, then the second of each, and so on.

    Raises:
        ShapeError: there are fewer than three axes, or the groups do not divide the channels.

    Source: Zhang et al. 2017, arXiv:1707.01083 (ShuffleNet).
    """
    expect_tensors("channel_shuffle", input)
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise ShapeError(f"channel_shuffle: found shape {input.shape} for {groups} groups; expected (N, C, *) with a multiple of "
                         f"{groups} channels")
    n, c, *rest = input.shape
    return input.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)
