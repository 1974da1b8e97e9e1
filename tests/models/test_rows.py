"""What the lectures and papers say of their nets in numbers, layer by layer; torchvision's names, written down by hand."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import models, nn
from minidl.models import resnet, resnet_cifar, vgg


def count(model):
    return sum(p.numel() for p in model.parameters())


def trace(model, *shape):
    """{layer: (C, H, W) or (features,)} of its outputs, from a batch of no images: shapes only, at no cost."""
    shapes = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, x, y, name=name: shapes.__setitem__(name, y.shape[1:]))
    model.eval()(minidl.zeros(0, *shape))
    return shapes


def shape_only(name, **options):
    with nn.init.shape_only():
        return models.create(name, **options)


def macs(name, size=224, **options):
    """Multiply-accumulates of convolutions and fully connected layers for one image."""
    model = shape_only(name, **options)
    shapes = trace(model, 3, size, size)
    total = 0
    for key, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            pixels = shapes[key][1] * shapes[key][2] if isinstance(module, nn.Conv2d) else 1
            total += module.weight.numel() * pixels
    return total


# ---- names

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_alexnets_names():
    keys = [f"features.{i}.{p}" for i in (0, 3, 6, 8, 10) for p in ("weight", "bias")]
    keys += [f"classifier.{i}.{p}" for i in (1, 4, 6) for p in ("weight", "bias")]
    assert list(shape_only("alexnet").state_dict()) == keys


@pytest.mark.parametrize("name, indices", [
    ("vgg11", (0, 3, 6, 8, 11, 13, 16, 18)),
    ("vgg13", (0, 2, 5, 7, 10, 12, 15, 17, 20, 22)),
    ("vgg16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    ("vgg19", (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)),
])
def test_vggs_names(name, indices):
    keys = [f"features.{i}.{p}" for i in indices for p in ("weight", "bias")]
    keys += [f"classifier.{i}.{p}" for i in (0, 3, 6) for p in ("weight", "bias")]
    assert list(shape_only(name).state_dict()) == keys


def test_vgg_bns_names():
    keys = []
    for i in (0, 4, 8, 11, 15, 18, 22, 25):
        keys += [f"features.{i}.weight", f"features.{i}.bias", *(f"features.{i + 1}.{p}" for p in BN)]
    keys += [f"classifier.{i}.{p}" for i in (0, 3, 6) for p in ("weight", "bias")]
    assert list(shape_only("vgg11_bn").state_dict()) == keys


@pytest.mark.parametrize("name, repeats, convs, entries", [
    ("resnet18", (2, 2, 2, 2), 2, 122), ("resnet34", (3, 4, 6, 3), 2, 218), ("resnet50", (3, 4, 6, 3), 3, 320),
    ("resnet101", (3, 4, 23, 3), 3, 626), ("resnet152", (3, 8, 36, 3), 3, 932), ("wide_resnet50_2", (3, 4, 6, 3), 3, 320),
])
def test_resnets_names(name, repeats, convs, entries):
    keys = ["conv1.weight", *(f"bn1.{p}" for p in BN)]
    for stage, n in enumerate(repeats, 1):
        for i in range(n):
            at = f"layer{stage}.{i}"
            for k in range(1, convs + 1):
                keys += [f"{at}.conv{k}.weight", *(f"{at}.bn{k}.{p}" for p in BN)]
            if i == 0 and (stage > 1 or convs == 3):
                keys += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{p}" for p in BN)]
    keys += ["fc.weight", "fc.bias"]
    assert list(shape_only(name).state_dict()) == keys and len(keys) == entries


def test_cifar_resnets_names():
    keys = ["conv1.weight", *(f"bn1.{p}" for p in BN)]
    for stage in (1, 2, 3):
        for i in range(3):
            for k in (1, 2):
                keys += [f"layer{stage}.{i}.conv{k}.weight", *(f"layer{stage}.{i}.bn{k}.{p}" for p in BN)]
    assert list(shape_only("resnet20").state_dict()) == [*keys, "linear.weight", "linear.bias"]


def test_squeezenets_names():
    for name, fires in (("squeezenet1_0", (3, 4, 5, 7, 8, 9, 10, 12)), ("squeezenet1_1", (3, 4, 6, 7, 9, 10, 11, 12))):
        keys = ["features.0.weight", "features.0.bias"]
        for i in fires:
            keys += [f"features.{i}.{c}.{p}" for c in ("squeeze", "expand1x1", "expand3x3") for p in ("weight", "bias")]
        assert list(shape_only(name).state_dict()) == [*keys, "classifier.1.weight", "classifier.1.bias"]


def test_vits_names_and_shapes():
    keys = ["class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"]
    for i in range(12):
        at = f"encoder.layers.encoder_layer_{i}"
        keys += [f"{at}.{p}" for p in (
            "ln_1.weight", "ln_1.bias", "self_attention.in_proj_weight", "self_attention.in_proj_bias",
            "self_attention.out_proj.weight", "self_attention.out_proj.bias", "ln_2.weight", "ln_2.bias",
            "mlp.0.weight", "mlp.0.bias", "mlp.3.weight", "mlp.3.bias",
        )]
    keys += ["encoder.ln.weight", "encoder.ln.bias", "heads.head.weight", "heads.head.bias"]
    state = shape_only("vit_b_16").state_dict()
    assert list(state) == keys
    assert state["class_token"].shape == (1, 1, 768) and state["encoder.pos_embedding"].shape == (1, 197, 768)
    assert state["conv_proj.weight"].shape == (768, 3, 16, 16)
    assert state["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"].shape == (2304, 768)
    assert state["encoder.layers.encoder_layer_11.mlp.0.weight"].shape == (3072, 768)


# ---- shapes and operations

@pytest.mark.parametrize("size, first", [(227, 56), (224, 55)])
def test_alexnets_shapes(size, first):
    shapes = trace(shape_only("alexnet"), 3, size, size)
    sides = [shapes[f"features.{i}"][1] for i in (0, 2, 3, 5, 6, 8, 10, 12)]
    assert sides == [first, 27, 27, 13, 13, 13, 13, 6]
    assert [shapes[f"classifier.{i}"] for i in (0, 1, 4, 6)] == [(9216,), (4096,), (4096,), (1000,)]


def test_alexnet_originals_units_and_operations():
    shapes = trace(shape_only("alexnet_original"), 3, 227, 227)
    units = [int(np.prod(shapes[f"features.{i}"])) for i in (0, 4, 8, 10, 12)]
    assert units == [290_400, 186_624, 64_896, 64_896, 43_264]
    assert sum(units) + 4096 + 4096 + 1000 == 659_272
    assert macs("alexnet_original", 227) == pytest.approx(724.4e6, abs=0.05e6)
    assert macs("alexnet") == 714_188_480
    assert macs("alexnet", 227) == pytest.approx(716.8e6, abs=0.05e6)


@pytest.mark.parametrize("name, configuration, layers", [
    ("vgg11", "A", 11), ("vgg11_lrn", "A-LRN", 11), ("vgg13", "B", 13), ("vgg16c", "C", 16), ("vgg16", "D", 16),
    ("vgg19", "E", 19),
])
def test_vggs_weight_layers(name, configuration, layers):
    model = shape_only(name)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == layers
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == vgg.CONFIGURATIONS[configuration].count("M") == 5
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == ({(3, 3), (1, 1)} if name == "vgg16c" else {(3, 3)})


def test_vggs_configurations_are_the_papers():
    with pytest.raises(minidl.errors.ConfigError, match="one of A, A-LRN, B, C, D, E, got 'F'"):
        vgg.VGG("F")


def test_one_7x7_and_three_3x3():
    """They see the same pixels, with 49 K^2 and 27 K^2 weights."""
    k = 24
    assert nn.Conv2d(k, k, 7, bias=False).weight.numel() == 49 * k**2
    three = nn.Sequential(*(nn.Conv2d(k, k, 3, bias=False) for _ in range(3)))
    assert count(three) == 27 * k**2
    assert three(minidl.zeros(1, k, 7, 7)).shape == (1, k, 1, 1)


def test_vggs_operations():
    assert macs("vgg11") == 7_609_090_048
    assert macs("vgg16") == 15_470_264_320
    assert macs("vgg19") == 19_632_062_464


@pytest.mark.parametrize("name, expected", [
    ("resnet18", 1_814_073_344), ("resnet34", 3_663_761_408), ("resnet50", 4_089_184_256), ("resnet101", 7_801_405_440),
    ("resnet152", 11_513_626_624),
])
def test_resnets_operations_as_torchvision(name, expected):
    assert macs(name) == expected


@pytest.mark.parametrize("name, shortcut, exact, printed", [
    ("resnet18", "A", 1.795, 1.8), ("resnet34", "A", 3.644, 3.6), ("resnet50", "B", 3.858, 3.8), ("resnet101", "B", 7.570, 7.6),
    ("resnet152", "B", 11.282, 11.3),
])
def test_resnets_operations_as_published(name, shortcut, exact, printed):
    found = macs(name, shortcut=shortcut, stride="v1") / 1e9
    assert found == pytest.approx(exact, abs=0.0005) and found == pytest.approx(printed, abs=0.06)


@pytest.mark.parametrize("depth, expected", [(20, 40_551_040), (32, 68_862_592), (56, 125_485_696), (110, 252_887_680)])
def test_cifar_resnets_operations(depth, expected):
    assert macs(f"resnet{depth}", 32) == expected == macs(f"plain{depth}", 32)


def test_resnets_sizes():
    shapes = trace(shape_only("resnet50"), 3, 224, 224)
    layers = ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")
    assert [shapes[layer][1] for layer in layers] == [112, 56, 56, 28, 14, 7, 1]
    assert [shapes[f"layer{i}"][0] for i in (1, 2, 3, 4)] == [256, 512, 1024, 2048]


def test_bottlenecks_weights():
    assert nn.Conv2d(256, 256, 3, bias=False).weight.numel() == 589_824
    block = resnet.Bottleneck(256, 64)
    assert [c.weight.numel() for c in (block.conv1, block.conv2, block.conv3)] == [16_384, 36_864, 16_384]
    assert 16_384 + 36_864 + 16_384 == 69_632


def test_stride_v1_is_on_the_first_convolution():
    for stride, expected in (("v1", (2, 1)), ("v1.5", (1, 2))):
        block = shape_only("resnet50", stride=stride).layer2[0]
        assert (block.conv1.stride[0], block.conv2.stride[0]) == expected
    with pytest.raises(minidl.errors.ConfigError, match="stride must be 'v1' or 'v1.5', got 2"):
        models.create("resnet50", stride=2)
    with pytest.raises(minidl.errors.ConfigError, match="shortcut must be 'A' or 'B', got 'C'"):
        models.create("resnet50", shortcut="C")


def test_overfeats_shapes():
    shapes = trace(shape_only("overfeat"), 3, 221, 221)
    assert [shapes[f"features.{i}"] for i in (0, 2, 3, 5, 6, 8, 10, 12, 14)] == [
        (96, 108, 108), (96, 36, 36), (256, 30, 30), (256, 15, 15), (512, 15, 15), (512, 15, 15), (1024, 15, 15),
        (1024, 15, 15), (1024, 5, 5),
    ]


def test_squeezenets_shapes():
    shapes = trace(shape_only("squeezenet1_0"), 3, 224, 224)
    assert [shapes[f"features.{i}"] for i in (0, 2, 6, 11, 12)] == [
        (96, 109, 109), (96, 54, 54), (256, 27, 27), (512, 13, 13), (512, 13, 13)
    ]


# ---- identity by construction

@pytest.mark.parametrize("block", [resnet.BasicBlock(8, 8), resnet.Bottleneck(16, 4), resnet_cifar.BasicBlock(8, 8)])
def test_a_zero_branch_makes_a_block_relu(block):
    x = minidl.randn(2, block.conv1.in_channels, 5, 5)
    last = block.bn3 if hasattr(block, "bn3") else block.bn2
    nn.init.zeros_(last.weight)
    for mode in (True, False):
        np.testing.assert_array_equal(block.train(mode)(x).detach().numpy(), np.maximum(x.numpy(), 0))


def test_zero_init_residual_starts_as_the_identity():
    model = models.create("resnet18", num_classes=3, zero_init_residual=True)
    x = minidl.rand(1, 64, 8, 8)
    np.testing.assert_array_equal(model.layer1(x).detach().numpy(), x.numpy())


def test_a_deeper_net_made_of_a_shallower_one_and_identities_gives_its_outputs():
    shallow, deep = models.create("resnet20"), models.create("resnet32")
    for block in deep.modules():
        if isinstance(block, resnet_cifar.BasicBlock):
            nn.init.zeros_(block.bn2.weight)
    deep.load_state_dict(shallow.state_dict(), strict=False)  # blocks 0..2 of each stage; 3 and 4 stay the identity
    x = minidl.randn(3, 3, 32, 32)
    with minidl.no_grad():
        ours, theirs = deep.eval()(x).numpy(), shallow.eval()(x).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


# ---- the lecture's listing

class LectureAlexNet(nn.Module):
    """The lecture's class, retyped; the only change is where ``nn`` comes from."""

    def __init__(self, num_classes: int = 1000) -> None:
        super(LectureAlexNet, self).__init__()  # noqa: UP008 - as the lecture has it
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x):
        x = self.features(x)
        x = self.avgpool(x)
        x = minidl.flatten(x, 1)
        x = self.classifier(x)
        return x


def test_the_lectures_alexnet_runs_and_is_ours():
    with nn.init.shape_only():
        assert count(LectureAlexNet()) == 61_100_840
        assert list(LectureAlexNet().state_dict()) == list(models.create("alexnet").state_dict())
    model = LectureAlexNet(num_classes=10)
    with nn.init.skip_init():
        ours = models.create("alexnet", num_classes=10)
    ours.load_state_dict(model.state_dict())
    batch = minidl.randn(1, 3, 224, 224)
    with minidl.no_grad():
        output = model.eval()(batch)
        probabilities = nn.functional.softmax(output[0], dim=0)
        top5 = minidl.topk(probabilities, 5)
    assert len(top5[0]) == 5 and probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    with minidl.no_grad():
        np.testing.assert_array_equal(ours.eval()(batch).numpy(), output.numpy())
    model.train().features(minidl.randn(1, 3, 64, 64)).sum().backward()  # in-place ReLUs must not disturb the gradients
    assert all(np.isfinite(p.grad.numpy()).all() for p in model.features.parameters())
