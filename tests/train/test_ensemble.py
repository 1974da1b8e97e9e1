"""Nets that answer together, and several views of a picture."""

import json

import numpy as np
import pytest

import minidl
from minidl import data, models, nn
from minidl.data import transforms as T
from minidl.errors import ConfigError, DataError
from minidl.io.safetensors import save_file
from minidl.nn import functional as F
from minidl.train import ensemble, predict
from minidl.train.ensemble import Member, Preparation, combined, load_members, read_classes
from minidl.train.evaluate import evaluate
from minidl.train.weights import ModelCard, save_model

NORM = {"name": "Normalize", "mean": [0.5] * 3, "std": [0.25] * 3}
CIFAR = [{"name": "ToFloat"}, NORM]
IMAGENET = [{"name": "Resize", "size": 20}, {"name": "CenterCrop", "size": 16}, *CIFAR]
NAMES = tuple("abcdefghij")


def card(size=16, steps=CIFAR, names=NAMES, model="smallconv", data="shapes10"):
    return ModelCard(model, {"num_classes": len(names), "in_channels": 3}, (3, size, size), names, steps, data)


def net(seed=0, classes=10):
    minidl.manual_seed(seed)
    return models.create("smallconv", num_classes=classes).eval().requires_grad_(False)


def member(seed=0, **options):
    return Member(net(seed), card(**options), f"net {seed}")


def pictures(n=4, h=24, w=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, h, w), dtype=np.uint8)


def probabilities(model, images):
    return F.softmax(model(minidl.from_numpy(images)), dim=1).numpy()


def close(a, b):
    # float32 probabilities, by way of a logarithm and back
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


# ---- views


