"""Dropout and Dropout2d."""
from __future__ import annotations

from minidl.errors import ConfigError
from minidl.nn import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"{type(self).__name__}: p must be a probability between 0 and 1, got {p!r}")
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, set each value to zero with probability ``p`` (Srivastava et al. 2014).

    Args:
        p: probability of *dropping* a value.
        mode: "inverted" (as every framework): the values that stay are divided by 1 - p in training, and evaluation is the
            identity.  "paper": they stay as they are, and evaluation multiplies by 1 - p (the paper's p is the probability
            of *keeping*).  Both have the same expectation.

    The mask is drawn from minidl's generator, the same bits on every device; evaluation draws nothing.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, mode: str = "inverted") -> None:
        super().__init__(p, inplace)
        if mode not in ("inverted", "paper"):
            raise ConfigError(f"Dropout: mode must be 'inverted' or 'paper', got {mode!r}")
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:
        """Drop values of ``input``."""
        if self.mode == "inverted":
            return F.dropout(input, self.p, self.training, self.inplace)
        if not self.training:
            return input * (1 - self.p)
        return F.dropout(input, self.p, True, self.inplace) * (1 - self.p)

    def extra_repr(self) -> str:
        """The probability, and the mode when it is the paper's."""
        return super().extra_repr() + ("" if self.mode == "inverted" else f", mode={self.mode!r}")


class Dropout2d(_Dropout):
    """In training, set whole channels of (N, C, H, W) to zero with probability ``p`` and divide the others by 1 - p."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels of ``input``."""
        return F.dropout2d(input, self.p, self.training, self.inplace)
