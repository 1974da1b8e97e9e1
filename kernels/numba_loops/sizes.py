"""A geometry as Numba takes it into a parallel loop: a tuple of numbers, none of them in a tuple of its own."""
from __future__ import annotations

from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """Of a window that moves over an image: a stride of (sh, sw), a dilation of (dh, dw), top and left rows of padding before.

    ``outputs`` and ``groups`` are a convolution's; a pooling has as many outputs as channels.
    """

    channels: int
    height: int
    width: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    top: int
    left: int
    out_h: int
    out_w: int
    outputs: int
    groups: int


def sizes(geom: Any) -> Sizes:
    """From a Conv2dGeometry or Pool2dGeometry."""
    (sh, sw), (dh, dw), (top, _, left, _) = geom.stride, geom.dilation, geom.padding
    return Sizes(geom.C, geom.H, geom.W, geom.kh, geom.kw, sh, sw, dh, dw, top, left, geom.out_h, geom.out_w,
                 getattr(geom, "O", geom.C), getattr(geom, "groups", 1))
