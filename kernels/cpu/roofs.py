"""What this machine can do at most: the roofs that a kernel's speed is compared with (Williams, Waterman and Patterson 2009).

Both are measured with kernels of our own language, on the threads and with the instructions that the other kernels use, and
both are the best of several runs: a roof is what the machine reaches when nothing disturbs it.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.kernels.cpu import engine, memory, threads
from minidl.kernels.cpu.emit import Kernel, Vector
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.launch import Program, program
from minidl.kernels.cpu.tiles import accumulators

ROUNDS = 60                                          # short ones: some of them fall between whatever else the machine does
COPY_ROUNDS = 15
COPY_BYTES = 128 << 20                               # of each array: several times the largest cache of a usual machine
_PIECE = 1 << 14                                     # floats of a task of the copy
_UNROLL = 4
_ROUND_SECONDS = 2e-3                                # of a run of the FMA kernel: a launch, some microseconds, is lost in it


@program
def fma_roof(isa: ISA) -> Kernel:
    """``turns`` steps sum = sum * x + sum in as many registers as a tile of a convolution uses; nothing else.

    The addend is where the result goes, since ARM's instruction has it so; the factor is not the same for all, or a machine
    whose products are instructions of their own would make one product for all sums.
    """
    k = Kernel("fma_roof", isa.width)
    chains = accumulators(isa)
    source, out = k.pointer("source", 1), k.pointer("out", "tasks", chains, isa.width)
    tasks, turns = k.integers("tasks", "turns")
    x = k.broadcast(source)
    with k.parallel(tasks) as task:
        def step(sums: list[Vector]) -> list[Vector]:
            return [k.fma(value, x, value) for value in sums]

        target = out + task * (chains * k.bytes)
        for i, value in enumerate(k.carry(turns, [k.load(target + i * k.bytes) for i in range(chains)], step)):
            k.store(value, target + i * k.bytes)
    return k


@program
def copy_roof(isa: ISA) -> Kernel:
    """y = x, vector by vector."""
    k = Kernel("copy_roof", isa.width)
    x, y = k.pointers("x", "y", size=["pieces", _PIECE])
    pieces = k.integer("pieces")
    with k.parallel(pieces) as piece:
        with k.loop(0, 4 * _PIECE, _UNROLL * k.bytes) as i:
            at = piece * (4 * _PIECE) + i
            for value, offset in [(k.load(x + at + u * k.bytes), u * k.bytes) for u in range(_UNROLL)]:
                k.store(value, y + at + offset)
    return k


def fma_peak(threads: int | None = None) -> float:
    """GFLOP/s of multiply-adds in float32 on ``threads`` threads (None: as many as kernels use), 2 operations per lane.

    Raises:
        Unavailable: kernels cannot be compiled here.
    """
    isa = engine.host_isa()
    with _on(threads) as count:
        # 1 + 1e-9 rounds to 1: no infinities, and no denormal numbers, which some processors are slow at.
        source, out = np.array([1e-9], np.float32), np.ones((count, accumulators(isa), isa.width), np.float32)
        run, turns = fma_roof(), 1000
        flops = 2 * out.size
        while (seconds := _best(run, 3, source=source, out=out, tasks=count, turns=turns)) < _ROUND_SECONDS:
            turns = int(turns * max(2.0, 1.1 * _ROUND_SECONDS / max(seconds, 1e-9)))
        return flops * turns / _best(run, ROUNDS, source=source, out=out, tasks=count, turns=turns) / 1e9


def copy_bandwidth(threads: int | None = None) -> float:
    """GB/s of copying memory outside the caches on ``threads`` threads: bytes read plus bytes written, as STREAM counts.

    A store reads its cache line first on most machines; those bytes are not counted.

    Raises:
        Unavailable: kernels cannot be compiled here.
    """
    with _on(threads):
        pieces = COPY_BYTES // (4 * _PIECE)
        x, y = (memory.empty((pieces, _PIECE)) for _ in range(2))
        x.fill(1)
        y.fill(0)                                    # both touched: a first touch costs a page fault
        return 2 * x.nbytes / _best(copy_roof(), COPY_ROUNDS, x=x, y=y, pieces=pieces) / 1e9


@contextmanager
def _on(count: int | None) -> Iterator[int]:
    """Run the block on so many threads."""
    before = threads.get_num_threads()
    if count is None or count == before:
        yield before
        return
    threads.set_num_threads(count)
    try:
        yield count
    finally:
        threads.set_num_threads(before)


def _best(run: Program | Callable[..., Any], rounds: int, **parameters: Any) -> float:
    """The shortest of some runs in seconds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run(**parameters)
        times.append(time.perf_counter() - begin)
    return min(times)
