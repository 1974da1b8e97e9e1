"""Every schedule's sequence of learning rates against torch's and against its formula; resuming and errors."""
from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.errors import CheckpointError, ConfigError
from minidl.optim import schedule

W = nn.Parameter
METRICS = [1.0, 0.9, 0.95, 0.91, 0.92, 0.93, 0.8999, 0.94, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

SCHEDULES = {
    "step": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [2, 7, 7, 12], gamma=0.3),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 8, eta_min=0.01),
    "cosine-0": lambda s, o: s.CosineAnnealingLR(o, 20),
    "linear": lambda s, o: s.LinearLR(o, 0.2, total_iters=6),
    "linear-default": lambda s, o: s.LinearLR(o),
    "linear-down": lambda s, o: s.LinearLR(o, 1.0, 0.1, 10),
    "lambda": lambda s, o: s.LambdaLR(o, lambda t: 1 / (1 + t)),
    "lambdas": lambda s, o: s.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1.0 + t]),
    "onecycle": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=21),
    "onecycle-linear": lambda s, o: s.OneCycleLR(
        o, [0.5, 1.0], epochs=3, steps_per_epoch=7, anneal_strategy="linear", pct_start=0.4),
    "onecycle-three": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=21, three_phase=True, div_factor=10, final_div_factor=100),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4, eta_min=0.01),
    "restarts-2": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, T_mult=2),
    "sequential": lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 16)], milestones=[4]),
    "sequential-3": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.5, total_iters=3), s.ExponentialLR(o, 0.9), s.StepLR(o, 2, 0.1)], milestones=[3, 10]),
    "plateau": lambda s, o: s.ReduceLROnPlateau(o, patience=1),
    "plateau-max": lambda s, o: s.ReduceLROnPlateau(o, mode="max", factor=0.5, patience=2, cooldown=2, min_lr=[0.01, 0.2]),
    "plateau-abs": lambda s, o: s.ReduceLROnPlateau(o, patience=1, threshold=0.05, threshold_mode="abs", eps=0.05),
    "plateau-max-abs": lambda s, o: s.ReduceLROnPlateau(o, mode="max", patience=0, threshold=0.1, threshold_mode="abs"),
}


def optimizer(lib, momentum=0.9):
    params = [lib.ones(1, requires_grad=True) for _ in range(2)]
    return lib.optim.SGD([{"params": [params[0]]}, {"params": [params[1]], "lr": 1.0}], lr=0.1, momentum=momentum)


def module(lib):
    return schedule if lib is minidl else lib.optim.lr_scheduler


def sequence(opt, scheduler, count=20, first=0):
    rates = [[g["lr"] for g in opt.param_groups] + [g["momentum"] for g in opt.param_groups]]
    for i in range(first, count):
        opt.step()
        scheduler.step(METRICS[i]) if "Plateau" in type(scheduler).__name__ else scheduler.step()
        rates.append([g["lr"] for g in opt.param_groups] + [g["momentum"] for g in opt.param_groups])
    return np.array(rates)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # torch warns about its own steps inside SequentialLR
