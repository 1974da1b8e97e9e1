"""Features by layer: names, values, modes, the cache."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

import minidl
from minidl import data, models, nn
from minidl.data import transforms as T
from minidl.data.folder import ImageFolder
from minidl.errors import ConfigError, DataError, ShapeError
from minidl.io.safetensors import load_file
from minidl.models.weights import MEAN, STD
from minidl.train.ensemble import Preparation
from minidl.train.weights import ModelCard
from minidl.transfer import aliases, extract, layer_paths, model_hash

STEPS = T.Compose([T.ToFloat(), T.Normalize(MEAN, STD)])


@pytest.fixture(scope="module")
def alexnet():
    return models.create("alexnet", num_classes=7, fc_width=24)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), np.uint8)


def forward(model, images):
    """pool5, fc6 and fc7 of AlexNet, layer by layer."""
    with minidl.no_grad():
        maps = model.features(minidl.from_numpy(STEPS(images, None)))
        fc6 = nn.functional.relu(model.classifier[1](model.avgpool(maps).flatten(1)))
        return maps.flatten(1).numpy(), fc6.numpy(), nn.functional.relu(model.classifier[4](fc6)).numpy()


def test_decaf_has_the_published_sizes():
    """9216, 4096 and 4096; the net is built without memory and run on no images."""
    with nn.init.shape_only():
        for name, side in (("alexnet", 224), ("alexnet", 227), ("alexnet_original", 227)):
            found = extract(models.create(name), minidl.zeros(0, 3, side, side))
            assert {k: v.shape for k, v in found.items()} == {"pool5": (0, 9216), "fc6": (0, 4096), "fc7": (0, 4096)}


def test_features_are_what_the_layers_give(alexnet, pictures):
    alexnet.eval()
    for given in (pictures, minidl.from_numpy(pictures), data.ArrayDataset(pictures, np.zeros(5, np.int64), ("a",))):
        found = extract(alexnet, given, transform=STEPS, batch_size=5)
        for values, wanted in zip(found.values(), forward(alexnet, pictures), strict=True):
            np.testing.assert_array_equal(values, wanted)
    halves = extract(alexnet, pictures, transform=STEPS, batch_size=2)
    for layer, values in found.items():
        # float32: products of another shape are summed in another order
        np.testing.assert_allclose(halves[layer], values, rtol=1e-4, atol=1e-5 * np.abs(values).max())


def test_an_in_place_layer_behind_does_not_change_a_feature():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)).eval()
    images = np.random.default_rng(0).normal(size=(2, 1, 1, 3)).astype(np.float32)
    found = extract(net, images, ["0", "1"])
    assert (found["0"] < 0).any() and (found["1"] == np.maximum(found["0"], 0)).all()


def test_modes_gradients_and_hooks_are_as_they_were(alexnet, pictures):
    alexnet.train()
    alexnet.features.eval()  # frozen
    before = [m.training for m in alexnet.modules()]
    first = extract(alexnet, pictures, ["fc7"], transform=STEPS)["fc7"]
    assert [m.training for m in alexnet.modules()] == before
    np.testing.assert_array_equal(extract(alexnet, pictures, ["fc7"], transform=STEPS)["fc7"], first)  # no dropout
    with pytest.raises(ShapeError):
        extract(alexnet, np.zeros((1, 2, 64, 64), np.float32))
    assert [m.training for m in alexnet.modules()] == before
    assert all(p.grad is None and p.requires_grad for p in alexnet.parameters())
    alexnet(minidl.zeros(1, 3, 64, 64))  # no hook is left that would fail here


def test_batch_statistics_are_not_touched():
    net = models.create("resnet20").train()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    extract(net, np.ones((2, 3, 32, 32), np.float32), ["layer3"])
    assert all((v.numpy() == before[k]).all() for k, v in net.state_dict().items())


def test_aliases_are_for_nets_built_like_alexnet():
    wanted = {"pool5": "features.12", "fc6": "classifier.2", "fc7": "classifier.5"}
    with nn.init.shape_only():
        assert aliases(models.create("alexnet")) == wanted
        assert aliases(models.create("vgg16")) == {"pool5": "features.30", "fc6": "classifier.1", "fc7": "classifier.4"}
        assert set(aliases(models.create("overfeat"))) == set(aliases(models.create("alexnet_original"))) == set(wanted)
        assert aliases(models.create("resnet18")) == aliases(models.create("squeezenet1_1")) == {}
        assert layer_paths(models.create("resnet18"), ["layer4.1.conv2"]) == {"layer4.1.conv2": "layer4.1.conv2"}


def test_an_unknown_layer_is_answered_with_those_that_there_are(alexnet):
    message = r"no layer 'fc9'; did you mean .*'fc6'.*its layers: pool5, fc6, fc7, features, f.*er\.6$"
    with pytest.raises(ConfigError, match=message):
        extract(alexnet, np.zeros((1, 3, 64, 64), np.float32), ["fc9"])
    with nn.init.shape_only(), pytest.raises(ConfigError, match="and [0-9]+ more"):
        layer_paths(models.create("resnet152"), ["fc7"])
    for layers in ("fc7", []):
        with pytest.raises(ConfigError, match="expected the names of layers"):
            extract(alexnet, np.zeros((1, 3, 64, 64), np.float32), layers)


def test_what_cannot_be_a_feature(alexnet, pictures):
    with pytest.raises(DataError, match="floating-point images, found uint8; give the transform"):
        extract(alexnet, pictures)
    with pytest.raises(ShapeError, match=r"expected a data set or images \(N, C, H, W\), found shape \(3, 64, 64\)"):
        extract(alexnet, pictures[0], transform=STEPS)
    with pytest.raises(ShapeError, match="found a list"):
        extract(alexnet, [1, 2])
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        extract(alexnet, pictures, transform=STEPS, batch_size=0)
    attention = "encoder.layers.encoder_layer_0.self_attention"
    with pytest.raises(ShapeError, match=f"{attention!r} gives a tuple"):
        extract(models.create("vit_tiny_cifar"), np.ones((1, 3, 32, 32), np.float32), [attention])

    class Lazy(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    with pytest.raises(ShapeError, match="has a layer '1' but did not use it"):
        extract(Lazy(nn.Flatten(), nn.ReLU()), np.ones((1, 1, 2, 2), np.float32), ["1"])


# ---- the cache


class Counting(nn.Module):
    """A net that counts the images it has seen."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.images = 0

    def forward(self, x):
        self.images += x.shape[0]
        return self.bn(self.conv(x))


