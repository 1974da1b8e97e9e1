"""The registry and its errors; the nets without a paper of their own, and LeNet-5."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import data, models, nn
from minidl.data import transforms
from minidl.errors import ConfigError, ShapeError
from minidl.models import lenet, resnet_cifar, stack


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_lenet_counts():
    assert count(models.create("lenet5", in_channels=1)) == 61_706
    original = models.create("lenet5_original", in_channels=1)
    assert count(original) == 60_000
    parts = [count(getattr(original, layer)) for layer in ("c1", "s2", "c3", "s4", "c5", "f6")]
    assert parts == [156, 12, 1_516, 32, 48_120, 10_164]


def test_convnetjs_layer_by_layer():
    net = models.create("convnetjs")
    assert [count(m) for m in net if count(m)] == [1_216, 8_020, 10_020, 3_210]


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


def test_defaults_are_the_published_ones():
    with nn.init.shape_only():
        for name, classes in (("resnet18", 1000), ("resnet20", 10), ("vit_b_32", 1000), ("lenet5", 10)):
            *_, bias = models.create(name).parameters()
            assert bias.shape == (classes,) and models.model_info(name).num_classes == classes
            *_, bias = models.create(name, num_classes=3).parameters()
            assert bias.shape == (3,)
        first, *_ = models.create("alexnet", in_channels=1).parameters()
        assert first.shape == (64, 1, 11, 11)
    assert models.model_info("lenet5").input_shape == (1, 32, 32)


@pytest.mark.parametrize("name", models.list_models())
def test_what_is_known_of_a_net(name):
    info = models.model_info(name)
    assert info.summary.endswith((".", "default")) and "\n" not in info.summary
    if info.parameters:
        assert f"{info.parameters:,}" in info.build.__doc__ or "parameters" not in info.summary
    for weights in info.weights:
        assert weights.url.startswith("https://download.pytorch.org/models/" + name) and len(weights.sha256_prefix) == 8
        assert int(weights.sha256_prefix, 16) and 50 < weights.top1 < weights.top5 < 100 and weights.licence and weights.source
    assert (info.preprocessing is None) == (not info.weights)


def test_preprocessing_can_be_built():
    steps = transforms.from_config(models.model_info("resnet50").preprocessing)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 300, 400), np.uint8)
    ready = steps(images, None)
    assert ready.shape == (2, 3, 224, 224) and ready.dtype == np.float32
    white = steps(np.full((1, 3, 256, 256), 255, np.uint8), None)[0, :, 0, 0]
    np.testing.assert_allclose(white, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6)  # float32
    assert models.model_info("vit_h_14").preprocessing[0]["size"] == 224
    assert models.model_info("vit_l_16").preprocessing[0]["size"] == 242


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
    ("[(CONV-RELU)^2-POOL?]^1-(FC-RELU)^1", ["CONV", "RELU", "CONV", "RELU", "POOL", "FC", "RELU"]),
])
def test_parse(pattern, layers):
    assert stack.parse(pattern) == layers


def test_optional_parts_of_a_pattern():
    """The lectures' pattern, with and without its pooling; N up to 5, K from 0 to 2."""
    for n in range(1, 6):
        for k in range(3):
            pattern = f"[(CONV-RELU)^{n}-POOL?]^2-(FC-RELU)^{k}"
            block, full = ["CONV", "RELU"] * n, ["FC", "RELU"] * k
            assert stack.parse(pattern) == (block + ["POOL"]) * 2 + full
            assert stack.parse(pattern, optional=False) == block * 2 + full
    assert stack.parse("CONV-(BN-RELU)?^2", optional=False) == ["CONV"]
    net = models.create("stack", pattern="[CONV-POOL?]^2", width=4, image_size=8, optional=False)
    assert not any(isinstance(m, nn.MaxPool2d) for m in net) and net(minidl.ones(1, 3, 8, 8)).shape == (1, 10)


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


def test_lenet5_reads_digits():
    """95 % of scikit-learn's digits that it has not seen, enlarged to what it was made for, after 6 epochs."""
    pytest.importorskip("sklearn")
    train, test = (data.load("digits", split=split, size=32) for split in ("train", "test"))
    model = models.create("lenet5")
    optimizer = minidl.optim.Adam(model.parameters(), lr=3e-3)
    loader = data.DataLoader(train, 32, shuffle=True, transform=transforms.ToFloat())
    for epoch in range(6):
        loader.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = 3e-3 if epoch < 4 else 3e-4
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(minidl.from_numpy(images)), minidl.from_numpy(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with minidl.no_grad():
        images, labels = test.batch(list(range(len(test))))
        found = model.eval()(minidl.from_numpy(transforms.to_float(images))).argmax(1).numpy()
    assert (found == labels).mean() >= 0.95