@pytest.mark.parametrize("name", SCHEDULES)
def test_as_torch(torch, name):
    found = []
    for lib in (minidl, torch):
        opt = optimizer(lib)
        scheduler = SCHEDULES[name](module(lib), opt)
        found.append(sequence(opt, scheduler))
        np.testing.assert_allclose(scheduler.get_last_lr(), found[-1][-1][:2], 1e-12)
    # torch multiplies step by step; a closed formula differs by the rounding of 20 products, and near a cosine's zero
    # by as much of the base rate
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("at", [1, 4, 11])
def test_resuming_is_exact(name, at):
    opt = optimizer(minidl)
    whole = sequence(opt, SCHEDULES[name](schedule, opt))
    opt = optimizer(minidl)
    first = SCHEDULES[name](schedule, opt)
    sequence(opt, first, at)
    saved, groups = first.state_dict(), opt.state_dict()
    assert "optimizer" not in saved
    opt = optimizer(minidl)
    second = SCHEDULES[name](schedule, opt)
    opt.load_state_dict(groups)
    second.load_state_dict(saved)
    np.testing.assert_array_equal(sequence(opt, second, first=at), whole[at:])


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_two_schedules_chain_as_in_torch(torch):
    found = []
    for lib in (minidl, torch):
        opt, s = optimizer(lib), module(lib)
        both = [s.LinearLR(opt, 0.1, total_iters=5), s.ExponentialLR(opt, 0.9), s.StepLR(opt, 4, 0.5)]
        rates = []
        for _ in range(12):
            opt.step()
            for scheduler in both:
                scheduler.step()
            rates.append([g["lr"] for g in opt.param_groups])
        found.append(rates)
    np.testing.assert_allclose(found[0], found[1], 1e-9)  # products of 36 factors


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_a_rate_changed_by_hand_is_respected_as_in_torch(torch):
    found = []
    for lib in (minidl, torch):
        opt = optimizer(lib)
        scheduler = module(lib).StepLR(opt, 3, 0.5)
        rates = []
        for i in range(10):
            opt.step()
            scheduler.step()
            if i == 4:
                opt.param_groups[0]["lr"] *= 0.1
            rates.append([g["lr"] for g in opt.param_groups])
        found.append(rates)
    np.testing.assert_allclose(found[0], found[1], 1e-9)


def test_adam_cycles_beta1():
    opt = optim.Adam([nn.Parameter(minidl.ones(1))])
    scheduler = schedule.OneCycleLR(opt, 0.1, total_steps=10, pct_start=0.3)
    betas = [opt.param_groups[0]["betas"]]
    for _ in range(9):
        scheduler.step()
        betas.append(opt.param_groups[0]["betas"])
    assert betas[0] == (0.95, 0.999) and min(b[0] for b in betas) == 0.85 and abs(betas[-1][0] - 0.95) < 1e-12


@pytest.mark.parametrize("total", range(1, 9))
def test_a_cycle_of_a_few_steps_has_its_peak_and_its_end(total):
    opt = optim.SGD([W(minidl.ones(1))], lr=0.1)
    scheduler = schedule.OneCycleLR(opt, 0.1, total_steps=total, pct_start=0.25, cycle_momentum=False)
    found = [opt.param_groups[0]["lr"]]
    for _ in range(total):
        scheduler.step()
        found.append(opt.param_groups[0]["lr"])
    assert all(0 < rate <= 0.1 for rate in found) and found[-1] < 1e-3


def test_one_cycle_allows_the_step_after_its_last_batch():
    opt = optim.SGD([nn.Parameter(minidl.ones(1))], lr=1.0, momentum=0.9)
    scheduler = schedule.OneCycleLR(opt, 0.1, total_steps=10)
    for _ in range(10):                       # as many steps as batches: the usual loop
        opt.step()
        scheduler.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 / 25 / 1e4)
    with pytest.raises(ConfigError, match="the cycle is over"):
        scheduler.step()


def test_fractional_epochs_and_the_published_schedule():
    opt = optimizer(minidl)
    scheduler = schedule.CosineAnnealingWarmRestarts(opt, 2)
    scheduler.step(2.5)
    assert math.isclose(opt.param_groups[0]["lr"], 0.1 * (1 + math.cos(math.pi / 4)) / 2)
    opt = optimizer(minidl)
    scheduler = schedule.MultiStepLR(opt, [32_000, 48_000])
    for step, rate in ((31_999, 0.1), (32_000, 0.01), (48_000, 0.001)):
        scheduler.step(step)
        assert math.isclose(opt.param_groups[0]["lr"], rate)


def test_last_epoch_continues_a_run():
    opt = optimizer(minidl)
    with pytest.raises(ConfigError, match="no 'initial_lr'"):
        schedule.ExponentialLR(opt, 0.5, last_epoch=3)
    for group in opt.param_groups:
        group["initial_lr"] = group["lr"]
        group["lr"] *= 0.5**3
    schedule.ExponentialLR(opt, 0.5, last_epoch=3)
    assert math.isclose(opt.param_groups[0]["lr"], 0.1 * 0.5**4)


def test_the_name_in_torch():
    from minidl.optim.lr_scheduler import StepLR
    assert StepLR is schedule.StepLR is optim.lr_scheduler.StepLR and optim.ReduceLROnPlateau is schedule.ReduceLROnPlateau


