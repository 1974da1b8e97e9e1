"""A convolution as positions in a packed image.

The packed image is zero-padded, and with a horizontal stride s its columns are dealt out to s *phases*: column j of phase p is
column j*s + p of the padded image.  In a phase, the pixels that neighbouring outputs see under one tap of the filter are
neighbours, whatever the stride and the dilation.  So one inner loop computes every convolution: a :class:`Tap` says where in
the packed image the first output finds its pixel.

The input gradient is a set of convolutions of the same kind (Dumoulin and Visin 2016, chapter 4): the pixels of gx whose row and
column leave the same remainders modulo the strides see the same taps of w, so each pair of remainders is a :class:`Job` over
the image gy, with stride 1.
"""
from __future__ import annotations

import functools
from typing import Any, NamedTuple


class Tap(NamedTuple):
    """A position of the filter: ``weight`` = u*kw + v, and where output (0, 0) finds its pixel in the packed image."""

    row: int
    phase: int
    column: int
    weight: int


class Job(NamedTuple):
    """``rows`` x ``columns`` outputs that see the same taps; the first of them is pixel ``first`` of the result."""

    taps: tuple[Tap, ...]
    rows: int
    columns: int
    first: tuple[int, int]


class Plan(NamedTuple):
    """What the direct kernels need to know about the shapes of one group.

    Attributes:
        height, width: of the image that is packed.
        top, left: zeros before it.
        phases: phases of its columns.
        packed_height, packed_width: of the packed image, the width per phase.
        row_step: rows of the packed image between the rows of outputs.
        jobs: what is computed.
        out_step: (rows, columns) of the result between outputs of a job.
        out_height, out_width: of the result.
    """

    height: int
    width: int
    top: int
    left: int
    phases: int
    packed_height: int
    packed_width: int
    row_step: int
    jobs: tuple[Job, ...]
    out_step: tuple[int, int]
    out_height: int
    out_width: int


@functools.lru_cache(256)
def forward_plan(geom: Any) -> Plan:
    """y from x; also the weight gradient, which sums over the same pairs of pixels."""
    (sh, sw), (dh, dw), (top, _, left, _) = geom.stride, geom.dilation, geom.padding
    taps = tuple(Tap(u * dh, v * dw % sw, v * dw // sw, u * geom.kw + v) for u in range(geom.kh) for v in range(geom.kw))
    height = (geom.out_h - 1) * sh + (geom.kh - 1) * dh + 1
    width = geom.out_w + (geom.kw - 1) * dw // sw
    job = Job(taps, geom.out_h, geom.out_w, (0, 0))
    return Plan(geom.H, geom.W, top, left, sw, height, width, sh, (job,), (1, 1), geom.out_h, geom.out_w)


@functools.lru_cache(256)
def input_grad_plan(geom: Any) -> Plan:
    """gx from gy."""
    (sh, sw), (dh, dw), (top, _, left, _) = geom.stride, geom.dilation, geom.padding
    rows = [_taps_of_remainder(r, geom.kh, sh, dh, top) for r in range(sh)]
    columns = [_taps_of_remainder(r, geom.kw, sw, dw, left) for r in range(sw)]
    before_h = max(0, -min((at for found in rows for _, at in found), default=0))
    before_w = max(0, -min((at for found in columns for _, at in found), default=0))
    jobs = []
    height = width = 1
    for r, row_taps in enumerate(rows):
        for c, column_taps in enumerate(columns):
            h, w = -(-(geom.H - r) // sh), -(-(geom.W - c) // sw)
            if h <= 0 or w <= 0:
                continue
            taps = tuple(Tap(i + before_h, 0, j + before_w, u * geom.kw + v) for u, i in row_taps for v, j in column_taps)
            jobs.append(Job(taps, h, w, (r, c)))
            height = max([height, *(h + tap.row for tap in taps)])
            width = max([width, *(w + tap.column for tap in taps)])
    return Plan(geom.out_h, geom.out_w, before_h, before_w, 1, height, width, 1, tuple(jobs), (sh, sw), geom.H, geom.W)


def _taps_of_remainder(remainder: int, k: int, stride: int, dilation: int, before: int) -> list[tuple[int, int]]:
    """Along one axis, for pixels i*stride + remainder of gx: the (u, offset) with gx[i] seeing w[u] * gy[i + offset]."""
    return [(u, (remainder + before - u * dilation) // stride) for u in range(k)
            if (remainder + before - u * dilation) % stride == 0]
