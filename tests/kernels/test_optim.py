"""Optimiser steps: every variant against the formulas, and the formulas against torch.optim, over several steps."""
import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.plain import optim as plain_optim
from tests.kernels.cases import LAYOUTS, assert_close, draw, under_test

SHAPES = [(3, 4, 2, 2), (5,), (), (0, 3), (7, 1)]
STEPS = 4

# verb, options, their torch optimiser
CASES = [
    ("sgd_", {"lr": 0.1}, "SGD"),
    ("sgd_", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}, "SGD"),
    ("sgd_", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}, "SGD"),
    ("sgd_", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, "SGD"),
    ("adam_", {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, "Adam"),
    ("adam_", {"lr": 0.01, "beta1": 0.3, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}, "Adam"),
    ("adamw_", {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}, "AdamW"),
    ("adamw_", {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
     "AdamW"),
    ("rmsprop_", {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}, "RMSprop"),
    ("rmsprop_", {"lr": 0.01, "alpha": 0.4, "eps": 1e-3, "momentum": 0.9, "centered": True, "weight_decay": 0.1}, "RMSprop"),
    ("rmsprop_", {"lr": 0.01, "alpha": 0.9, "eps": 1e-8, "momentum": 0.5, "maximize": True}, "RMSprop"),
    ("adagrad_", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-10}, "Adagrad"),
    ("adadelta_", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 1e-4}, "Adadelta"),
]
STATES = {"sgd_": 0, "adam_": 3, "adamw_": 3, "rmsprop_": 3, "adagrad_": 1, "adadelta_": 2}
TAKES_STEPS = {"adam_", "adamw_", "adagrad_"}


def train(kernel, verb, options, dtype, layout="contiguous"):
    """Parameters and states after a few steps on fixed gradients."""
    params = [draw(i, shape, dtype, layout) for i, shape in enumerate(SHAPES)]
    states = [[np.zeros_like(p) for p in params] for _ in range(STATES[verb])] or [[None] * len(params)]
    for step in range(1, STEPS + 1):
        grads = [draw(100 * step + i, shape, dtype, layout) for i, shape in enumerate(SHAPES)]
        kept = [g.copy() for g in grads]
        kernel(params, grads, *states, *([[step] * len(params)] if verb in TAKES_STEPS else []), **options)
        for before, after in zip(kept, grads, strict=True):
            np.testing.assert_array_equal(before, after, err_msg="a gradient was written")
    return params, [s for state in states for s in state if s is not None]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("verb, options, twin", CASES)
def test_every_variant_equals_the_formulas(verb, options, twin, dtype, layout):
    expected, expected_states = train(variants(verb)["reference"], verb, options, dtype)
    # float16 is rounded at each step: a different last bit of a state moves the next steps.
    scale = STEPS if dtype == "float16" else 1
    for _, kernel in under_test(verb):
        params, states = train(kernel, verb, options, dtype, layout)
        for got, wanted in ((params, expected), (states, expected_states)):
            assert len(got) == len(wanted)
            assert_close(verb, tuple(got), tuple(wanted), dtype, scale)


@pytest.mark.parametrize("verb, options, _", CASES)
def test_blocks_change_nothing(verb, options, _, monkeypatch):
    whole = train(variants(verb)["numpy"], verb, options, "float32")
    monkeypatch.setattr(plain_optim, "BLOCK", 3)
    for group, other in zip(whole, train(variants(verb)["numpy"], verb, options, "float32"), strict=True):
        for a, b in zip(group, other, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parity
@pytest.mark.parametrize("verb, options, theirs", CASES)
def test_the_formulas_equal_torch(verb, options, theirs):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    options = dict(options)
    expected, _ = train(variants(verb)["reference"], verb, options, "float64")
    if "beta1" in options:
        options["betas"] = options.pop("beta1"), options.pop("beta2")
    params = [torch.tensor(draw(i, shape), requires_grad=True) for i, shape in enumerate(SHAPES)]
    optimizer = getattr(torch.optim, theirs)(params, **options)
    for step in range(1, STEPS + 1):
        for i, p in enumerate(params):
            p.grad = torch.tensor(draw(100 * step + i, SHAPES[i]))
        optimizer.step()
    assert_close(verb, tuple(expected), tuple(p.detach().numpy() for p in params), "float64")


def test_a_gradient_that_is_a_broadcast_view():
    p, g = np.ones((4, 3)), np.broadcast_to(np.float64(2), (4, 3))
    variants("sgd_")["numpy"]([p], [g], [None], lr=0.5, weight_decay=1.0)
    assert (p == 1 - 0.5 * 3).all()