def test_the_cache_gives_back_what_was_computed(pictures, tmp_path):
    net = Counting()
    options = {"transform": STEPS, "cache": tmp_path / "new" / "cache"}
    first = extract(net, pictures, ["conv"], **options)
    assert net.images == 5
    again = extract(net, pictures, ["conv"], **options)
    assert net.images == 5 and (again["conv"] == first["conv"]).all() and again["conv"].dtype == np.float32
    extract(net, pictures, ["conv", "bn"], **options)  # only bn is computed
    assert net.images == 10
    extract(net, data.ArrayDataset(pictures, np.zeros(5, np.int64), ("a",)), ["bn", "conv"], **options)
    assert net.images == 10, "the same pixels"
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 2


def test_the_cache_knows_what_it_depends_on(pictures, tmp_path):
    net, seen = Counting(), 0

    def computed(images=pictures, transform=STEPS):
        nonlocal seen
        extract(net, images, ["bn"], transform=transform, cache=tmp_path)
        new, seen = net.images > seen, net.images
        return new

    assert computed() and not computed()
    assert computed(transform=T.ToFloat())
    other = pictures.copy()
    other[4, 2, 63, 63] ^= 1
    assert computed(other) and computed(pictures[:4]) and computed(pictures[:, :, ::-1])
    net.bn.running_mean.data[0] += 1e-3  # in place, where no version tells of it
    assert computed() and not computed()
    net.bn.eps = 1e-3
    assert computed() and not computed()
    assert not computed(transform=T.Compose([T.RandomHorizontalFlip(), *STEPS.transforms])), "chance is left out"


def test_a_damaged_file_is_replaced(pictures, tmp_path):
    net = Counting()
    wanted = extract(net, pictures, ["conv"], transform=STEPS, cache=tmp_path)["conv"]
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-100], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        assert (extract(net, pictures, ["conv"], transform=STEPS, cache=tmp_path)["conv"] == wanted).all()
        assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [file.name]  # no temporary file stays
    assert json.loads(load_file(file)[1]["minidl.features"])["layer"] == "conv"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        extract(net, pictures, ["conv"], transform=STEPS, cache=tmp_path / "file" / "below")


def test_a_folder_is_known_by_its_files(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (20, 20), (50 * k, 80, 90)).save(tmp_path / "data" / name / f"{k}.png")
    net = Counting()

    def seen(dataset):
        before = net.images
        extract(net, dataset, ["conv"], transform=T.ToFloat(), cache=tmp_path / "cache")
        return net.images - before

    folder = ImageFolder(tmp_path / "data", "train", size=16)
    assert [seen(folder), seen(folder)] == [4, 0]
    assert seen(ImageFolder(tmp_path / "data", "train", size=12)) == 4
    assert [seen(data.Subset(folder, [2, 0])), seen(data.Subset(folder, [2, 0])), seen(data.Subset(folder, [0, 2]))] == [2, 0, 2]
    later = time.time() + 5
    os.utime(folder.files[0], (later, later))
    assert seen(folder) == 4


def test_a_preparation_is_a_transform():
    """What `minidl features` uses: the preprocessing that a model file carries, scaling and cutting included."""
    steps = [{"name": "Resize", "size": 20}, {"name": "CenterCrop", "size": 16}, *STEPS.config()["transforms"]]
    preparation = Preparation.of(ModelCard("smallconv", {}, (3, 16, 16), ("a",), steps))
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 24, 30), np.uint8)
    ready = preparation.deterministic()(images, None)
    np.testing.assert_array_equal(ready, T.from_config(steps)(images, None))
    json.dumps(preparation.config())
    np.testing.assert_array_equal(preparation.cut(images), T.from_config(steps[:2])(images, None))


def test_model_hash_is_of_names_and_numbers():
    minidl.manual_seed(0)
    first = models.create("smallconv")
    minidl.manual_seed(0)
    assert model_hash(first) == model_hash(models.create("smallconv")) != model_hash(models.create("smallconv"))
    first.eval()
    assert model_hash(nn.Sequential(nn.MaxPool2d(2))) != model_hash(nn.Sequential(nn.MaxPool2d(3)))
