"""Transforms against loops and, where they are installed, Pillow and PyTorch."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.data import ArrayDataset, channel_statistics
from minidl.data import transforms as T
from minidl.errors import ConfigError, DataError


def rng(seed=0):
    return np.random.default_rng(seed)


def images(n=6, c=3, h=9, w=7, dtype=np.uint8, seed=0):
    data = rng(seed).integers(0, 256, (n, c, h, w), dtype=np.uint8)
    return data if dtype == np.uint8 else (data / 255).astype(np.float32)


EXAMPLES = [
    T.ToFloat(),
    T.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    T.RandomHorizontalFlip(0.3),
    T.RandomCrop(padding=2),
    T.RandomCrop((5, 4), 1, "reflect"),
    T.RandomShift(2),
    T.Cutout(4, 0.5, 0.7),
    T.ColorJitter(0.4, 0.3, 0.2),
    T.Resize(5),
    T.Resize((12, 3)),
    T.Resize(5, "bicubic"),
    T.CenterCrop(5),
    T.TenCrop((5, 4)),
    T.Compose([T.RandomCrop(None, 1), T.Compose([T.ToFloat()])]),
]


@pytest.mark.parametrize("transform", EXAMPLES, ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_transform(transform, dtype):
    """Rebuilt from JSON it does the same; the input is not changed; the dtype is kept; n = 0 works."""
    x = images(dtype=dtype)
    before = x.copy()
    first = transform(x, rng())
    rebuilt = T.from_config(json.loads(json.dumps(transform.config())))
    assert rebuilt == transform and repr(rebuilt) == repr(transform)
    np.testing.assert_array_equal(first, rebuilt(x, rng()))
    np.testing.assert_array_equal(x, before)
    becomes_float = type(transform) in (T.ToFloat, T.Normalize, T.Compose)
    assert first.dtype == (np.float32 if becomes_float else dtype)
    assert transform(x[:0], rng()).shape == (0, *first.shape[1:])
    again = transform(np.asfortranarray(x), rng())
    # Sums over another memory order round differently: float32's last bits, or one level of uint8.
    np.testing.assert_allclose(again.astype(float), first.astype(float), atol=1 if first.dtype == np.uint8 else 1e-6)
    kept = transform.deterministic()
    if kept is not None:
        np.testing.assert_array_equal(kept(x, rng(1)), kept(x, rng(2)))


def test_registry_is_covered():
    assert {type(example).__name__ for example in EXAMPLES} == set(T.REGISTRY)


def test_normalize_and_to_float():
    x = images()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = (x / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(T.Normalize(mean, std)(x, rng()), expected, atol=2e-6)  # float32, values up to 3
    views = T.Compose([T.TenCrop(5), T.Normalize(mean, std)])(x, rng())
    assert views.shape == (6, 10, 3, 5, 5)
    with pytest.raises(DataError, match="Normalize: 3 means for images of 1 channels"):
        T.Normalize(mean, std)(images(c=1), rng())


def test_flip_mirrors_some_and_only_mirrors():
    x = images(n=200)
    y = T.RandomHorizontalFlip()(x, rng())
    mirrored = np.array([np.array_equal(b, a[..., ::-1]) for a, b in zip(x, y, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(x, y, strict=True)])
    assert (mirrored ^ same).all() and 70 < mirrored.sum() < 130  # 100 +- 4.2 standard deviations
    np.testing.assert_array_equal(T.RandomHorizontalFlip(1)(x, rng()), x[..., ::-1])
    np.testing.assert_array_equal(T.RandomHorizontalFlip(0)(x, rng()), x)


@given(
    st.integers(0, 3), st.sampled_from(["zero", "reflect"]), st.integers(1, 9), st.integers(1, 7), st.integers(0, 99)
)
def test_crop_is_a_window_of_the_padded_image(padding, mode, h, w, seed):
    x = images(n=3)
    y = T.RandomCrop((h, w), padding, mode)(x, rng(seed))
    pad = [(0, 0), (padding, padding), (padding, padding)]
    for image, cropped in zip(x, y, strict=True):
        padded = np.pad(image, pad, mode="reflect") if mode == "reflect" else np.pad(image, pad)
        rows, columns = padded.shape[1] - h + 1, padded.shape[2] - w + 1
        assert any(
            np.array_equal(padded[:, i : i + h, j : j + w], cropped) for i in range(rows) for j in range(columns)
        )


def test_crops_reach_every_place_and_differ_between_images():
    ramp = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5).repeat(400, axis=0)
    corners = T.RandomCrop(3, 0)(ramp, rng())[:, 0, 0, 0]
    assert set(corners.tolist()) == {0, 1, 2, 5, 6, 7, 10, 11, 12}
    shifted = T.RandomShift(1)(ramp, rng())[:, 0, 2, 2]
    assert set(shifted.tolist()) == {6, 7, 8, 11, 12, 13, 16, 17, 18}


def test_cutout_blanks_one_square():
    x = np.full((300, 2, 8, 8), 9, np.uint8)
    y = T.Cutout(4, value=1)(x, rng())
    areas = (y == 1).sum(axis=(2, 3))
    np.testing.assert_array_equal(areas[:, 0], areas[:, 1])
    assert set(areas[:, 0]) <= {i * j for i in (2, 3, 4) for j in (2, 3, 4)} and 16 in areas
    assert ((y == 1) | (y == 9)).all()
    some = (T.Cutout(4, value=1, p=0.5)(x, rng()) == 1).any(axis=(1, 2, 3))
    assert 100 < some.sum() < 200  # 150 +- 5.8 standard deviations


def test_color_jitter_one_at_a_time():
    x = images(n=50, dtype=np.float32) * np.float32(0.5)
    bright = T.ColorJitter(brightness=0.5)(x, rng())
    factors = bright.sum(axis=(1, 2, 3)) / x.sum(axis=(1, 2, 3))
    assert 0.5 <= factors.min() < 0.7 and 1.3 < factors.max() <= 1.5
    np.testing.assert_allclose(bright, x * factors.reshape(-1, 1, 1, 1), atol=1e-6)  # float32 rounding
    grey = np.repeat(x[:, :1], 3, axis=1)
    np.testing.assert_allclose(T.ColorJitter(saturation=1.0)(grey, rng()), grey, atol=1e-6)
    flat = np.full_like(x, 0.25)
    np.testing.assert_allclose(T.ColorJitter(contrast=1.0)(flat, rng()), flat, atol=1e-6)
    one = images(c=1)
    np.testing.assert_array_equal(T.ColorJitter(saturation=1.0)(one, rng()), one)
    for dtype, top in ((np.uint8, 255), (np.float32, 1)):
        strong = T.ColorJitter(1, 1, 1)(images(n=50, dtype=dtype), rng())
        assert strong.min() >= 0 and strong.max() <= top
    np.testing.assert_array_equal(T.ColorJitter()(x, rng()), x)


# Pillow 13 begins with the axis that leaves fewer pixels, earlier ones with the width, as minidl: here that is the same one.
SIZES = [(10, 10), (30, 45), (40, 62), (7, 9), (20, 31), (1, 1)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_matches_pillow(interpolation):
    from PIL import Image

    method = Image.Resampling[interpolation.upper()]
    x = images(n=2, c=1, h=20, w=31)
    x[0, :, ::2] = 0  # stripes, across which a cubic overshoots
    x[0, :, 1::2] = 255
    for size in SIZES:
        ours = T.resize(x, size, interpolation)
        for image, mine in zip(x, ours, strict=True):
            theirs = np.asarray(Image.fromarray(image[0]).resize(size[::-1], method))
            # Pillow rounds to 8 bits between the two directions and keeps its weights in 8-bit fixed point.
            assert np.abs(mine[0].astype(int) - theirs).max() <= 1


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_matches_torch(interpolation):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x = images(dtype=np.float32, h=20, w=31)
    for size in SIZES[:3]:
        theirs = torch.nn.functional.interpolate(torch.tensor(x), size=size, mode=interpolation, antialias=True).numpy()
        ours = T.Resize(size, interpolation)(x, rng())
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32, sums of up to 16 products


def test_resize_by_the_shorter_side():
    assert T.Resize(6)(images(h=9, w=18), rng()).shape[-2:] == (6, 12)
    assert T.Resize(6)(images(h=30, w=10), rng()).shape[-2:] == (18, 6)
    np.testing.assert_array_equal(T.Resize(7)(images(), rng()), images())


def test_ten_crop_is_five_places_and_their_mirrors():
    x = images(h=6, w=8)
    y = T.TenCrop((4, 4))(x, rng())
    for k, (top, left) in enumerate([(0, 0), (0, 4), (2, 0), (2, 4), (1, 2)]):
        np.testing.assert_array_equal(y[:, k], x[:, :, top : top + 4, left : left + 4])
        np.testing.assert_array_equal(y[:, 5 + k], y[:, k, ..., ::-1])
    np.testing.assert_array_equal(y[:, 4], T.CenterCrop(4)(x, rng()))


def test_evaluation_drops_chance_and_keeps_shapes():
    train = T.Compose([T.RandomCrop(5, 2), T.RandomHorizontalFlip(), T.ColorJitter(0.1), T.ToFloat(), T.Cutout(2)])
    assert train.deterministic() == T.Compose([T.CenterCrop(5), T.ToFloat()])
    assert T.RandomCrop().deterministic() is None


def test_channel_statistics_are_those_of_all_pixels():
    x = images(n=50)
    mean, std = channel_statistics(ArrayDataset(x, np.zeros(50, int)), batch_size=7)
    scaled = x / 255.0
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)  # float64
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)
    with pytest.raises(DataError, match="an empty data set has no mean"):
        channel_statistics(ArrayDataset(x[:0], []))


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda: T.from_config({"name": "Rotate"}), "no transform is called 'Rotate'; expected one of CenterCrop, "),
        (
            lambda: T.from_config({"name": "Cutout", "hole": 3}),
            "Cutout has no argument 'hole'; expected size, value, p",
        ),
        (lambda: T.from_config({"name": "CenterCrop"}), "CenterCrop cannot be built"),
        (lambda: T.from_config({"size": 3}), "expected a mapping with a 'name'"),
        (lambda: T.from_config([3]), "expected a mapping"),
        (lambda: T.Normalize((0.5,), (0.0,)), "one positive std per channel"),
        (lambda: T.Normalize((0.5, 0.5), (1.0,)), "one mean and one positive std"),
        (lambda: T.RandomHorizontalFlip(2), "p must lie between 0 and 1, got 2"),
        (lambda: T.RandomCrop(padding=-1), "padding must be an integer of at least 0"),
        (lambda: T.RandomCrop(mode="wrap"), "mode must be one of zero, reflect, got 'wrap'"),
        (lambda: T.CenterCrop(0), "size must be one or two positive integers, got 0"),
        (lambda: T.Resize((3, 4, 5)), "size must be one or two"),
        (lambda: T.Resize(3, "lanczos"), "Resize: interpolation must be one of bilinear, bicubic, got 'lanczos'"),
        (lambda: T.Compose([len]), "expected transforms, got builtin_function_or_method"),
    ],
)
def test_bad_settings(build, reason):
    with pytest.raises(ConfigError, match=reason):
        build()


@pytest.mark.parametrize("config, reason", [
    ({"name": "Normalize", "mean": ["a"], "std": [1]}, "Normalize cannot be built from .*could not convert"),
    ({"name": "Normalize", "mean": [float("nan")], "std": [1]}, "one mean and one positive std"),
    ({"name": "Normalize", "mean": [], "std": []}, "one mean and one positive std"),
    ({"name": "Cutout", "value": "x"}, "Cutout cannot be built"),
    ({"name": "Compose", "transforms": 3}, "Compose needs a list of transforms, got '3'"),
    ({"name": "Compose", "transforms": [3]}, "expected a mapping with a 'name'"),
    ({"name": ["Resize"]}, "expected a mapping with a 'name'"),
    ({"name": "Transform"}, "no transform is called 'Transform'"),
    ({"name": "Resize", "size": 8, "colour": 3}, "Resize has no argument 'colour'"),
    ("Resize", "expected a mapping"),
])  # fmt: skip
def test_hostile_configurations(config, reason):
    """A weight file brings its preprocessing: whatever it says, the answer is a ConfigError."""
    with pytest.raises(ConfigError, match=reason):
        T.from_config(config)


def test_a_configuration_nested_without_end():
    config = {"name": "ToFloat"}
    for _ in range(5000):
        config = {"name": "Compose", "transforms": [config]}
    with pytest.raises(ConfigError, match="nested too deeply"):
        T.from_config(config)


@pytest.mark.parametrize(
    "transform, x, reason",
    [
        (T.ToFloat(), images()[0], r"ToFloat: expected a batch .*got uint8 of shape \(3, 9, 7\)"),
        (T.ToFloat(), images().astype(np.float64), "got float64"),
        (T.CenterCrop(8), images(), r"CenterCrop: a window of \(8, 8\) does not fit images"),
        (T.TenCrop(10), images(), "TenCrop: a window"),
        (T.RandomCrop(30, 2), images(), "RandomCrop: a window"),
        (T.RandomShift(7, "reflect"), images(), "cannot reflect 7 pixels"),
    ],
)
def test_bad_images(transform, x, reason):
    with pytest.raises(DataError, match=reason):
        transform(x, rng())
