"""Adagrad and Adadelta: step sizes from the history of the squared gradients."""
from __future__ import annotations

from typing import Any

from minidl.optim.optimizer import Optimizer, Params
from minidl.tensor import Tensor


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): the gradient divided by the root of the sum of all its squares.

    g = grad + weight_decay * p;  s = s + g^2;  p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps).

    Args:
        params: see Optimizer.
        lr, lr_decay, weight_decay, eps: the numbers of the formula.
        initial_accumulator_value: what s starts from.
        maximize: climb instead of descend.
    """

    def __init__(
        self, params: Params, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "eps": eps, "maximize": maximize,
        })

    def _check(self, group: dict[str, Any]) -> None:
        keys = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        self._at_least(0.0, **{key: group[key] for key in keys})

    def _update(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        F.adagrad_(
            arrays, grads, self._slots(F, params, "sum", group["initial_accumulator_value"]), self._count(params),
            lr=group["lr"], lr_decay=group["lr_decay"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=group["maximize"],
        )


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): no learning rate to choose; steps have the units of the parameters.

    g = grad + weight_decay * p;  v = rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) * g;
    u = rho u + (1 - rho) d^2;  p = p - lr * d.

    Args:
        params: see Optimizer.
        lr: a factor on the step, 1 in the paper.
        rho, eps, weight_decay: the numbers of the formula.
        maximize: climb instead of descend.
    """

    def __init__(
        self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        self._at_least(0.0, **{key: group[key] for key in ("lr", "eps", "weight_decay")})
        self._fraction(rho=group["rho"])

    def _update(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        self._count(params)
        F.adadelta_(
            arrays, grads, self._slots(F, params, "square_avg"), self._slots(F, params, "acc_delta"), lr=group["lr"],
            rho=group["rho"], eps=group["eps"], weight_decay=group["weight_decay"], maximize=group["maximize"],
        )
