"""The emulator for a run under TSan, which looks at a few small launches of every kernel.

TSan needs a thread of its own for each CUDA thread, and a millisecond to make it.  So a kernel is watched the first times that it
is launched with few threads; all other launches run in the ordinary build.  The tests that compare every kernel with its oracle
are what launches them: a new kernel is watched by being tested.

    python -m tests.cuda_emulator.sanitized thread -m pytest tests/kernels tests/cuda_emulator --device emu --every-kernel
"""
import functools
import math
import os
from collections import Counter

from tests.cuda_emulator.emulator import Emulator, load
from tests.cuda_emulator.sanitized import ENVIRONMENT

TIMES = 3                                            # that a kernel is watched
FEW, MOST = 1024, 8192                               # threads of a launch that is watched, and of the first one
DTYPE = "VALUE=float"                                # for which they are built, if that will do: dtypes differ in a macro
PATIENCE = 10                                        # launches of another dtype to wait for one of this


class Racing(Emulator):
    """An emulator that looks for races, within a block and between blocks."""

    threads = 64                                     # two warps, and more than one block for more than 64 elements
    watched: Counter[tuple[str, str]] = Counter()    # by file and kernel; of all emulators of the process
    passed: Counter[tuple[str, str]] = Counter()     # launches that were not watched

    def __init__(self, schedule: str = "forward", options: tuple[str, ...] = ()):
        super().__init__(schedule, options=options, blocks_race=True)

    def function(self, file, entry, defines):
        self.ever_launched.add((file, entry, defines[0]))
        return functools.partial(self._watch, file, entry, (*defines, *self.options))

    def _watch(self, file, entry, defines, grid, block, arguments, **options):
        kernel, threads = (file, entry), math.prod(grid) * math.prod(block)
        small = threads <= (FEW if self.watched[kernel] else MOST)
        watch = small and self.watched[kernel] < TIMES
        if defines[0] != DTYPE:
            watch = watch and not self.watched[kernel] and self.passed[kernel] >= PATIENCE
        (self.watched if watch else self.passed)[kernel] += 1
        self._call(load(self.folder / file, defines, "thread" if watch else ""), entry, grid, block, arguments, **options)


def emulator(schedule: str = "forward") -> Emulator:
    """The emulator for the tests of kernels: under the sanitizers that this process was started with (``sanitized.py``)."""
    sanitizers = os.environ.get(ENVIRONMENT, "")
    return Racing(schedule) if "thread" in sanitizers else Emulator(schedule, sanitizers)