def test_ten_crop_is_the_mean_of_ten_forwards():
    one = member(steps=IMAGENET)
    images = pictures()
    answer = combined([one], [one.preparation.views(images, 10)]).exp().numpy()
    square = T.CenterCrop(20)(T.Resize(20)(images, None), None)
    crops = [square[..., y : y + 16, x : x + 16] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
    prepare = T.from_config(CIFAR)
    forwards = [probabilities(one.model, prepare(part, None)) for c in crops for part in (c, c[..., ::-1])]
    assert len(forwards) == 10
    close(answer, np.mean(forwards, axis=0))


def test_two_views_are_the_centre_and_its_mirror_image():
    for steps, h, w in ((IMAGENET, 24, 30), (CIFAR, 16, 16)):
        one = member(steps=steps)
        images = pictures(h=h, w=w)
        centre = one.preparation.views(images, 1)[:, 0]
        two = one.preparation.views(images, 2)
        np.testing.assert_array_equal(two[:, 0], centre)
        np.testing.assert_array_equal(two[:, 1], centre[..., ::-1])
        flipped = probabilities(one.model, centre[..., ::-1].copy())
        close(combined([one], [two]).exp().numpy(), (probabilities(one.model, centre) + flipped) / 2)


def test_one_view_is_what_the_file_says():
    images = pictures()
    prepared = member(steps=IMAGENET).preparation.views(images, 1)
    np.testing.assert_array_equal(prepared[:, 0], T.from_config(IMAGENET)(images, None))
    small = pictures(h=16, w=16)
    np.testing.assert_array_equal(member().preparation.views(small, 1)[:, 0], T.from_config(CIFAR)(small, None))


def test_ten_views_of_small_pictures_are_shifts():
    images = pictures(h=16, w=16)
    views = member().preparation.views(images, 10)
    assert views.shape == (4, 10, 3, 16, 16) and views.dtype == np.float32
    prepare = T.from_config(CIFAR)
    np.testing.assert_array_equal(views[:, 4], prepare(images, None))  # the centre is the picture itself
    shifted = np.zeros_like(images)
    shifted[..., 2:, 2:] = images[..., :-2, :-2]
    np.testing.assert_array_equal(views[:, 0], prepare(shifted, None))


@pytest.mark.parametrize("count", [0, 3, 5, -1])
def test_other_numbers_of_views(count):
    with pytest.raises(ConfigError, match="expected 1, 2"):
        predict.test_members([member()], views=count)


def test_preparation_takes_imagenet_apart():
    found = Preparation.of(card(steps={"name": "Compose", "transforms": IMAGENET}))
    assert (found.size, found.resize) == ((16, 16), 20)
    assert [type(t).__name__ for t in found.rest.transforms] == ["ToFloat", "Normalize"]
    whole = Preparation.of(card(steps=models.model_info("resnet50").preprocessing))
    assert (whole.size, whole.resize) == ((224, 224), 256)
    random = Preparation.of(card(steps=[{"name": "RandomHorizontalFlip"}, *CIFAR]))
    assert len(random.rest.transforms) == 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_are_prepared_as_pillow_and_torchvision_do(tmp_path, interpolation):
    """Resize the shorter side to 256, rounding the other down; crop the middle 224, half of the rest rounded to even."""
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (25, 31, 3)), np.ones((13, 13, 1))).astype(np.uint8)  # 325 x 403
    Image.fromarray(smooth).save(tmp_path / "a.png")
    resize, *rest = models.model_info("resnet50").preprocessing
    steps = [{**resize, "interpolation": interpolation}, *rest]
    preparation = Preparation.of(card(224, steps))
    ours = preparation.views(preparation.read(tmp_path / "a.png", False), 1)[0, 0]
    scaled = Image.fromarray(smooth).resize((256 * 403 // 325, 256), Image.Resampling[interpolation.upper()])
    left = round((scaled.width - 224) / 2)
    crop = np.asarray(scaled.crop((left, 16, left + 224, 240)), np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (steps[3]["mean"], steps[3]["std"]))
    # Pillow's weights have 22 bits: now and then a value is rounded the other way, which is one of 255 levels.
    difference = np.abs(ours - (crop - mean) / std)
    assert difference.max() < 1.01 / 255 / 0.224 and (difference > 1e-5).mean() < 0.01


# ---- ensembles


def test_an_ensemble_of_identical_nets_is_the_net():
    one = member()
    views = one.preparation.views(pictures(h=16, w=16), 1)
    for k in (2, 5):
        close(combined([one] * k, [views] * k).exp().numpy(), combined([one], [views]).exp().numpy())


def test_an_ensemble_averages_probabilities_of_differently_prepared_images():
    a, b = member(1), member(2, steps=IMAGENET)
    images = pictures()
    prepared = [T.from_config(CIFAR)(T.CenterCrop(16)(images, None), None), T.from_config(IMAGENET)(images, None)]
    given = [x[:, None] for x in prepared]
    mean = (probabilities(a.model, prepared[0]) + probabilities(b.model, prepared[1])) / 2
    close(combined([a, b], given).exp().numpy(), mean)


def test_probabilities_that_vanish_do_not_spoil_the_logarithm():
    class Sure(nn.Module):
        def forward(self, x):
            return minidl.tensor([[1e4, 0.0, -1e4]]).expand(x.shape[0], 3)

    sure = Member(Sure(), card(names=("a", "b", "c")), "sure")
    scores = combined([sure, sure], [pictures(2, 4, 4)[:, None].astype(np.float32)] * 2)
    assert np.isfinite(scores.numpy()).all() and (scores.exp().numpy()[:, 0] == 1).all()


@pytest.fixture(scope="module")
def dataset():
    return data.load("shapes10", split="test", size=60)


def test_evaluation_of_one_net_is_the_plain_one(dataset):
    one = Member(net(), card(32), "net")
    alone = evaluate(one.model, data.DataLoader(dataset, 32, transform=T.from_config(CIFAR)), num_classes=10)
    ours = predict.test_members([one], limit=60, batch_size=32)
    assert (ours.top1, ours.top5, ours.confusion.counts) == (alone.top1, alone.top5, alone.confusion.counts)
    assert ours.loss == pytest.approx(alone.loss, rel=1e-6)
    thrice = predict.test_members([one] * 3, limit=60, batch_size=32)
    assert thrice.confusion.counts == alone.confusion.counts and thrice.loss == pytest.approx(alone.loss, rel=1e-5)


def test_evaluation_of_views_is_that_of_averaged_probabilities(dataset):
    members = [Member(net(1), card(32), "1"), Member(net(2), card(32), "2")]
    found = predict.test_members(members, limit=60, batch_size=25, views=10)
    images, labels = dataset.batch(range(60))
    mean = np.mean(
        [[probabilities(m.model, v.astype(np.float32)) for v in m.preparation.views(images, 10).swapaxes(0, 1)] for m in members],
        axis=(0, 1),
    )
    assert found.images == 60
    assert found.loss == pytest.approx(-np.log(mean[range(60), labels]).mean(), rel=1e-5)
    assert found.top1 == (mean.argmax(1) == labels).mean()


def test_a_folder_is_scaled_as_the_weights_want(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k, image in enumerate(pictures(3, 40, 50, seed=ord(name))):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name / f"{k}.png")
    one = Member(net(classes=2), card(steps=IMAGENET, names=("a", "b"), data=""), "net")
    with pytest.raises(ConfigError, match="--data"):
        predict.test_members([one])
    for views in (1, 2, 10):
        assert predict.test_members([one], data_name=f"folder:{tmp_path}", views=views).images > 0
    with pytest.raises(ConfigError, match="10 classes, but"):
        predict.test_members([member(steps=IMAGENET)], data_name=f"folder:{tmp_path}")


# ---- loading


@pytest.fixture
def files(tmp_path):
    for seed in (0, 1):
        save_model(tmp_path / f"{seed}.safetensors", net(seed), card(32))
    state = {k: v.numpy() for k, v in net(2).state_dict().items()}
    save_file(state, tmp_path / "plain.safetensors", {})
    return tmp_path


def test_files_and_nets_of_the_zoo_together(files):
    (files / "names.txt").write_text("\n".join("zyxwvutsrq") + "\n")
    members = load_members(
        [files / "0.safetensors", "smallconv"], weights=[files / "plain.safetensors"], preprocess="shapes10",
        classes=files / "names.txt",
    )  # fmt: skip
    assert [m.card.class_names for m in members] == [tuple("zyxwvutsrq")] * 2
    assert [m.card.model for m in members] == ["smallconv"] * 2 and members[1].card.input_shape == (3, 32, 32)
    assert not any(m.model.training for m in members)
    info = data.dataset_info("shapes10")
    assert Preparation.of(members[1].card).rest == T.Compose([T.ToFloat(), T.Normalize(info.mean, info.std)])
    wanted = net(2).state_dict()
    assert all((v.numpy() == wanted[k].numpy()).all() for k, v in members[1].model.state_dict().items())
    alone = load_members(["smallconv"], weights=[files / "plain.safetensors"], preprocess="shapes10")
    assert alone[0].card.class_names[:2] == ("class 0", "class 1")


def test_a_published_net_brings_its_preprocessing(tmp_path):
    small = models.create("squeezenet1_1", num_classes=3)
    save_file({k: v.numpy() for k, v in small.state_dict().items()}, tmp_path / "w.safetensors", {})
    found = load_members(["squeezenet1_1"], weights=[tmp_path / "w.safetensors"])[0]
    assert found.card.class_names == ("class 0", "class 1", "class 2")
    assert found.card.preprocessing == models.model_info("squeezenet1_1").preprocessing
    assert (found.preparation.resize, found.preparation.size) == (256, (224, 224))


def test_what_cannot_be_loaded(files):
    weights = [files / "plain.safetensors"]
    for names, options, message in (
        (["smallconv"], {}, "give a file that fits: --weights FILE"),
        (["smallconv"], {"weights": weights}, "--preprocess, imagenet or"),
        (["smallconv"], {"weights": weights, "preprocess": "mnist"}, "is for 1 channels|are for 1 channels|no data set|takes 3"),
        (["smallconv"], {"weights": weights, "preprocess": "nonsense"}, "nonsense"),
        (["smalconv"], {"weights": weights}, "did you mean"),
        ([files / "0.safetensors"], {"weights": weights}, "no net by name"),
        ([files / "a.pth"], {}, "does not say of which net"),
        ([], {}, "no model"),
    ):
        if options.get("preprocess") == "mnist" and len(data.dataset_info("mnist").mean) == 1:
            continue  # one mean fits any number of channels
        with pytest.raises(ConfigError, match=message):
            load_members(names, **options)
    save_model(files / "other.safetensors", net(), card(32, names=tuple("ABCDEFGHIJ")))
    with pytest.raises(ConfigError, match="the same ones in the same order"):
        load_members([files / "0.safetensors", files / "other.safetensors"])


def test_names_of_classes(tmp_path):
    path = tmp_path / "classes"
    for text, wanted in (
        ("tench\n\n goldfish \n", ("tench", "goldfish")),
        ('["tench", "goldfish"]', ("tench", "goldfish")),
        ('{"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"]}', ("tench", "goldfish")),
        ("﻿größer\n", ("größer",)),
    ):
        path.write_text(text, encoding="utf-8")
        assert read_classes(path) == wanted
    for text in ("", "[]", "{}", "[1,", '{"a": "b"}', "[[]]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="classes"):
            read_classes(path)
    with pytest.raises(DataError, match="cannot read"):
        read_classes(tmp_path / "none")
    with pytest.raises(ConfigError, match="names 2 classes, but .* has 10"):
        save_model(tmp_path / "m.safetensors", net(), card())
        path.write_text(json.dumps(["a", "b"]))
        load_members([tmp_path / "m.safetensors"], classes=path)


def test_ensemble_is_public():
    assert ensemble.Views.parse(10).count == 10
