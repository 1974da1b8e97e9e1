"""Adam and AdamW."""
from __future__ import annotations

from typing import Any

from minidl.optim.optimizer import Optimizer, Params
from minidl.tensor import Tensor


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps of about ``lr``, whatever the size of the gradients.

    g = grad + weight_decay * p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    p = p - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), t counting steps from 1.

    Args:
        params: see Optimizer.
        lr: learning rate.
        betas: (beta1, beta2), both in [0, 1).
        eps: keeps the division finite.
        weight_decay: L2 penalty, added to the gradient.
        amsgrad: divide by the largest v so far (Reddi et al. 2018).
        maximize: climb instead of descend.
    """

    _verb = "adam_"

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
        })

    def _check(self, group: dict[str, Any]) -> None:
        self._at_least(0.0, **{key: group[key] for key in ("lr", "eps", "weight_decay")})
        beta1, beta2 = group["betas"]
        self._fraction(beta1=beta1, beta2=beta2)

    def _update(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        amsgrad = group["amsgrad"]
        getattr(F, self._verb)(
            arrays, grads, self._slots(F, params, "exp_avg"), self._slots(F, params, "exp_avg_sq"),
            self._slots(F, params, "max_exp_avg_sq") if amsgrad else [None] * len(params), self._count(params),
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
            weight_decay=group["weight_decay"], amsgrad=amsgrad, maximize=group["maximize"],
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): p = p * (1 - lr * weight_decay), then Adam's step.

    Args as Adam's; ``weight_decay`` is 0.01 by default.
    """

    _verb = "adamw_"

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
