"""``minidl models``, ``features`` and ``attention``."""

import json

import numpy as np
import pytest

import minidl
from minidl import data, models
from minidl.data import transforms as T
from minidl.io.safetensors import load_file, save_file
from minidl.train.weights import ModelCard, save_model
from minidl.transfer import extract, model_hash
from tests.test_cli import fails, invoke


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def output(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


# ---- models


def test_the_registry_as_a_table():
    lines = output("models").splitlines()
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == models.list_models()
    (line,) = (line for line in lines if line.startswith("alexnet "))
    weights = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    for cell in ("61,100,840", "3x224x224", "56.52", "79.07", weights, "BSD-3-Clause", "resize 256, crop 224"):
        assert cell in line
    assert sum("vit_h_14" in line for line in lines) == 2  # two sets of weights
    assert [line.split()[0] for line in output("models", "resnet1*").splitlines()[1:]] == [
        "resnet101", "resnet110", "resnet152", "resnet18",
    ]  # fmt: skip
    assert "no model matches 'resnext*'; there are" in fails("models", "resnext*")


def test_the_registry_as_json_says_everything():
    (net,) = json.loads(output("models", "resnet18", "--format", "json"))
    weights = net["weights"][0]
    assert (net["parameters"], net["input"], net["paper"]) == (11_689_512, [3, 224, 224], "arXiv:1512.03385")
    assert "top-1" in net["reported"] and set(net["options"]) == {"shortcut", "stride", "zero_init_residual"}
    assert weights["sha256_prefix"] in weights["url"] and (weights["top1"], weights["top5"]) == (69.758, 89.078)
    T.from_config(weights["preprocessing"])
    whole = json.loads(output("models", "--format", "json"))
    assert len(whole) == len(models.list_models()) and all(net["parameters"] for net in whole)


def test_the_registry_as_markdown():
    lines = output("models", "vgg1?", "--format", "markdown").splitlines()
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    assert "[arXiv:1409.1556](https://arxiv.org/abs/1409.1556)" in lines[2]


# ---- features


@pytest.fixture
def net(tmp_path):
    """A model file, as minidl train writes it."""
    info = data.dataset_info("shapes10")
    names = tuple(data.load("shapes10", split="test", size=10).class_names)
    steps = [{"name": "ToFloat"}, {"name": "Normalize", "mean": list(info.mean), "std": list(info.std)}]
    model = models.create("smallconv").eval()
    save_model(tmp_path / "net.safetensors", model, ModelCard("smallconv", {}, (3, 32, 32), names, steps, "shapes10"))
    return model, T.from_config(steps)


def test_features_in_a_file(net, tmp_path):
    model, steps = net
    command = ("features", "net.safetensors", "shapes10", "--layers", "fc,pool", "--limit", 30, "--out", "f.safetensors")
    assert "30 x 10" in output(*command, "--cache", "cache")
    arrays, metadata = load_file("f.safetensors")
    images = data.load("shapes10", size=30)
    wanted = extract(model, images, ["fc", "pool"], transform=steps)
    assert set(arrays) == {"fc", "pool", "labels"} and (arrays["labels"] == images.labels).all()
    assert all((arrays[name] == values).all() for name, values in wanted.items())
    facts = json.loads(metadata["minidl.features"])
    assert facts["model_sha256"] == model_hash(model) and facts["class_names"] == list(images.class_names)
    first = (tmp_path / "f.safetensors").read_bytes()
    assert output(*command, "--cache", "cache", "-q") == "" and (tmp_path / "f.safetensors").read_bytes() == first
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_decaf_features_of_a_folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (70, 60), (90 * k, 80, 90)).save(tmp_path / "data" / name / f"{k}.png")
    small = models.create("alexnet", num_classes=3, fc_width=16)
    save_file({k: v.numpy() for k, v in small.state_dict().items()}, "w.safetensors", {})
    told = output("features", "alexnet", "folder:data", "--layers", "pool5,fc6,fc7", "--out", "f.safetensors",
                  "--weights", "w.safetensors", "--option", "fc_width=16")  # fmt: skip
    assert "features.12" in told and "2 x 9,216" in told and "2 x 16" in told


def test_features_that_cannot_be(net):
    model, _ = net
    end = ("--out", "f.safetensors")
    assert "no layer 'fc7'" in fails("features", "net.safetensors", "shapes10", *end)
    assert "ends in .safetensors" in fails("features", "net.safetensors", "shapes10", "--out", "f.npz")
    assert "folder that exists" in fails("features", "net.safetensors", "shapes10", "--out", "no/f.safetensors")
    assert "takes images (3, 32, 32), but digits" in fails("features", "net.safetensors", "digits", "--layers", "fc", *end)
    assert "without weights" in fails("features", "alexnet", "shapes10", *end)


# ---- attention


def test_attention_of_a_picture(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save("a.png")
    options = {"num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 24}
    minidl.manual_seed(0)
    net = models.create("vit_tiny_cifar", **options)
    save_file({k: v.numpy() for k, v in net.state_dict().items()}, "w.safetensors", {})
    command = ["attention", "vit_tiny_cifar", "a.png", "--weights", "w.safetensors", "--preprocess", "cifar10"]
    command += [f"--option={key}={value}" for key, value in options.items()]
    assert output(*command) == "attention.png: written\n"
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    output(*command, "--block", 0, "--out", "b.png")
    assert (tmp_path / "b.png").read_bytes() != (tmp_path / "attention.png").read_bytes()
    assert "no block 2; this net has 0 to 1" in fails(*command, "--block", 2)
    assert "ends in .png" in fails(*command, "--out", "a.pdf")
    save_file({k: v.numpy() for k, v in models.create("smallconv").state_dict().items()}, "s.safetensors", {})
    told = fails("attention", "smallconv", "a.png", "--weights", "s.safetensors", "--preprocess", "cifar10")
    assert "no attention maps; expected a Vision Transformer" in told
