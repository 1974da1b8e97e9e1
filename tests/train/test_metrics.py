import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.errors import ConfigError, ShapeError
from minidl.train.metrics import Accuracy, Average, ConfusionMatrix, ranks


def test_average_weighs_batches_by_their_size():
    average = Average()
    assert math.isnan(average.value)
    average.update(1.0, 3)
    average.update(5.0, 1)
    assert average.value == 2.0
    again = Average()
    again.load_state_dict(average.state_dict())
    assert (again.total, again.count) == (average.total, average.count)


@given(st.integers(1, 6), st.integers(0, 8), st.integers(1, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_top_k_against_sorting_by_hand(classes, n, k, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (n, classes)).astype("float32")  # few values: many ties
    labels = rng.integers(0, classes, n)
    accuracy = Accuracy(k)
    accuracy.update_scores(scores, labels)
    by_hand = sum(
        label in sorted(range(classes), key=lambda c: (-row[c], c))[:k]
        for row, label in zip(scores, labels, strict=True)
    )
    assert (accuracy.total, accuracy.count) == (by_hand, n)


def test_top_1_agrees_with_argmax_on_ties():
    scores = np.array([[1, 1, 1], [0, 2, 2], [3, 3, 1]], "float32")
    assert (ranks(scores, scores.argmax(axis=1)) == 0).all()
    flat = Accuracy(2)
    flat.update_scores(np.zeros((4, 4)), np.arange(4))
    assert flat.value == 0.5  # a net that says the same for every class is right only by its place


def test_nan_scores_are_wrong_at_any_k():
    scores = np.array([[np.nan, 1.0], [0.0, np.nan], [np.inf, 0.0]])
    for k in (1, 2, 5):
        accuracy = Accuracy(k)
        accuracy.update_scores(scores, np.array([0, 0, 0]))
        assert accuracy.total == 1


def test_bad_input():
    with pytest.raises(ConfigError, match="k must be at least 1"):
        Accuracy(0)
    with pytest.raises(ShapeError, match=r"got \(2, 3\) and \(3,\)"):
        ranks(np.zeros((2, 3)), np.zeros(3, int))
    for label in (-1, 3):
        with pytest.raises(ShapeError, match=f"label {label} is out of range for 3 classes"):
            ranks(np.zeros((2, 3)), np.array([0, label]))


def test_confusion_matrix():
    confusion = ConfusionMatrix(3)
    confusion.update([0, 1, 1, 0], [0, 1, 0, 0])
    assert confusion.counts == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    per_class = confusion.per_class()
    assert per_class[:2] == [2 / 3, 1.0] and math.isnan(per_class[2])
    assert confusion.most_confused() == [(0, 1, 1)]
