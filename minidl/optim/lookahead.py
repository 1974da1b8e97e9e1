"""Slow weights that follow the fast ones and call them back."""
from __future__ import annotations

from minidl.errors import ConfigError
from minidl.nn.module import Module
from minidl.optim.ema import EMA


class Lookahead(EMA):
    """Every few updates, an average of the weights takes a step towards them, and they are set to it.

        lookahead = Lookahead(model, total=len(loader) * epochs)
        for ...:
            optimizer.step()
            lookahead.update()

    At update t of ``total`` the average keeps ``keep * (t / total)^3`` of itself: at the start it only follows, and in the end
    it is nearly an exponential moving average.  The last update leaves the average in the model.

    Args:
        model: whose parameters and buffers are averaged; integer buffers are copied.
        total: the number of updates of the whole training.
        keep: what the average keeps of itself at its last step.
        every: updates from one step of the average to the next.

    Raises:
        ConfigError: ``keep`` is not in [0, 1), or a count is below 1.

    Source: Zhang, Lucas, Hinton and Ba 2019 (arXiv:1907.08610); the growing share is Jordan's (2024, arXiv:2404.00498).
    """

    def __init__(self, model: Module, total: int, keep: float = 0.77, every: int = 5) -> None:
        if total < 1 or every < 1:
            raise ConfigError(f"Lookahead: total and every must be at least 1, got {total!r} and {every!r}")
        super().__init__(model, keep)
        self.total, self.every = total, every

    def update(self) -> None:
        """Count one update of the weights; call it after each ``optimizer.step()``."""
        self._expect_no_capture()
        self.updates += 1
        if self.updates >= self.total:
            self._write(self.average)
        elif self.updates % self.every == 0:
            self._follow(self.decay * (self.updates / self.total) ** 3)
            self._write(self.average)
