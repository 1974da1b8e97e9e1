"""Learning-rate schedules: the learning rate of each parameter group as a function of the number of steps taken.

Every schedule is a closed formula ``rate(base_lr, epoch)``, so that a resumed run has exactly the rates of an
uninterrupted one.  ``step()`` after each epoch (or batch) moves on.  A rate that someone else changed since - by hand, or
by a second schedule on the same optimiser - scales the base rate from then on, so that schedules chain as in torch.
"""
from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from minidl.errors import CheckpointError, ConfigError
from minidl.optim.optimizer import Optimizer

__all__ = [
    "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "ReduceLROnPlateau", "SequentialLR", "StepLR",
]


class LRScheduler:
    """Base class: a subclass defines ``rate(base_lr, epoch)``.

    Args:
        optimizer: whose groups' ``lr`` is set, at once for epoch 0 and at every ``step()``.
        last_epoch: -1 to start; the last finished epoch to continue a run whose groups have ``initial_lr``.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ConfigError(
                    f"{type(self).__name__}: last_epoch={last_epoch}, but group {index} has no 'initial_lr'; "
                    "load the optimiser's state first"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch: float = last_epoch
        self._last_lr = list(self.base_lrs) if last_epoch == -1 else [g["lr"] for g in optimizer.param_groups]
        self.step()

    def rate(self, base_lr: float, epoch: float) -> float:
        """The learning rate after ``epoch`` steps of a group that starts at ``base_lr``."""
        raise NotImplementedError(f"{type(self).__name__} defines no rate(base_lr, epoch)")

    def rates(self, epoch: float) -> list[float]:
        """The rate of every group after ``epoch`` steps."""
        return [self.rate(base, epoch) for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Move on by one, or to ``epoch``, and set the learning rates."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        groups = self.optimizer.param_groups
        for i, (group, last) in enumerate(zip(groups, self._last_lr, strict=True)):
            if group["lr"] != last and group["lr"] and last:
                self.base_lrs[i] *= group["lr"] / last
        self._set(self.rates(self.last_epoch))

    def _set(self, rates: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = rates

    def get_last_lr(self) -> list[float]:
        """The rates set last, one per group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser and functions, as plain numbers and lists."""
        return {
            key: list(value) if isinstance(value, list) else value
            for key, value in self.__dict__.items()
            if key not in ("optimizer", "lr_lambdas", "schedulers")
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state; load the optimiser's state as well.

        Raises:
            CheckpointError: it is the state of another kind of schedule, or of other parameter groups.
        """
        own = LRScheduler.state_dict(self)
        odd = sorted(own.keys() ^ state_dict.keys(), key=str)
        odd = odd or [k for k, v in own.items() if isinstance(v, list) and k != "milestones" and len(v) != len(state_dict[k])]
        if odd:
            raise CheckpointError(
                f"{type(self).__name__}.load_state_dict: made for another schedule or other parameter groups; missing, extra "
                f"or of another length: {', '.join(map(str, odd))}"
            )
        self.__dict__.update(state_dict)


class LambdaLR(LRScheduler):
    """base_lr * lr_lambda(epoch); one function, or one per group.  Functions are not part of the state."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]], last_epoch: int = -1
    ) -> None:
        count = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * count if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != count:
            raise ConfigError(f"LambdaLR: got {len(self.lr_lambdas)} functions for {count} parameter groups")
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: float) -> list[float]:
        """base_lr * lr_lambda(epoch) of every group."""
        return [base * f(epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]  # type: ignore[arg-type]


class StepLR(LRScheduler):
    """base_lr * gamma^(epoch // step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = _positive("StepLR", "step_size", step_size), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float) -> float:
        """See the class."""
        return base_lr * self.gamma ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """base_lr * gamma^(number of milestones reached): He et al. 2015 divide by 10 at 32k and 48k steps."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float) -> float:
        """See the class."""
        return base_lr * self.gamma ** bisect_right(self.milestones, epoch)


class ExponentialLR(LRScheduler):
    """base_lr * gamma^epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float) -> float:
        """See the class."""
        return base_lr * self.gamma**epoch


