"""scikit-learn's digits."""

import sys

import numpy as np
import pytest

from minidl.data import channel_statistics, dataset_info, load
from minidl.errors import ConfigError, DataError


def test_digits():
    pytest.importorskip("sklearn", reason="scikit-learn holds the data")
    train, test = load("digits"), load("digits", split="test")
    info = dataset_info("digits")
    assert (len(train), len(test)) == (info.counts["train"], info.counts["test"])
    assert train.image_shape == info.image_shape == (1, 8, 8)
    assert train.images.dtype == np.uint8 and train.images.max() == 255
    both = np.concatenate([train.images, test.images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original)), "every digit is on exactly one side"
    # Every class has a fifth of its 174 to 183 images held out.
    assert set(np.bincount(test.labels)) <= {35, 36, 37}
    mean, std = channel_statistics(train)
    np.testing.assert_allclose([*mean, *std], [*info.mean, *info.std], atol=5e-5)  # printed to four digits


def test_enlarged_for_lenet():
    pytest.importorskip("sklearn", reason="scikit-learn holds the data")
    small, large = load("digits", split="test"), load("digits", split="test", size=32)
    assert large.image_shape == (1, 32, 32)
    assert not large.images[:, :, :2].any() and not large.images[..., -2:].any(), "a frame of zeros"
    # Enlarging by 3.5 each way keeps the mean brightness of the inside, up to the edges' weights and rounding.
    inner = large.images[:, :, 2:30, 2:30].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(inner, small.images.mean(axis=(1, 2, 3)), atol=8)
    with pytest.raises(ConfigError, match="size must be at least 8"):
        load("digits", size=4)
    with pytest.raises(ConfigError, match="no split"):
        load("digits", split="dev")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn is not installed.*pip install scikit-learn"):
        load("digits")
