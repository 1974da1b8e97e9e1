"""Stochastic gradient descent."""
from __future__ import annotations

from typing import Any

from minidl.errors import ConfigError
from minidl.optim.optimizer import Optimizer, Params
from minidl.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), in torch's form.

    g = grad + weight_decay * p;  v = momentum * v + (1 - dampening) * g, the first v being g itself;
    p = p - lr * v, or p - lr * (g + momentum * v) with ``nesterov``, or p - lr * g without momentum.

    Args:
        params: see Optimizer.
        lr: learning rate.
        momentum, dampening, weight_decay: the factors of the formula.
        nesterov: look-ahead momentum; needs momentum > 0 and dampening 0.
        maximize: climb instead of descend.
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False, *, maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize,
        })

    def _check(self, group: dict[str, Any]) -> None:
        self._at_least(0.0, **{key: group[key] for key in ("lr", "momentum", "weight_decay")})
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ConfigError(
                f"SGD: nesterov needs momentum > 0 and dampening 0, got momentum={group['momentum']} "
                f"and dampening={group['dampening']}"
            )

    def _update(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        momentum = group["momentum"]
        states = [self.state[p].get("momentum_buffer") for p in params] if momentum else [None] * len(params)
        buffers = [None if slot is None else slot.data for slot in states]
        F.sgd_(
            arrays, grads, buffers, lr=group["lr"], momentum=momentum, dampening=group["dampening"],
            weight_decay=group["weight_decay"], nesterov=group["nesterov"], maximize=group["maximize"],
        )
        if momentum:
            for p, slot, buffer in zip(params, states, buffers, strict=True):
                if slot is None:  # the verb made the buffer in its first step
                    self.state[p]["momentum_buffer"] = Tensor(buffer, F)
