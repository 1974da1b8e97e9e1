"""scikit-learn's 8x8 digits: a real data set that needs no download (Alpaydin & Kaynak, UCI repository, 1998)."""

from __future__ import annotations

import numpy as np

from minidl.data.base import ArrayDataset, stratified_split
from minidl.errors import ConfigError, DataError


def load_digits(split: str = "train", *, size: int = 8, seed: int = 0) -> ArrayDataset:
    """The 1,797 digits as uint8 images (N, 1, size, size), split 80 : 20 with the same share of every class.

    Args:
        split: ``"train"`` (1,438 images) or ``"test"`` (359).
        size: 8 as they are; a larger one enlarges them (bilinear) to 7/8 of it and pads with zeros, so that 32 gives
            LeNet-5 its 28-pixel digits in a 32-pixel frame.
        seed: of the split.

    Raises:
        DataError: scikit-learn is not installed.
        ConfigError: an unknown split or a size below 8.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"digits: no split is called {split!r}; expected 'train' or 'test'")
    if size < 8:
        raise ConfigError(f"digits: size must be at least 8, the images' own, got {size}")
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ImportError:
        raise DataError(
            "digits: scikit-learn is not installed; it holds this data set. Install it with `pip install "
            "scikit-learn`, or use shapes10, which needs nothing."
        ) from None
    pixels, labels = sklearn_digits(return_X_y=True)
    # The pixels count dots in 4x4 blocks: 0 to 16.
    images = np.rint(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    train, test = stratified_split(labels, 0.2, seed)
    index = train if split == "train" else test
    images = images[index]
    if size > 8:
        from minidl.data.transforms import resize

        inner = size * 7 // 8
        before = (size - inner) // 2
        pad = (before, size - inner - before)
        images = np.pad(resize(images, (inner, inner)), ((0, 0), (0, 0), pad, pad))
    return ArrayDataset(images, labels[index].astype(np.int64), tuple("0123456789"), f"digits/{split}")
