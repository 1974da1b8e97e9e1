"""The generated shapes."""

import numpy as np
import pytest

from minidl.data import channel_statistics, dataset_info, load
from minidl.data.distances import SHAPES, polygon
from minidl.data.shapes import SHIFTS
from minidl.errors import ConfigError


@pytest.fixture(scope="module")
def shapes():
    return load("shapes10", split="test")


def test_counts_classes_and_statistics(shapes):
    info = dataset_info("shapes10")
    assert len(shapes) == info.counts["test"] and shapes.image_shape == info.image_shape
    assert shapes.images.dtype == np.uint8
    assert np.bincount(shapes.labels).tolist() == [200] * 10
    assert shapes.class_names == tuple(SHAPES)[:10] and shapes.name == "shapes10/test"
    # Rounded constants, for every seed: 2,000 images' mean colour has a standard error of about 0.006.
    mean, std = channel_statistics(shapes)
    np.testing.assert_allclose(mean, info.mean, atol=0.02)
    np.testing.assert_allclose(std, info.std, atol=0.02)


def test_the_same_images_everywhere(shapes):
    """Sums of pixels per channel, written down once.

    Not a checksum: the sine and square root of another processor may differ in the last bit, which moves a pixel by
    one level here and there.  100 images have 102,400 pixels; 30 levels in all is far less than one image's change.
    """
    sums = shapes.images[:100].astype(np.int64).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(sums, [13104111, 12636110, 13365526], atol=30)
    assert shapes.labels[:10].tolist() == [4, 8, 9, 3, 0, 2, 7, 1, 5, 6]


def test_a_larger_set_begins_with_the_smaller(shapes):
    for size in (1, 7, 25):
        part = load("shapes10", split="test", size=size)
        np.testing.assert_array_equal(part.images, shapes.images[:size])
        np.testing.assert_array_equal(part.labels, shapes.labels[:size])
        np.testing.assert_array_equal(part.boxes, shapes.boxes[:size])


def test_chunks_do_not_show(shapes, monkeypatch):
    monkeypatch.setattr("minidl.data.shapes._CHUNK", 7)
    np.testing.assert_array_equal(load("shapes10", split="test", size=30).images, shapes.images[:30])


def test_splits_and_seeds_differ():
    sets = [
        load("shapes10", split=s, size=50, seed=k).images
        for s, k in (("train", 0), ("test", 0), ("val", 0), ("train", 1))
    ]
    for i, one in enumerate(sets):
        for other in sets[:i]:
            assert not (one == other).all(axis=(1, 2, 3)).any()


def test_boxes_are_tight(shapes):
    """A pencil line lies along the box on all four sides."""
    x1, y1, x2, y2 = shapes.boxes.T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 32).all() and (y2 <= 32).all()
    assert ((x2 - x1) >= 3).all() and ((y2 - y1) >= 3).all()
    sketch = load("shapes10", split="test", size=200, domain_shift="sketch", clutter=0).images.min(axis=1)
    for image, box, label in zip(sketch, shapes.boxes[:200].astype(int), shapes.labels[:200], strict=True):
        if shapes.class_names[label] == "crescent":
            continue  # the line runs on beyond its sharp tips
        ys, xs = np.nonzero(image < 120)
        # The line is dark for 0.75 pixels to each side of the outline, and a corner's reaches 2 beyond a rounded box.
        assert np.abs([xs.min() - box[0], ys.min() - box[1], xs.max() + 1 - box[2], ys.max() + 1 - box[3]]).max() <= 2


@pytest.mark.parametrize("shift", SHIFTS)
def test_domain_shift_keeps_the_scene(shapes, shift):
    shifted = load("shapes10", split="test", size=60, domain_shift=shift)
    np.testing.assert_array_equal(shifted.labels, shapes.labels[:60])
    np.testing.assert_array_equal(shifted.boxes, shapes.boxes[:60])
    assert shifted.name == f"shapes10+{shift}/test"
    change = np.abs(shifted.images.astype(int) - shapes.images[:60]).mean(axis=(1, 2, 3))
    assert (change > 1).all()


def test_no_pixel_tells_the_class(shapes):
    """The mean image of every class is grey: nothing for a linear classifier to hold on to."""
    for label in range(10):
        mean = shapes.images[shapes.labels == label].mean(axis=0) / 255
        # 200 images with a standard deviation of 0.29: four standard errors of a pixel are 0.08, and the worst of 3,072
        # pixels lies near them.
        assert np.abs(mean - 0.5).max() < 0.12
    assert shapes.images.std(axis=(1, 2, 3)).min() > 5, "every image shows something"


def test_a_linear_classifier_stays_far_behind():
    """Ridge regression on the images at half size: chance is 0.1; a small convolutional net passes 0.95."""
    train, test = load("shapes10", size=4000), load("shapes10", split="test", size=1000)

    def features(dataset):
        halved = dataset.images.reshape(-1, 3, 16, 2, 16, 2).mean(axis=(3, 5)) / 128 - 1
        return np.concatenate([halved.reshape(len(dataset), -1), np.ones((len(dataset), 1))], axis=1)

    x, y = features(train), np.eye(10)[train.labels]
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y)
    assert ((features(test) @ weights).argmax(axis=1) == test.labels).mean() < 0.2


def test_shapes20_adds_ten():
    more = load("shapes20", size=40)
    assert more.class_names == tuple(SHAPES) and np.bincount(more.labels).tolist() == [2] * 20


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_fit_the_unit_circle_and_are_distances(name):
    at = np.linspace(-1.5, 1.5, 301, dtype=np.float32)
    x, y = np.meshgrid(at, at)
    distance = SHAPES[name](x, y)
    assert distance.dtype == np.float32
    inside = distance < 0
    assert 0.05 < inside.mean() * 9 / np.pi < 1, "a sensible part of the unit circle"
    assert np.hypot(x, y)[inside].max() <= 1.0
    # No distance changes faster than the point moves; the ellipse is a first-order estimate, good near its outline.
    slope = np.hypot(*np.gradient(distance, 0.01))[np.abs(distance) < 0.1]
    assert slope.max() < (1.3 if name == "ellipse" else 1.05)


def test_polygon_is_exact():
    square = polygon([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    x = np.array([0, 0.5, 1, 1, -0.25], np.float32)
    y = np.array([0, 0, 0, 1, 0.4], np.float32)
    np.testing.assert_allclose(square(x, y), [-0.5, 0, 0.5, 0.5**0.5, -0.1], atol=1e-6)  # float32 rounding


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"size": 0}, "size >= 1"),
        ({"seed": -1}, "0 <= seed"),
        ({"clutter": 5}, "clutter from 0 to 4"),
        ({"split": "dev"}, "no split is called 'dev'"),
        ({"domain_shift": "cubism"}, "no domain shift is called 'cubism'; expected one of invert, night"),
        ({"colour": 1}, "no option is called 'colour'; expected size, seed, domain_shift, clutter"),
    ],
)
def test_bad_options(options, reason):
    with pytest.raises(ConfigError, match=reason):
        load("shapes10", **options)
