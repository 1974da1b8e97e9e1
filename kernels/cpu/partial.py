"""Weight gradients as partial sums: a batch is split into parts, each with a sum of its own, and these are added at the end."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.launch import Launch


class PartialSums(NamedTuple):
    """A weight gradient's launch, as it is worked out once per shape.

    Attributes:
        run: writes the partial sums.
        bases: where the packed images begin for each set of taps, in bytes.
        shape: of the partial sums; the first axis counts the parts.
        scratch: floats of packed images.
    """

    run: Launch
    bases: np.ndarray
    shape: tuple[int, ...]
    scratch: int

    def total(self, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The sum over all parts, in their order: the same bits whichever thread computed which."""
        size = math.prod(self.shape)
        partial = memory.scratch("partial", size)
        self.run(x=x, g=g, partial=partial, bases=self.bases, scratch=memory.scratch("packed", self.scratch))
        return partial[:size].reshape(self.shape).sum(axis=0)
