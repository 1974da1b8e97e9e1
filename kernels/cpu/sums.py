"""Sums over the rows of a channels-last array: the gradient of a bias."""
from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.dispatch import takes_channel_sum, vector
from minidl.kernels.cpu.emit import Kernel, Vector
from minidl.kernels.cpu.engine import ISA, host_isa
from minidl.kernels.cpu.launch import Launch, program
from minidl.kernels.cpu.layout import channels_last
from minidl.kernels.cpu.rows import CHUNK, add_up, columns

_FOLDED = 256                                        # floats of the longest row that is made of several


@program
def row_sums(isa: ISA, ragged: bool) -> Kernel:
    """Per chunk of rows and channel, the sum."""
    k = Kernel("row_sums" + "_ragged" * ragged, isa.width)
    x, out = k.pointer("x", "rows", "channels"), k.pointer("out", "chunks", "channels")
    rows, channels, chunk, chunks = k.integers("rows", "channels", "chunk", "chunks")
    row_bytes = channels * 4
    vectors, mask_of = columns(k, channels, ragged)
    with k.parallel(chunks) as task:
        first = task * chunk
        with k.loop(vectors) as v:
            mask, column = mask_of(v), v * k.bytes

            def add(sums: list[Vector], at: list[Any], mask: Any = mask) -> list[Vector]:
                return [sums[0] + k.load(at[0], mask)]

            (total,) = add_up(k, k.minimum(chunk, rows - first), [x + first * row_bytes + column], row_bytes, add, 1)
            k.store(total, out + task * row_bytes + column, mask)
    return k


@functools.lru_cache(512)
def _launch(rows: int, length: int) -> tuple[Launch, int]:
    chunks = -(-rows // CHUNK)
    launch = row_sums(length % host_isa().width > 0).prepare(rows=rows, channels=length, chunk=CHUNK, chunks=chunks)
    return launch, chunks


@vector("channel_sum", takes_channel_sum)
def channel_sum(x: Any) -> Any:
    rows = channels_last(x).reshape(-1, x.shape[1])
    channels = rows.shape[1]
    # Six channels would fill six lanes of sixteen.  Eight rows of them, seen as one, fill three vectors.
    together = host_isa().width // math.gcd(channels, host_isa().width)
    if channels * together > _FOLDED:
        together = 1
    count = len(rows) // together
    launch, chunks = _launch(count, channels * together)
    out = memory.empty((chunks, channels * together))
    launch(x=rows, out=out)
    total = out.sum(axis=0, dtype=np.float64).reshape(together, channels).sum(axis=0)
    total += rows[count * together :].sum(axis=0)    # what no whole long row was left for
    return total.astype(np.float32)
