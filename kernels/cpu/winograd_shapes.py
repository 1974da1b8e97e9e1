"""Which of Winograd's forms suits a convolution, and how its tiles are cut into strips."""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

from minidl.kernels.cpu.transforms import FORMS, Winograd

PAD = 16                                             # floats between planes
STRIP_BYTES = 320 << 10                              # of planes: a part of a core's L2 cache
FILTER_BYTES = 1 << 20                               # filters beyond this come from outside the cache for every strip:
MANY_TILES = 32                                      # then so many tiles share them, though their planes leave the cache


class Shape(NamedTuple):
    """A convolution of stride 1: an image (height, width), zeros before it, and the result's size."""

    height: int
    width: int
    top: int
    left: int
    out_height: int
    out_width: int


@functools.lru_cache(512)
def suits(geom: Any, transposed: bool = False, lanes: int = 1) -> Winograd | None:
    """The form that needs the fewest products for a geometry; None if direct convolution needs hardly more.

    ``lanes``: channels count as rounded up to so many, in both directions.
    """
    taps, used = geom.kh, 1.0
    if (geom.kw, *geom.stride, *geom.dilation) != (taps, 1, 1, 1, 1):
        return None
    if min(geom.C, geom.O) // geom.groups < 8:       # nothing to save in the products, and the transforms remain
        return None
    for channels in (geom.C // geom.groups, geom.O // geom.groups):
        used *= channels / (-(-channels // lanes) * lanes)
    if transposed and max(geom.padding) > taps - 1:  # the padding of the transposed convolution would be negative
        return None
    high, across = (geom.H, geom.W) if transposed else (geom.out_h, geom.out_w)

    def gain(form: Winograd) -> float:
        tiles = -(-high // form.outputs) * -(-across // form.outputs)
        return used * taps**2 * high * across / (tiles * form.size**2)

    best = max((form for form in FORMS.values() if form.taps == taps), key=gain, default=None)
    return best if best and gain(best) > 1.5 else None


class Strips(NamedTuple):
    """How the tiles of a batch are cut: images and tile rows per task, and how many tiles that is at most."""

    tile_rows: int
    tile_columns: int
    unit: int
    strip: int
    tiles: int

    def packed(self, form: Winograd, channels: int) -> int:
        """Floats of one image's strip with its border."""
        border = form.taps - 1
        return channels * (self.strip * form.outputs + border) * (self.tile_columns * form.outputs + border)

    def count(self, images: int) -> int:
        """How many tasks that makes."""
        return -(-images // self.unit) * -(-self.tile_rows // self.strip)


@functools.lru_cache(512)
def cut(shape: Shape, form: Winograd, images: int, in_channels: int, out_channels: int, least: int) -> Strips:
    """Strips whose planes fit the cache, ``least`` of them where there are images enough."""
    m, planes = form.outputs, form.size**2
    rows, columns = -(-shape.out_height // m), -(-shape.out_width // m)
    fit = max(1, STRIP_BYTES // (4 * planes * (in_channels + out_channels)))
    if 4 * planes * in_channels * out_channels > FILTER_BYTES:
        fit = max(fit, MANY_TILES)
    if rows * columns <= fit:
        unit, strip = min(max(1, fit // (rows * columns)), max(1, images // least)), rows
    else:
        unit, strip = 1, max(1, min(rows, fit // columns))
    return Strips(rows, columns, unit, strip, unit * strip * columns)
