"""The same state dict and the same images give PyTorch's numbers: every family, forward and backward."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import models, nn
from tests.models.twins import Twins, randomise

# Every net, with options that make it small and an image size that keeps the test short.  What differs between the nets of
# a family is only how many layers there are.
SMALL = {"num_classes": 11, "fc_width": 48}
CASES = [
    ("linear", {}, 32), ("mlp", {"hidden": (20, 10)}, 32), ("convnetjs", {}, 32), ("smallconv", {}, 32), ("stack", {}, 32),
    ("speednet", {}, 32), ("speednet", {"activation": "gelu", "widths": (16, 32)}, 32),
    ("lenet5", {}, 28), ("lenet5", {"activation": "relu"}, 32), ("lenet5_original", {}, 28),
    ("alexnet", SMALL, 95), ("alexnet_original", SMALL, 91), ("overfeat", SMALL, 77),
    ("vgg11", SMALL, 40), ("vgg11_lrn", SMALL, 32), ("vgg13_bn", SMALL, 32), ("vgg16c", SMALL, 32),
    ("squeezenet1_0", {"num_classes": 7}, 65), ("squeezenet1_1", {"num_classes": 7}, 65),
    ("resnet18", {}, 64), ("resnet18", {"shortcut": "A"}, 33), ("plain18", {}, 32),
    ("resnet50", {}, 64), ("resnet50", {"stride": "v1"}, 64), ("resnet50", {"shortcut": "A"}, 33),
    ("resnet20", {}, 32), ("plain20", {}, 32), ("resnet32", {}, 17), ("resnet110", {}, 8),
    ("preact_resnet20", {}, 32), ("preact_resnet164", {}, 8), ("wide_resnet16_4", {}, 16),
    ("vit_tiny_cifar", {}, 32), ("vit_tiny_cifar", {}, 40), ("vit_tiny_cifar", {"positions": "none"}, 32),
    ("vit_tiny_cifar", {"positions": "sincos"}, 32),
]
# Nets whose gradients are compared as well: one of each kind of layer and block.
BACKWARD = ["lenet5_original", "alexnet_original", "squeezenet1_1", "resnet18", "resnet20", "preact_resnet20", "vit_tiny_cifar"]


@pytest.fixture(scope="module")
def twins(torch):
    return Twins(torch)


def case_id(case):
    return "-".join([case[0], *(str(v) for k, v in case[1].items() if k not in SMALL), str(case[2])])


def images(name, size, n=2):
    return minidl.randn(n, models.model_info(name).in_channels, size, size)


@pytest.mark.parametrize("name, options, size", CASES, ids=map(case_id, CASES))
def test_outputs_are_torchs(twins, torch, name, options, size):
    with nn.init.skip_init():
        model = models.create(name, **options)
    randomise(model).eval()
    twin = twins.of(model, name, **options)
    x = images(name, size)
    with minidl.no_grad(), torch.no_grad():
        ours, theirs = model(x).numpy(), twin(torch.from_numpy(x.numpy())).numpy()
    assert np.isfinite(theirs).all() and theirs.std() > 0
    # float32: sums of thousands of products in another order, through up to a hundred layers
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", BACKWARD)
def test_training_gradients_are_torchs(twins, torch, name):
    """In training mode (batch statistics, dropout off), in float64, where nothing hides behind rounding."""
    options = {"dropout": 0.0} if "dropout" in models.model_info(name).options else {}
    if "fc_width" in models.model_info(name).options:
        options |= {"fc_width": 16, "num_classes": 10}
    if name == "vit_tiny_cifar":
        options["num_layers"] = 2
    model = randomise(models.create(name, **options)).double()
    twin = twins.of(model, name, **options)
    x = images(name, {"alexnet_original": 91, "squeezenet1_1": 40}.get(name, 32), n=3).double()
    labels = [1, 0, 5]
    ours = nn.functional.cross_entropy(model(x), minidl.tensor(labels))
    theirs = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x.numpy())), torch.tensor(labels))
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    expected = {key: p.grad.numpy() for key, p in twin.named_parameters()}
    for key, p in model.named_parameters():
        # 1e-7 of the largest gradient: float64 rounding, amplified by batch norms over few values
        np.testing.assert_allclose(p.grad.numpy(), expected[key], rtol=0, atol=1e-7 * np.abs(expected[key]).max(), err_msg=key)
    for (key, buffer), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
        np.testing.assert_allclose(buffer.numpy(), theirs.numpy(), rtol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", models.list_models())
def test_the_twin_has_the_same_state_dict(twins, torch, name):
    """Names, shapes, dtypes and their order, for every net at its full size."""
    with nn.init.shape_only():
        ours = models.create(name).state_dict()
    with torch.device("meta"):
        theirs = twins.create(name).state_dict()
    assert [(k, tuple(v.shape), str(v.dtype)) for k, v in ours.items()] == [
        (k, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in theirs.items()
    ]
