"""Views of a picture, and the mean over them."""

import numpy as np
import pytest

import minidl
from minidl.errors import ConfigError
from minidl.train.ensemble import log_probabilities
from minidl.train.evaluate import evaluate
from minidl.train.views import KINDS, Views
from tests.train.test_ensemble import close, net, pictures, probabilities


def floats(**options):
    return pictures(**options).astype("float32") / 255


@pytest.mark.parametrize("pixels", [None, 1, 2, 3])
def test_shift_moves_along_the_diagonal_with_a_mirrored_border(pixels):
    images, p = floats(h=6, w=7), pixels or 1
    views = Views("shift", pixels).cut(images, (6, 7))
    assert views.shape == (4, 6, 3, 6, 7)
    wide = np.pad(images, [(0, 0), (0, 0), (p, p), (p, p)], mode="reflect")
    np.testing.assert_array_equal(views[:, 0], images)
    np.testing.assert_array_equal(views[:, 1], wide[..., :6, :7])
    np.testing.assert_array_equal(views[:, 2], wide[..., 2 * p :, 2 * p :])
    np.testing.assert_array_equal(views[:, 1, :, p:, p:], images[..., :-p, :-p])
    np.testing.assert_array_equal(views[:, 3:], views[:, :3, :, :, ::-1])


def test_raw_pictures_keep_their_dtype():
    for kind in KINDS:
        views = Views.parse(kind).cut(pictures(h=16, w=16), (16, 16))
        assert views.dtype == np.uint8 and views.shape == (4, KINDS[kind], 3, 16, 16)


def test_the_margin_of_ten_crop():
    images = pictures(h=16, w=16)
    views = Views("ten-crop", 3).cut(images, (16, 16))
    np.testing.assert_array_equal(views[:, 4], images)
    assert not views[:, 0, :, :3].any() and not views[:, 0, :, :, :3].any()
    np.testing.assert_array_equal(views[:, 0, :, 3:, 3:], images[..., :-3, :-3])


def test_views_count_as_much_as_they_weigh():
    model, images = net(), floats(h=16, w=16)
    kind = Views("shift")
    assert sum(kind.weights) == 1 and len(kind.weights) == kind.count
    viewed = kind.cut(images, (16, 16))
    answer = log_probabilities(model, minidl.from_numpy(viewed), kind.weights).exp().numpy()
    each = [probabilities(model, np.ascontiguousarray(viewed[:, k])) for k in range(6)]
    close(answer, (0.5 * each[0] + 0.25 * each[1] + 0.25 * each[2] + 0.5 * each[3] + 0.25 * each[4] + 0.25 * each[5]) / 2)


def test_a_test_takes_views():
    model, images = net(), floats(n=12, h=16, w=16)
    labels = np.arange(12) % 10
    kind = Views("shift", 2)
    viewed = kind.cut(images, (16, 16))
    found = evaluate(model, [(viewed[:7], labels[:7]), (viewed[7:], labels[7:])], num_classes=10, views=kind)
    answer = sum(w * probabilities(model, np.ascontiguousarray(viewed[:, k])) for k, w in enumerate(kind.weights))
    assert found.top1 == (answer.argmax(1) == labels).mean() and found.images == 12
    assert found.loss == pytest.approx(-np.log(answer[np.arange(12), labels]).mean(), rel=1e-4)  # float32


@pytest.mark.parametrize("text, kind", [
    ("none", Views()), (1, Views()), ("2", Views("flip")), (10, Views("ten-crop")), ("shift:2", Views("shift", 2)),
    ("ten-crop:4", Views("ten-crop", 4)), (Views("flip"), Views("flip")),
])  # fmt: skip
def test_names_and_numbers(text, kind):
    assert Views.parse(text) == kind and Views.parse(str(kind)) == kind


@pytest.mark.parametrize("text", ["", "3", "flip:2", "shift:", "shift:0", "shift:-1", "shift:x", "crop", "none:1"])
def test_what_is_none_of_them(text):
    with pytest.raises(ConfigError, match=f"expected 1, 2 .* got '{text}'"):
        Views.parse(text)


def test_a_shift_of_the_whole_picture():
    with pytest.raises(ConfigError, match="shift:16 needs images of more than 16 pixels, got 16x16"):
        Views("shift", 16).cut(floats(h=16, w=16), (16, 16))
