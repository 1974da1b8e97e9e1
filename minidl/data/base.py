"""What a data set is: a length, class names, labels, and batches of images by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.errors import ConfigError, DataError

Array = np.ndarray[Any, Any]


class Dataset:
    """Base of every data set.

    A subclass sets ``name`` (str), ``class_names`` (tuple of str) and ``labels`` (int64, shape (N,)), and implements
    :meth:`batch`.  Detection sets also carry ``boxes`` (float32, (N, 4): x1, y1, x2, y2 in pixels, right and lower
    edges exclusive); elsewhere it is None.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Array
    boxes: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many classes there are, whether or not each has an image."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image, before any transform."""
        c, h, w = self.batch([0])[0].shape[1:]
        return c, h, w

    def batch(self, indices: Sequence[int] | Array) -> tuple[Array, Array]:
        """The images (n, C, H, W), uint8 or float32, and labels (n,), int64, at ``indices``."""
        raise NotImplementedError(f"{type(self).__name__} must implement batch(indices)")

    def __getitem__(self, index: int) -> tuple[Array, int]:
        index = self._checked([index])[0]
        images, labels = self.batch([int(index)])
        return images[0], int(labels[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self):,} images, {self.num_classes} classes)"

    def _checked(self, indices: Sequence[int] | Array) -> Array:
        """``indices`` as an int64 array in [0, N); negative ones count from the end, as in a list."""
        array = np.asarray(indices)
        if array.size == 0:
            return np.zeros(0, np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(
                f"{self.name}: batch() takes a 1-d list of integers, got {array.dtype} of shape {array.shape}"
            )
        array = array.astype(np.int64)
        array = np.where(array < 0, array + len(self), array)
        bad = (array < 0) | (array >= len(self))
        if bad.any():
            # An IndexError, so that the old iteration protocol (``for image, label in dataset``) ends where it should.
            found = int(np.asarray(indices)[bad][0])
            raise IndexError(f"{self.name}: index {found} is out of range for {len(self):,} images")
        return array


class ArrayDataset(Dataset):
    """Images held in one array.

    Args:
        images: (N, C, H, W), uint8 or float32.
        labels: (N,) integers in [0, len(class_names)).
        class_names: the name of each class.
        name: what errors and records call this set.
        boxes: optional (N, 4) object boxes.

    Raises:
        DataError: shapes, dtypes or labels that do not fit.
    """

    def __init__(
        self,
        images: Array,
        labels: Array | Sequence[int],
        class_names: Sequence[str] | None = None,
        name: str = "array",
        boxes: Array | None = None,
    ) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 4:
            raise DataError(f"{name}: images must be (N, C, H, W), got shape {images.shape}")
        if images.dtype not in (np.uint8, np.float32):
            raise DataError(f"{name}: images must be uint8 or float32, got {images.dtype}; convert them with .astype")
        if images.dtype == np.float32 and not np.isfinite(images).all():
            bad = int(np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))[0])
            raise DataError(f"{name}: image {bad} holds a NaN or an infinity; repair or remove it")
        if labels.shape != (len(images),) or (labels.size and labels.dtype.kind not in "iu"):
            raise DataError(
                f"{name}: labels must be {len(images)} integers, one per image, got {labels.dtype} of shape "
                f"{labels.shape}"
            )
        if class_names is None:
            class_names = [str(k) for k in range(int(labels.max(initial=-1)) + 1)]
        if boxes is not None and boxes.shape != (len(images), 4):
            raise DataError(f"{name}: boxes must be ({len(images)}, 4), got shape {boxes.shape}")
        self.name = name
        self.images = images
        self.labels = labels.astype(np.int64)
        self.class_names = tuple(class_names)
        self.boxes = boxes
        check_labels(self)

    def batch(self, indices: Sequence[int] | Array) -> tuple[Array, Array]:
        index = self._checked(indices)
        return self.images[index], self.labels[index]


class Subset(Dataset):
    """The images of ``dataset`` at ``indices``, in that order; nothing is copied."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | Array, name: str | None = None) -> None:
        self.dataset = dataset
        self.indices = dataset._checked(indices)
        self.name = name or dataset.name
        self.class_names = dataset.class_names
        self.labels = dataset.labels[self.indices]
        self.boxes = None if dataset.boxes is None else dataset.boxes[self.indices]

    def batch(self, indices: Sequence[int] | Array) -> tuple[Array, Array]:
        return self.dataset.batch(self.indices[self._checked(indices)])


def check_labels(dataset: Dataset) -> None:
    """Raise a DataError that names the first label outside [0, number of classes)."""
    labels = dataset.labels
    bad = np.flatnonzero((labels < 0) | (labels >= len(dataset.class_names)))
    if len(bad):
        raise DataError(
            f"{dataset.name}: label {int(labels[bad[0]])} of image {int(bad[0])} is out of range: expected 0 to "
            f"{len(dataset.class_names) - 1} for {len(dataset.class_names)} classes ({len(bad):,} such labels). "
            "Check the label file, or pass the full list of class_names."
        )


def random_order(n: int, *key: int) -> Array:
    """A permutation of range(n), int64, that depends on the integers of ``key`` (at most two) and nothing else.

    It sorts raw Philox bits, whose stream NumPy keeps for ever (its ``permutation`` may change between versions).
    """
    if min(key) < 0 or max(key) >= 2**64:
        raise ConfigError(f"data: a seed must be at least 0 and below 2**64, got {key[0]}")
    bits = np.random.Philox(key=np.array([*key, *[0] * (2 - len(key))], np.uint64)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def stratified_split(labels: Array, fraction: float, seed: int = 0) -> tuple[Array, Array]:
    """Indices of two parts, the second with about ``fraction`` of every class; both in increasing order.

    A class of two or more images always has at least one on each side.
    """
    if not 0 < fraction < 1:
        raise DataError(f"split: the held-out fraction must lie between 0 and 1, got {fraction}")
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * fraction)
        if len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held[members[random_order(len(members), seed, int(label))[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def train_val_split(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[Subset, Subset]:
    """Split ``dataset`` into (train, validation), the latter with ``fraction`` of every class."""
    train, val = stratified_split(dataset.labels, fraction, seed)
    return Subset(dataset, train, f"{dataset.name}/train"), Subset(dataset, val, f"{dataset.name}/val")
