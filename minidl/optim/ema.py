"""An exponential moving average of a model's weights."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from minidl.autograd import increment_version, no_grad
from minidl.errors import CheckpointError, ConfigError, DeviceError
from minidl.nn.module import Module
from minidl.tensor import Tensor


class EMA:
    """Keeps average = decay * average + (1 - decay) * weights; the average often tests better than the last weights.

        ema = EMA(model, decay=0.999)
        for ...:
            optimizer.step()
            ema.update()
        with ema.average_parameters():
            evaluate(model)         # with the averaged weights
                                    # here the model has its own weights back

    Args:
        model: whose parameters and buffers are averaged; integer buffers are copied.
        decay: how much of the average each update keeps.
        warmup: start with a smaller decay, min(decay, (1 + t) / (10 + t)) at update t, so that the random start is soon
            forgotten.

    Raises:
        ConfigError: the decay is not in [0, 1).

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with exponential weights
    Kingma and Ba 2015, section 7.2.
    """

    def __init__(self, model: Module, decay: float = 0.999, warmup: bool = False) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"EMA: decay must be in [0, 1), got {decay!r}")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self._live = model.state_dict(keep_vars=True)
        self.average: dict[str, Tensor] = {name: t.detach().clone() for name, t in self._live.items()}
        self._stored: dict[str, Tensor] | None = None

    def update(self) -> None:
        """Take one step towards the model's present weights; call it after each ``optimizer.step()``."""
        if self._stored is not None:
            raise ConfigError("EMA.update: the average is applied to the model just now; restore() first")
        self._expect_no_capture()
        self.updates += 1
        self._follow(min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay)

    def _expect_no_capture(self) -> None:
        """The count and the decay are the host's: a CUDA graph would repeat those of one step."""
        for average in self.average.values():
            average.F.uncaptured(f"{type(self).__name__}.update")

    def _follow(self, decay: float) -> None:
        """One step of the average, which keeps ``decay`` of itself."""
        groups: dict[Any, list[tuple[Tensor, Tensor]]] = {}            # by backend and dtype: all of a group at once
        for name, live in self._live.items():
            average = self.average[name]
            if not average.is_floating_point():
                with no_grad():
                    average.copy_(live)
            else:
                if average.F is not live.F:
                    raise DeviceError(
                        f"{type(self).__name__}: {name} is on {live.device} and its average on {average.device}; make the "
                        "average after moving the model"
                    )
                groups.setdefault((average.F, average.dtype, live.dtype), []).append((average, live))
        for (F, *_), pairs in groups.items():
            F.ema_([average.data for average, _ in pairs], [live.data for _, live in pairs], decay=decay)
            for average, _ in pairs:
                increment_version(average)

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights; after it, its own again, whatever happened."""
        self.apply()
        try:
            yield
        finally:
            self.restore()

    def apply(self) -> None:
        """Put the average into the model, keeping its own weights aside for ``restore``."""
        if self._stored is not None:
            raise ConfigError("EMA.apply: the average is applied already; restore() first")
        self._stored = {name: live.detach().clone() for name, live in self._live.items()}
        self._write(self.average)

    def restore(self) -> None:
        """Give the model its own weights back."""
        if self._stored is None:
            raise ConfigError("EMA.restore: nothing is applied")
        self._write(self._stored)
        self._stored = None

    def _write(self, values: Mapping[str, Tensor]) -> None:
        with no_grad():
            for name, live in self._live.items():
                live.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The average, the options and the number of updates."""
        return {"decay": self.decay, "warmup": self.warmup, "updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved average of the same model; values may be NumPy arrays.

        Raises:
            CheckpointError: it is not an EMA's state, or one of another model.
        """
        absent = [key for key in ("average", "decay", "warmup", "updates") if key not in state]
        if absent:
            raise CheckpointError(f"EMA.load_state_dict: has no {', '.join(absent)}; expected what EMA.state_dict gave")
        average = state["average"]
        wrong = [
            name for name in self.average.keys() | average.keys()
            if name not in self.average or name not in average
            or tuple(average[name].shape) != tuple(self.average[name].shape)
        ]
        if wrong:
            names = ", ".join(sorted(wrong))
            raise CheckpointError(f"EMA.load_state_dict: made for another model; missing, extra or misshapen: {names}")
        with no_grad():
            for name, own in self.average.items():
                value = average[name]
                own.copy_(value if isinstance(value, Tensor) else Tensor(own.F.asarray(value), own.F))
        self.decay, self.warmup, self.updates = float(state["decay"]), bool(state["warmup"]), int(state["updates"])