@pytest.mark.parametrize("call, error, text", [
    (lambda o: schedule.StepLR(3, 1), TypeError, "expected an Optimizer, got int"),
    (lambda o: schedule.StepLR(o, 0), ConfigError, "step_size must be a positive integer, got 0"),
    (lambda o: schedule.LinearLR(o, start_factor=0), ConfigError, "start_factor must be in"),
    (lambda o: schedule.LinearLR(o, total_iters=0), ConfigError, "total_iters"),
    (lambda o: schedule.CosineAnnealingLR(o, 2.5), ConfigError, "T_max must be a positive integer"),
    (lambda o: schedule.CosineAnnealingWarmRestarts(o, 0), ConfigError, "T_0"),
    (lambda o: schedule.LambdaLR(o, [abs]), ConfigError, "got 1 functions for 2 parameter groups"),
    (lambda o: schedule.OneCycleLR(o, 0.1), ConfigError, "give total_steps"),
    (lambda o: schedule.OneCycleLR(o, 0.1, total_steps=5, pct_start=2), ConfigError, "pct_start"),
    (lambda o: schedule.OneCycleLR(o, 0.1, total_steps=5, anneal_strategy="x"), ConfigError, "'cos' or 'linear'"),
    (lambda o: schedule.OneCycleLR(o, [0.1], total_steps=5), ConfigError, "got 1 max_lr for 2"),
    (lambda o: schedule.OneCycleLR(optim.Adagrad([W(minidl.ones(1))]), 0.1, total_steps=5), ConfigError, "no momentum"),
    (lambda o: schedule.SequentialLR(o, [schedule.StepLR(o, 1)], [3]), ConfigError, "1 schedules need 0 milestones"),
    (lambda o: schedule.SequentialLR(o, [schedule.ReduceLROnPlateau(o)], []), ConfigError, "ReduceLROnPlateau cannot be part"),
    (lambda o: schedule.SequentialLR(o, [schedule.StepLR(optimizer(minidl), 1)], []), ConfigError, "another optimiser"),
    (lambda o: schedule.ReduceLROnPlateau(o, factor=1.0), ConfigError, "factor must be below 1"),
    (lambda o: schedule.ReduceLROnPlateau(o, mode="best"), ConfigError, "mode must be"),
    (lambda o: schedule.ReduceLROnPlateau(o, min_lr=[0.1]), ConfigError, "got 1 min_lr"),
    (lambda o: schedule.ReduceLROnPlateau(3), TypeError, "expected an Optimizer"),
])
def test_bad_options(call, error, text):
    with pytest.raises(error, match=text):
        call(optimizer(minidl))


def test_a_state_of_another_schedule_is_refused():
    def optimizer(groups=1):
        return optim.SGD([{"params": [nn.Parameter(minidl.zeros(1))]} for _ in range(groups)], lr=0.1)

    step = schedule.StepLR(optimizer(), 3)
    for other in (schedule.ExponentialLR(optimizer(), 0.9), schedule.StepLR(optimizer(2), 3)):
        with pytest.raises(CheckpointError, match="StepLR.load_state_dict: made for another schedule or other parameter groups"):
            step.load_state_dict(other.state_dict())
    with pytest.raises(CheckpointError, match="missing, extra or of another length: base_lrs, gamma"):
        step.load_state_dict({"last_epoch": 3, "step_size": 3, "_last_lr": [0.1]})
    opt = optimizer()
    both = schedule.SequentialLR(opt, [schedule.LinearLR(opt), schedule.StepLR(opt, 3)], [5])
    for state in ({}, {**both.state_dict(), "schedulers": both.state_dict()["schedulers"][:1]}):
        with pytest.raises(CheckpointError, match="expected the states of 2 schedules"):
            both.load_state_dict(state)
    assert step.last_epoch == 0 == both.last_epoch, "nothing was taken over"
    milestones = schedule.MultiStepLR(optimizer(), [1, 2, 3])
    milestones.load_state_dict(schedule.MultiStepLR(optimizer(), [5]).state_dict())
    assert milestones.milestones == [5], "options come with the state, as in torch"
