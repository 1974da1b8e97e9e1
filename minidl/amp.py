"""Automatic mixed precision: products in 16 bits, parameters in float32.

    with minidl.autocast("bfloat16"):
        loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()

With float16, whose numbers end at 6e-8 below and 65,504 above, the loss is scaled up before the backward pass, and the gradients
down again before the update::

    scaler = minidl.amp.GradScaler()
    with minidl.autocast("float16"):
        loss = F.cross_entropy(model(images), labels)
    scaler.scale(loss).backward()
    scaler.step(optimizer)                           # nothing, where a gradient overflowed
    scaler.update()                                  # and then the scale is halved

:data:`RULES` says of each operation what it is computed in (:mod:`minidl.autograd.autocast` explains the four rules).
"""
from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

from minidl.autograd.autocast import RULES
from minidl.autograd.autocast import autocast as _autocast
from minidl.backend import is_device
from minidl.errors import CheckpointError, ConfigError, DTypeError, GraphError
from minidl.tensor import Tensor

__all__ = ["RULES", "GradScaler", "autocast"]


def autocast(device_type: str | None = None, dtype: Any = None, enabled: bool = True, cache_enabled: bool = True) -> _autocast:
    """:class:`minidl.autocast` under torch.amp's arguments: ``autocast("cuda", dtype=minidl.float16)``.

    Args:
        device_type: "cuda" or "cpu"; it only decides the default ``dtype``, float16 for "cuda", else bfloat16, as in
            PyTorch.  Tensors of every device are cast.
        dtype, enabled: as :class:`minidl.autocast` takes them.
        cache_enabled: there for code written for PyTorch; a converted parameter is never out of date here.
    """
    if device_type is not None and not is_device(device_type):
        raise ConfigError(f"amp.autocast: device_type {device_type!r} is not known; use 'cuda' or 'cpu', and dtype= for the "
                          "dtype")
    usual = "float16" if device_type is not None and device_type.startswith("cuda") else "bfloat16"
    return _autocast(usual if dtype is None else dtype, enabled)


