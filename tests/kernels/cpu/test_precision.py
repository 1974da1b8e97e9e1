"""What float32 and Winograd's transforms cost a whole training step: gradients of ResNet-20 against float64."""
import numpy as np
import pytest

import minidl
import minidl.models
from minidl import config
from minidl.nn import functional as F

# Relative L2 distance per tensor.  What dominates is a handful of activations so close to zero that rounding decides their
# sign: a float32 step of the NumPy variant is off by 2e-6 where none flips, as here, and by up to 3e-3 at batch 64 and 6e-3 at
# batch 128.  Winograd's larger rounding errors flip a few more.
BATCH = 16
LARGEST = {"fast": 1e-2, "direct": 5e-3}


def gradients(dtype, precision):
    minidl.manual_seed(0)
    model = minidl.models.create("resnet20").to(dtype)
    rng = np.random.default_rng(0)
    images = minidl.tensor(rng.standard_normal((BATCH, 3, 32, 32)).astype(dtype))
    with config.conv_precision(precision):
        F.cross_entropy(model(images), minidl.tensor(rng.integers(0, 10, BATCH))).backward()
    return {name: p.grad.numpy().astype(np.float64) for name, p in model.named_parameters()}


@pytest.mark.parametrize("precision", LARGEST)
def test_gradients_of_a_training_step(precision):
    exact, got = gradients("float64", precision), gradients("float32", precision)
    errors = {name: np.linalg.norm(got[name] - exact[name]) / np.linalg.norm(exact[name]) for name in exact}
    assert max(errors.values()) <= LARGEST[precision], max(errors.items(), key=lambda item: item[1])
    assert 0 < np.median(list(errors.values()))      # float32 was computed, not float64


def test_float64_never_uses_the_transforms():
    """The same bits in both modes: float64 runs elsewhere."""
    fast, direct = gradients("float64", "fast"), gradients("float64", "direct")
    assert all(fast[name].tobytes() == direct[name].tobytes() for name in fast)
