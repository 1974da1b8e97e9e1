"""RMSprop."""
from __future__ import annotations

from typing import Any

from minidl.optim.optimizer import Optimizer, Params
from minidl.tensor import Tensor


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): the gradient divided by a running root mean square of itself.

    g = grad + weight_decay * p;  v = alpha v + (1 - alpha) g^2;  d = g / (sqrt(v) + eps);  p = p - lr * d.
    With ``centered``, v minus the square of the running mean gradient; with ``momentum``, p = p - lr * b, b = momentum b + d.

    Args:
        params: see Optimizer.
        lr, alpha, eps, weight_decay, momentum: the numbers of the formula.
        centered: normalise by an estimate of the variance (Graves 2013).
        maximize: climb instead of descend.
    """

    def __init__(
        self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, *, maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "centered": centered,
            "maximize": maximize,
        })

    def _check(self, group: dict[str, Any]) -> None:
        self._at_least(0.0, **{key: group[key] for key in ("lr", "alpha", "eps", "weight_decay", "momentum")})

    def _update(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        self._count(params)
        none = [None] * len(params)
        F.rmsprop_(
            arrays, grads, self._slots(F, params, "square_avg"),
            self._slots(F, params, "grad_avg") if group["centered"] else none,
            self._slots(F, params, "momentum_buffer") if group["momentum"] else none,
            lr=group["lr"], alpha=group["alpha"], eps=group["eps"], weight_decay=group["weight_decay"],
            momentum=group["momentum"], centered=group["centered"], maximize=group["maximize"],
        )