class GradScaler:
    """Scale the loss so that small gradients survive float16, and skip updates whose gradients overflowed (Micikevicius et al.
    2018, arXiv:1710.03740).  Names and values are torch.amp's.

    Args:
        init_scale: the first factor of the loss.
        growth_factor, growth_interval: the scale grows by this factor after so many updates in a row without an overflow.
        backoff_factor: it shrinks by this one after an overflow.
        enabled: False makes every method do what happens without a scaler.

    Raises:
        ConfigError: a value out of its range.
    """

    def __init__(self, init_scale: float = 2.0**16, growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000, enabled: bool = True):
        if not (init_scale > 0 and math.isfinite(init_scale)):
            raise ConfigError(f"GradScaler: init_scale must be above 0 and finite, found {init_scale!r}")
        if not growth_factor > 1:
            raise ConfigError(f"GradScaler: growth_factor must be above 1, found {growth_factor!r}")
        if not 0 < backoff_factor < 1:
            raise ConfigError(f"GradScaler: backoff_factor must be between 0 and 1, found {backoff_factor!r}")
        if not growth_interval >= 1:
            raise ConfigError(f"GradScaler: growth_interval must be at least 1, found {growth_interval!r}")
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self._enabled = bool(enabled)
        self._scale = float(init_scale)
        self._growth_tracker = 0                     # updates in a row without an overflow
        self._found: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()     # optimiser -> its flags
        self._stepped: weakref.WeakSet[Any] = weakref.WeakSet()
        self._overflowed = False

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The factor of the loss; 1 where the scaler is not enabled."""
        return self._scale if self._enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """A loss, or several in a tuple or list, times the scale, in float32."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, (tuple, list)):
            return type(outputs)(self.scale(y) for y in outputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"GradScaler.scale: expected a Tensor, or a tuple or list of them, found {type(outputs).__name__}")
        outputs.F.uncaptured("GradScaler.scale")     # a graph would keep the scale of one step
        return (outputs.float() if outputs.element_size() == 2 else outputs) * self._scale

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of the optimiser's parameters by the scale, and note whether one is infinite or NaN.

        ``step`` does it where you did not; call it yourself before you clip gradients.  The notes stay on the device.

        Raises:
            GraphError: it was called before, since the last ``update``, or after ``step``.  DTypeError: a gradient is float16.
        """
        if not self._enabled:
            return
        if optimizer in self._stepped:
            raise GraphError("GradScaler.unscale_: called after step(); call it before step(), or update() first")
        if optimizer in self._found:
            raise GraphError("GradScaler.unscale_: called a second time since the last update(); the gradients are divided "
                             "already")
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        narrow = next((p for p in params if p.grad.dtype.name == "float16"), None)
        if narrow is not None:
            raise DTypeError(f"GradScaler.unscale_: a parameter of shape {narrow.shape} is float16, in which unscaled gradients "
                             "vanish; keep the parameters float32 and compute under autocast('float16')")
        flags: list[Any] = []
        for p in params:
            F, g = p.F, p.grad.data
            flags.append((F, F.all(F.isfinite(g))))
            p.grad = Tensor(F.mul(g, 1.0 / self._scale), F)
        self._found[optimizer] = flags

    def step(self, optimizer: Any, closure: Callable[[], Any] | None = None) -> Any:
        """``optimizer.step()``, unless a gradient is infinite or NaN; the gradients are unscaled first where that is to be done.

        The flags of all gradients are read at once: one wait for the device.

        Raises:
            GraphError: it was called before, since the last ``update``, or there are no gradients.
            ConfigError: a closure, which could not be run before the decision.
        """
        if not self._enabled:
            return optimizer.step() if closure is None else optimizer.step(closure)
        if closure is not None:
            raise ConfigError("GradScaler.step: a closure cannot be used here; compute loss and gradients before step()")
        if optimizer in self._stepped:
            raise GraphError("GradScaler.step: called a second time since the last update(); call update() after each step()")
        if optimizer not in self._found:
            self.unscale_(optimizer)
        flags = self._found[optimizer]
        if not flags:
            raise GraphError("GradScaler.step: no parameter of this optimiser has a gradient; call scale(loss).backward() first")
        self._stepped.add(optimizer)
        if _all(flags):
            return optimizer.step()
        self._overflowed = True
        return None

    def update(self, new_scale: float | None = None) -> None:
        """Adapt the scale to what was found since the last ``update``, once per iteration; or set it.

        Raises:
            GraphError: no gradients were looked at since the last ``update``.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            value = float(new_scale)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"GradScaler.update: the scale must be above 0 and finite, found {new_scale!r}")
            self._scale = value
        elif not self._found:
            raise GraphError("GradScaler.update: no gradients were looked at since the last update(); call step(optimizer) first")
        else:
            unseen = [flags for optimizer, flags in self._found.items() if optimizer not in self._stepped]
            if self._overflowed or not all(map(_all, unseen)):
                self._scale *= self.backoff_factor
                self._growth_tracker = 0
            else:
                self._growth_tracker += 1
                if self._growth_tracker == self.growth_interval:
                    grown = self._scale * self.growth_factor
                    # A larger one is no float32; the gradients would all be infinite.
                    self._scale = grown if grown < 2.0**127 else self._scale
                    self._growth_tracker = 0
        self._found.clear()
        self._stepped.clear()
        self._overflowed = False

    def state_dict(self) -> dict[str, Any]:
        """The scale and what decides how it goes on; {} where the scaler is not enabled."""
        if not self._enabled:
            return {}
        return {"scale": self._scale, "growth_factor": self.growth_factor, "backoff_factor": self.backoff_factor,
                "growth_interval": self.growth_interval, "_growth_tracker": self._growth_tracker}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``, also one of torch.amp.GradScaler.

        Raises:
            CheckpointError: a value is missing: the state is another object's, or was saved by a scaler that was not enabled.
        """
        if not self._enabled:
            return
        missing = [name for name in self.state_dict() if name not in state_dict]
        if missing:
            raise CheckpointError(f"GradScaler.load_state_dict: {', '.join(missing)} missing; the state is of another object, or "
                                  "of a scaler with enabled=False")
        self._scale = float(state_dict["scale"])
        self.growth_factor, self.backoff_factor = float(state_dict["growth_factor"]), float(state_dict["backoff_factor"])
        self.growth_interval, self._growth_tracker = int(state_dict["growth_interval"]), int(state_dict["_growth_tracker"])

    def __repr__(self) -> str:
        return f"GradScaler(scale={self.get_scale():g}, enabled={self._enabled})"


def _all(flags: list[Any]) -> bool:
    """Whether all flags are true, read once from each device."""
    by_device: dict[Any, list[Any]] = {}
    for F, flag in flags:
        by_device.setdefault(F, []).append(flag)
    return all(bool(F.all(F.stack(*found, axis=0)).item()) for F, found in by_device.items())
