"""What float32 and Winograd's transforms cost a whole training step: gradients of ResNet-20 against float64.

Two things make them differ.  Sums are rounded: some 1e-6 of a gradient.  And a rounded activation close to zero may come out on
the other side of it, so that a ReLU passes what it should stop: one such sign among the 24 million of a step at batch 128
changes some gradients by 1e-3, and no order of summation helps.  Measured there with three seeds: 3 to 18 signs and up to 8e-3
for our kernels, 3e-3 to 1.3e-2 for PyTorch's.  So the rounding is tested with the signs held fixed, and the signs are counted.
"""
import numpy as np
import pytest

import minidl
import minidl.models
from minidl import config
from minidl.backend import get_backend
from minidl.nn import functional as F

BATCH = 16
# Relative L2 distance per tensor, with equal signs.  Measured at batch 128: 3.6e-6 "direct", 8.3e-6 "fast"; sums over
# longer images or a missing float64 combination would be ten times that.
LARGEST = {"fast": 2e-5, "direct": 1e-5}
# With the signs as they fall.  Few flip in a step as small as this one; PyTorch's own float32 step is this far off.
WITH_FLIPS = {"fast": 1e-2, "direct": 5e-3}
# Of the 3 million activations of this step; rounding by 1e-6 turns that share of numbers of order one.
FLIPS = 10


class Signs:
    """Where the ReLUs of a step are open: noted, or as they were in another step."""

    def __init__(self, patch, given=None):
        self.masks, self.given = [], given
        self.F = get_backend("cpu")
        self.forward, self.backward = self.F.batch_norm_relu, self.F.batch_norm_relu_grad
        patch.setattr(self.F, "batch_norm_relu", self.batch_norm_relu)
        if given is not None:
            patch.setattr(self.F, "batch_norm_relu_grad", self.batch_norm_relu_grad)
        self.results = {}

    def batch_norm_relu(self, x, w, b, residual, *, eps):
        if self.given is None:
            y, mean, invstd = self.forward(x, w, b, residual, eps=eps)
            self.masks.append(y > 0)
            return y, mean, invstd
        y, mean, invstd = self.F.batch_norm(x, w, b, eps=eps)
        mask = self.given[len(self.results)]
        y = np.where(mask, y if residual is None else y + residual, 0)
        self.results[id(y)] = mask
        return y, mean, invstd

    def batch_norm_relu_grad(self, gy, x, w, b, y, mean, invstd, *, eps, residual):
        g = np.where(self.results[id(y)], gy, 0)
        grads = self.F.batch_norm_grad(g, x, w, mean, invstd, eps=eps)
        return (*grads, g) if residual else grads


def gradients(dtype, precision="fast", given=None):
    """The gradients of a step in float64, and where its ReLUs were open."""
    minidl.manual_seed(0)
    model = minidl.models.create("resnet20").to(dtype)
    rng = np.random.default_rng(0)
    images = minidl.tensor(rng.standard_normal((BATCH, 3, 32, 32)).astype(np.float32).astype(dtype))
    with pytest.MonkeyPatch.context() as patch, config.conv_precision(precision):
        signs = Signs(patch, given)
        F.cross_entropy(model(images), minidl.tensor(rng.integers(0, 10, BATCH))).backward()
    return {name: p.grad.numpy().astype(np.float64) for name, p in model.named_parameters()}, signs.masks


def assert_near(got, exact, limit):
    errors = {name: np.linalg.norm(got[name] - exact[name]) / np.linalg.norm(exact[name]) for name in exact}
    assert max(errors.values()) <= limit, max(errors.items(), key=lambda item: item[1])
    assert np.median(list(errors.values())) > 1e-9   # float32 was computed, not float64


@pytest.mark.parametrize("precision", LARGEST)
def test_gradients_of_a_training_step(precision):
    exact, exact_signs = gradients("float64")
    got, signs = gradients("float32", precision)
    assert len(signs) == len(exact_signs) == 19
    assert sum(int((a != b).sum()) for a, b in zip(signs, exact_signs, strict=True)) <= FLIPS
    assert_near(got, exact, WITH_FLIPS[precision])
    assert_near(got, gradients("float64", given=signs)[0], LARGEST[precision])


def test_float64_never_uses_the_transforms():
    """The same bits in both modes: float64 runs elsewhere."""
    fast, direct = gradients("float64", "fast")[0], gradients("float64", "direct")[0]
    assert all(fast[name].tobytes() == direct[name].tobytes() for name in fast)
