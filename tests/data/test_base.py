"""The data set protocol, subsets and splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.data import ArrayDataset, Dataset, Subset, data_root, dataset_info, load, train_val_split
from minidl.data.base import random_order, stratified_split
from minidl.errors import ConfigError, DataError


def small(n=20, classes=4):
    images = np.arange(n * 12, dtype=np.uint8).reshape(n, 3, 2, 2)
    return ArrayDataset(images, np.arange(n) % classes, [f"c{k}" for k in range(classes)], "small")


def test_protocol():
    dataset = small()
    images, labels = dataset.batch([3, -1, 3])
    np.testing.assert_array_equal(images, dataset.images[[3, 19, 3]])
    np.testing.assert_array_equal(labels, [3, 3, 3])
    assert labels.dtype == np.int64
    image, label = dataset[5]
    assert image.shape == (3, 2, 2) and label == 1 and type(label) is int
    assert (len(dataset), dataset.num_classes, dataset.image_shape) == (20, 4, (3, 2, 2))
    assert repr(dataset) == "ArrayDataset('small', 20 images, 4 classes)"
    assert len(list(dataset)) == 20, "iteration ends by itself"
    assert dataset.batch([])[0].shape == (0, 3, 2, 2)


@pytest.mark.parametrize("index", [20, -21])
def test_index_out_of_range(index):
    with pytest.raises(IndexError, match=f"small: index {index} is out of range for 20 images"):
        small().batch([0, index])
    with pytest.raises(DataError, match="1-d list of integers, got float64"):
        small().batch([0.5])


@pytest.mark.parametrize(
    "images, labels, options, reason",
    [
        (np.zeros((2, 3, 4), np.uint8), [0, 0], {}, r"images must be \(N, C, H, W\), got shape \(2, 3, 4\)"),
        (np.zeros((2, 1, 4, 4)), [0, 0], {}, "must be uint8 or float32, got float64"),
        (np.full((2, 1, 4, 4), np.nan, np.float32), [0, 0], {}, "array: image 0 holds a NaN or an infinity"),
        (np.zeros((2, 1, 4, 4), np.uint8), [0], {}, "labels must be 2 integers"),
        (np.zeros((2, 1, 4, 4), np.uint8), [0.0, 1.0], {}, "labels must be 2 integers, one per image, got float64"),
        (
            np.zeros((2, 1, 4, 4), np.uint8),
            [0, 3],
            {"class_names": "abc"},
            "label 3 of image 1 is out of range: expected 0 to 2",
        ),
        (np.zeros((2, 1, 4, 4), np.uint8), [-1, 0], {"class_names": "abc"}, "label -1 of image 0 is out of range"),
        (np.zeros((2, 1, 4, 4), np.uint8), [0, 1], {"boxes": np.zeros((1, 4))}, r"boxes must be \(2, 4\)"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, options, reason):
    with pytest.raises(DataError, match=reason):
        ArrayDataset(images, labels, **options)


def test_an_empty_data_set_is_allowed_until_it_is_loaded():
    empty = ArrayDataset(np.zeros((0, 3, 8, 8), np.uint8), [], ["a"])
    assert len(empty) == 0 and empty.labels.dtype == np.int64


def test_subset_keeps_boxes_and_nests():
    boxes = np.arange(80, dtype=np.float32).reshape(20, 4)
    whole = ArrayDataset(np.zeros((20, 1, 2, 2), np.uint8), np.arange(20) % 4, boxes=boxes)
    inner = Subset(Subset(whole, [2, 4, 6, 8]), [1, -1])
    np.testing.assert_array_equal(inner.boxes, boxes[[4, 8]])
    np.testing.assert_array_equal(inner.batch([0, 1])[1], inner.labels)
    np.testing.assert_array_equal(inner.labels, [0, 0])


def test_the_base_class_says_what_to_implement():
    with pytest.raises(NotImplementedError, match="Dataset must implement batch"):
        Dataset().batch([0])


@given(st.integers(2, 60), st.integers(1, 5), st.floats(0.05, 0.95), st.integers(0, 2**40))
def test_split_is_a_partition_with_every_class_on_both_sides(n, classes, fraction, seed):
    labels = np.arange(n) % classes
    first, second = stratified_split(labels, fraction, seed)
    assert sorted([*first, *second]) == list(range(n))
    for label in range(min(classes, n)):
        count = int((labels == label).sum())
        held = int((labels[second] == label).sum())
        if count > 1:
            assert 1 <= held < count and abs(held - count * fraction) <= 1
    again = stratified_split(labels, fraction, seed)
    np.testing.assert_array_equal(second, again[1])


def test_train_val_split():
    train, val = train_val_split(small(), 0.2, seed=1)
    assert (len(train), len(val)) == (16, 4) and set(val.labels) == {0, 1, 2, 3}
    assert train.name == "small/train" and val.name == "small/val"
    others = [tuple(train_val_split(small(), 0.2, seed=s)[1].indices) for s in range(5)]
    assert len(set(others)) > 1, "the seed changes the split"
    with pytest.raises(DataError, match="fraction must lie between 0 and 1, got 1"):
        train_val_split(small(), 1)


def test_the_order_of_a_seed_is_the_same_for_ever():
    """Written down once: a NumPy that shuffles otherwise must not change a run's order."""
    assert random_order(8, 3, 5).tolist() == [0, 6, 2, 1, 3, 4, 7, 5]
    with pytest.raises(ConfigError, match="a seed must be at least 0 and below"):
        random_order(8, -1)


def test_names(tmp_path, monkeypatch):
    assert dataset_info("CIFAR-10").name == "cifar10" and dataset_info("Fashion-MNIST").name == "fashion_mnist"
    with pytest.raises(ConfigError, match="no data set is called 'cifar11'; expected one of cifar10, .*folder:PATH"):
        load("cifar11")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert data_root() == tmp_path and data_root("/x").as_posix() == "/x"
    monkeypatch.delenv("MINIDL_DATA")
    assert data_root().parts[-3:] == (".cache", "minidl", "data")