class LinearLR(LRScheduler):
    """Warm-up: base_lr times a factor that goes from start_factor to end_factor in total_iters steps, and stays there.

    Raises:
        ConfigError: start_factor is not in (0, 1], end_factor not in [0, 1], or total_iters below 1.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2.
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ConfigError(
                f"LinearLR: start_factor must be in (0, 1] and end_factor in [0, 1], got {start_factor} and {end_factor}"
            )
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = _positive("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float) -> float:
        """See the class."""
        done = min(epoch, self.total_iters) / self.total_iters
        return base_lr * (self.start_factor + (self.end_factor - self.start_factor) * done)


class CosineAnnealingLR(LRScheduler):
    """eta_min + (base_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2 (Loshchilov and Hutter 2017)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = _positive("CosineAnnealingLR", "T_max", T_max), eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float) -> float:
        """See the class."""
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class CosineAnnealingWarmRestarts(LRScheduler):
    """Cosine annealing that starts again after T_0 steps, each run T_mult times as long (Loshchilov and Hutter 2017).

    ``step(epoch)`` takes fractions: ``step(epoch + batch / batches)``.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = _positive("CosineAnnealingWarmRestarts", "T_0", T_0)
        self.T_mult = _positive("CosineAnnealingWarmRestarts", "T_mult", T_mult)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float) -> float:
        """See the class."""
        length: float = self.T_0
        if self.T_mult == 1:
            epoch %= length
        while epoch >= length:
            epoch -= length
            length *= self.T_mult
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * epoch / length)) / 2


class OneCycleLR(LRScheduler):
    """One cycle (Smith and Topin 2018): up to max_lr, then down to almost nothing; stepped after each batch.

    The rate goes from max_lr / div_factor to max_lr in the first ``pct_start`` of the steps, then to
    max_lr / div_factor / final_div_factor at the last; with ``three_phase`` back to the start first, as long as the way up.

    Args:
        max_lr: the peak; one number, or one per group.
        total_steps: how many steps there will be; or give ``epochs`` and ``steps_per_epoch``.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: move momentum (or Adam's beta1) the other way, from max_momentum to base_momentum and back.

    Raises:
        ConfigError: a bad option, or more steps than announced.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
        max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ConfigError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch")
            total_steps = _positive("OneCycleLR", "epochs", epochs) * _positive(
                "OneCycleLR", "steps_per_epoch", steps_per_epoch)
        self.total_steps = _positive("OneCycleLR", "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ConfigError(f"OneCycleLR: pct_start must be in [0, 1], got {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ConfigError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        count = len(optimizer.param_groups)
        self.max_lrs = [max_lr] * count if isinstance(max_lr, (int, float)) else list(max_lr)
        if len(self.max_lrs) != count:
            raise ConfigError(f"OneCycleLR: got {len(self.max_lrs)} max_lr for {count} parameter groups")
        if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ConfigError(f"OneCycleLR: {type(optimizer).__name__} has no momentum; pass cycle_momentum=False")
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.div_factor, self.final_div_factor, self.three_phase = div_factor, final_div_factor, three_phase
        self.pct_start = pct_start
        if last_epoch == -1:
            for group, peak in zip(optimizer.param_groups, self.max_lrs, strict=True):
                group["initial_lr"] = group["lr"] = peak / div_factor
        super().__init__(optimizer, last_epoch)

    def _phases(self) -> list[tuple[float, str, str]]:
        """(last step, from, to) of each phase, the ends named as in ``_levels``."""
        up = self.pct_start * self.total_steps - 1
        if self.three_phase:
            return [(up, "low", "high"), (2 * up, "high", "low"), (self.total_steps - 1, "low", "end")]
        return [(up, "low", "high"), (self.total_steps - 1, "high", "end")]

    def _value(self, epoch: float, levels: dict[str, float]) -> float:
        if epoch > self.total_steps:
            raise ConfigError(
                f"OneCycleLR: step {epoch:g} of {self.total_steps}: the cycle is over; make total_steps the number of batches "
                "of the whole training"
            )
        # The usual loop steps once more after its last batch; torch's curve would turn up again there, ours stays.
        epoch = min(epoch, self.total_steps - 1)
        start = 0.0
        for end, a, b in (phases := self._phases()):
            if epoch <= end or end == phases[-1][0]:
                done = (epoch - start) / (end - start) if end > start else 1.0  # a rise of one step is over at once
                if self.anneal_strategy == "linear":
                    return levels[a] + (levels[b] - levels[a]) * done
                return levels[b] + (levels[a] - levels[b]) / 2 * (1 + math.cos(math.pi * done))
            start = end
        raise AssertionError("the last phase covers every step")

    def rates(self, epoch: float) -> list[float]:
        """The rate of every group after ``epoch`` batches."""
        return [
            self._value(epoch, {
                "low": peak / self.div_factor, "high": peak, "end": peak / self.div_factor / self.final_div_factor,
            })
            for peak in self.max_lrs
        ]

    def step(self, epoch: float | None = None) -> None:
        """Move on by one batch: set learning rates and momentum."""
        super().step(epoch)
        if self.cycle_momentum:
            high, low = self.max_momentum, self.base_momentum
            momentum = self._value(self.last_epoch, {"low": high, "high": low, "end": high})
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """One schedule after the other: number i takes over at ``milestones[i - 1]`` and counts from 0.

    ``SequentialLR(opt, [LinearLR(opt, 0.1, total_iters=5), CosineAnnealingLR(opt, 95)], milestones=[5])`` is a cosine
    schedule with warm-up.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ConfigError(
                f"SequentialLR: {len(schedulers)} schedules need {len(schedulers) - 1} milestones, got {len(milestones)}"
            )
        for scheduler in schedulers:
            if isinstance(scheduler, (ReduceLROnPlateau, OneCycleLR)):
                raise ConfigError(f"SequentialLR: a {type(scheduler).__name__} cannot be part of a sequence")
            if scheduler.optimizer is not optimizer:
                raise ConfigError(f"SequentialLR: the {type(scheduler).__name__} was made for another optimiser")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        for group in optimizer.param_groups:  # undo the first step that each schedule took when it was made
            group["lr"] = group["initial_lr"]
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: float) -> list[float]:
        """The rates of the schedule whose turn it is."""
        index = bisect_right(self.milestones, epoch)
        scheduler = self.schedulers[index]
        scheduler.base_lrs = list(self.base_lrs)
        return scheduler.rates(epoch - self.milestones[index - 1] if index else epoch)

    def state_dict(self) -> dict[str, Any]:
        """The own state and that of every schedule."""
        return {**super().state_dict(), "schedulers": [s.state_dict() for s in self.schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state.  Raises as :meth:`LRScheduler.load_state_dict`."""
        state = dict(state_dict)
        parts = state.pop("schedulers", None)
        if not isinstance(parts, Sequence) or len(parts) != len(self.schedulers):
            raise CheckpointError(f"SequentialLR.load_state_dict: expected the states of {len(self.schedulers)} schedules")
        super().load_state_dict(state)
        for scheduler, saved in zip(self.schedulers, parts, strict=True):
            scheduler.load_state_dict(saved)


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by ``factor`` when a metric has not improved for more than ``patience`` steps.

    Args:
        mode: "min" (a loss) or "max" (an accuracy).
        threshold, threshold_mode: what counts as better: by this share of the best ("rel") or by this much ("abs").
        cooldown: steps after a reduction during which none is counted.
        min_lr: the smallest rate; one number, or one per group.
        eps: a change smaller than this is not made.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | Sequence[float] = 0.0, eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ConfigError(f"ReduceLROnPlateau: factor must be below 1, got {factor!r}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ConfigError(
                "ReduceLROnPlateau: mode must be 'min' or 'max' and threshold_mode 'rel' or 'abs', "
                f"got {mode!r}, {threshold_mode!r}"
            )
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"ReduceLROnPlateau: expected an Optimizer, got {type(optimizer).__name__}")
        count = len(optimizer.param_groups)
        self.min_lrs = [min_lr] * count if isinstance(min_lr, (int, float)) else list(min_lr)
        if len(self.min_lrs) != count:
            raise ConfigError(f"ReduceLROnPlateau: got {len(self.min_lrs)} min_lr for {count} parameter groups")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics: float, epoch: float | None = None) -> None:  # type: ignore[override]
        """Note the metric of one more epoch, and reduce the rates when it is time."""
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        if self.num_bad_epochs > self.patience:
            reduced = [max(lr * self.factor, low) for lr, low in zip(rates, self.min_lrs, strict=True)]
            rates = [new if lr - new > self.eps else lr for lr, new in zip(rates, reduced, strict=True)]
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._set(rates)

    def _better(self, value: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            goal = self.best * (1 + sign * self.threshold)
        else:
            goal = self.best + sign * self.threshold
        return value < goal if self.mode == "min" else value > goal


def _positive(name: str, option: str, value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: {option} must be a positive integer, got {value!r}")
    return value
