"""Every registered net: parameter counts, shapes, gradients, saving; the registry and its errors."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import models, nn
from minidl.errors import ConfigError, ShapeError
from minidl.models import lenet, resnet_cifar, stack


def count(model):
    return sum(p.numel() for p in model.parameters())


PARAMETERS = {
    "linear": 30_730,
    "mlp": 308_310,
    "convnetjs": 22_466,
    "resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018, "resnet110": 1_727_962,
    "plain20": 269_722, "plain32": 464_154, "plain44": 658_586, "plain56": 853_018, "plain110": 1_727_962,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    assert count(models.create(name)) == PARAMETERS[name]


def test_lenet_counts():
    assert count(models.create("lenet5", in_channels=1)) == 61_706
    original = models.create("lenet5_original", in_channels=1)
    assert count(original) == 60_000
    parts = [count(getattr(original, layer)) for layer in ("c1", "s2", "c3", "s4", "c5", "f6")]
    assert parts == [156, 12, 1_516, 32, 48_120, 10_164]


def test_convnetjs_layer_by_layer():
    net = models.create("convnetjs")
    assert [count(m) for m in net if count(m)] == [1_216, 8_020, 10_020, 3_210]


def channels(name):
    return 1 if name == "lenet5_original" else 3


# The deeper residual nets are the same class.
NETS = ("linear", "mlp", "smallconv", "convnetjs", "lenet5", "lenet5_original", "resnet20", "plain20", "stack")


@pytest.mark.parametrize("name", NETS)
def test_every_model_runs_learns_and_loads(name):
    model = models.create(name, num_classes=7, in_channels=channels(name))
    x = minidl.randn(2, channels(name), 32, 32)
    y = model(x)
    assert y.shape == (2, 7)
    nn.functional.cross_entropy(y, minidl.tensor([3, 5])).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad.numpy()).all(), key
    other = models.create(name, num_classes=7, in_channels=channels(name))
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other.eval()(x).detach().numpy(), model.eval()(x).detach().numpy())
    assert models.model_info(name).summary.endswith((".", "default"))


def test_create_errors():
    with pytest.raises(ConfigError, match="no model 'resnet21'; did you mean .*'resnet20'"):
        models.create("resnet21")
    with pytest.raises(ConfigError, match="no model 'xyz'"):
        models.create("xyz")
    with pytest.raises(ConfigError, match="model mlp: no option 'depth'; it takes: image_size, hidden, dropout"):
        models.create("mlp", depth=3)
    with pytest.raises(ConfigError, match="there is a model 'mlp' already"):
        models.register("mlp")(models.create)


def test_list_and_options():
    assert {"plain110", "plain20", "plain32", "plain44", "plain56"} <= set(models.list_models("plain*"))
    assert models.list_models("plain5*") == ["plain56"] and models.list_models("no such*") == []
    mlp = models.create("mlp", in_channels=1, image_size=28, hidden=(256, 128), dropout=0.5)
    assert mlp(minidl.ones(1, 1, 28, 28)).shape == (1, 10)
    mlp = models.create("mlp", in_channels=1, image_size=(28, 28), hidden=(256, 128))
    assert count(mlp) == 784 * 256 + 256 + 256 * 128 + 128 + 1290
    assert models.create("resnet20", image_size=32)(minidl.ones(1, 3, 40, 40)).shape == (1, 10), "image_size is only a hint"


def test_lenet_frames_small_images():
    net = models.create("lenet5", in_channels=1)
    x = minidl.randn(2, 1, 28, 28)
    framed = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_array_equal(net(x).detach().numpy(), net(minidl.tensor(framed)).detach().numpy())
    with pytest.raises(ShapeError, match="images of 64x64 are too large"):
        net(minidl.ones(1, 1, 64, 64))
    with pytest.raises(ConfigError, match="activation must be"):
        models.create("lenet5", activation="gelu")
    with pytest.raises(ConfigError, match="1 channel and up to 10 classes"):
        models.create("lenet5_original", in_channels=3)


def test_lenet_original_is_what_was_published():
    assert sum(len(maps) for maps in lenet.C3_TABLE) == 60 and len(set(lenet.C3_TABLE)) == 16
    assert all(len(g.split()) == 12 and {len(row) for row in g.split()} == {7} for g in lenet.GLYPHS)
    assert len(set(lenet.GLYPHS)) == 10
    c3 = lenet.SparseConv()
    x = minidl.randn(1, 6, 14, 14)
    y = c3(x).detach().numpy()
    for k, maps in enumerate(lenet.C3_TABLE):
        # float32 sums of up to 150 products
        np.testing.assert_allclose(y[:, k : k + 1], c3.filters[k](x[:, list(maps)]).detach().numpy(), 1e-4, 1e-5)
    codes = models.create("lenet5_original", in_channels=1).codes
    assert codes.shape == (10, 84) and set(np.unique(codes.numpy())) == {-1.0, 1.0}


def test_scaled_tanh_is_one_at_one():
    assert abs(lenet.scaled_tanh(minidl.tensor([1.0])).item() - 1) < 1e-4  # the paper's constants have five digits


def test_shortcut_has_no_parameters_and_the_plain_net_none():
    x = minidl.randn(1, 4, 6, 6)
    y = resnet_cifar.shortcut_a(x, 8, 2).numpy()
    np.testing.assert_array_equal(y[:, 2:6], x.numpy()[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any()
    block = resnet_cifar.BasicBlock(4, 4)
    for p in block.parameters():
        nn.init.zeros_(p)
    block.eval()
    np.testing.assert_array_equal(block(x).detach().numpy(), np.maximum(x.numpy(), 0), err_msg="zero branch: relu(x)")
    block.residual = False
    assert not block(x).detach().numpy().any()
    with pytest.raises(ConfigError, match="6n \\+ 2"):
        resnet_cifar.CifarResNet(21)


@pytest.mark.parametrize("pattern, layers", [
    ("CONV", ["CONV"]),
    ("[(CONV-RELU)*2-POOL]*1-(FC-RELU)*0", ["CONV", "RELU", "CONV", "RELU", "POOL"]),
    ("(conv-bn-relu)^2 - fc", ["CONV", "BN", "RELU"] * 2 + ["FC"]),
    ("[[CONV]*2]*2", ["CONV"] * 4),
])
def test_parse(pattern, layers):
    assert stack.parse(pattern) == layers


@pytest.mark.parametrize("pattern, text", [
    ("", "found the end"),
    ("CNOV", r"found CNOV \(did you mean CONV\?\) at >>>CNOV"),
    ("(CONV-RELU", r"'\(' is not closed"),
    ("(CONV]", r"'\(' is not closed"),
    ("CONV*x", "expected a number of times"),
    ("CONV CONV", "did not expect 'CONV'"),
    ("FC-CONV", "CONV after FC"),
    ("[CONV-POOL]*6", "too many POOL"),
])
def test_bad_patterns(pattern, text):
    with pytest.raises(ConfigError, match=text):
        models.create("stack", pattern=pattern)


def test_stack_shapes():
    net = models.create("stack", pattern="[(CONV-BN-RELU)*1-POOL]*2-(FC-BN-RELU-DROPOUT)*2", width=4, fc_width=8)
    assert net(minidl.randn(2, 3, 32, 32)).shape == (2, 10)
    assert [m.out_channels for m in net if isinstance(m, nn.Conv2d)] == [4, 8]
    assert models.create("stack", pattern="POOL*5")(minidl.ones(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("name", ["smallconv", "lenet5"])
def test_learns_to_tell_two_patterns_apart(name):
    model = models.create(name, num_classes=2, in_channels=1)
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    x = rng.normal(size=(32, 1, 32, 32)).astype(np.float32) * 0.5
    x[labels == 1, :, ::2] += 1
    optimizer = minidl.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(minidl.tensor(x)), minidl.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
