"""Data sets, transforms and the loader: NumPy arrays in, NumPy arrays out.

>>> train = load("shapes10", split="train", size=20)
>>> images, labels = next(iter(DataLoader(train, batch_size=8, shuffle=True)))
>>> images.shape, images.dtype.name, labels.dtype.name
((8, 3, 32, 32), 'float32', 'int64')
"""

from __future__ import annotations

import os
from typing import Any

from minidl.data import transforms
from minidl.data.base import ArrayDataset, Dataset, Subset, train_val_split
from minidl.data.loader import DataLoader
from minidl.data.registry import DATASETS, DatasetInfo, data_root, dataset_info
from minidl.data.status import DatasetStatus, available
from minidl.data.transforms import channel_statistics
from minidl.errors import ConfigError

__all__ = [
    "DATASETS",
    "ArrayDataset",
    "DataLoader",
    "Dataset",
    "DatasetInfo",
    "DatasetStatus",
    "Subset",
    "available",
    "channel_statistics",
    "data_root",
    "dataset_info",
    "load",
    "train_val_split",
    "transforms",
]


def load(name: str, root: str | os.PathLike[str] | None = None, split: str = "train", **options: Any) -> Dataset:
    """A data set by name.

    Args:
        name: cifar10, cifar100, mnist, fashion_mnist, digits, shapes10, shapes20, or ``folder:PATH``.
        root: where the files are; None for MINIDL_DATA, else ``~/.cache/minidl/data``.
        split: ``"train"`` or ``"test"``.
        options: what the set's own loader takes: ``verify`` (CIFAR, MNIST), ``coarse`` (CIFAR-100), ``size`` and
            ``seed`` (digits, shapes, folders), ``domain_shift`` (shapes), ``skip_unreadable`` (folders), ...

    Raises:
        DataError: the data are missing or damaged; the message says how to get them.
        ConfigError: an unknown name, split or option.
    """
    if name.startswith("folder:"):
        from minidl.data.folder import ImageFolder, load_folder

        _check_options("folder", ImageFolder.__init__, options)
        path = name.removeprefix("folder:")
        if not path:
            raise ConfigError("folder: which one? expected folder:PATH (folder:. is the current one)")
        return load_folder(path, split, **options)
    info = dataset_info(name)
    if info.kind == "cifar":
        from minidl.data.cifar import load_cifar

        _check_options(info.name, load_cifar, options)
        return load_cifar(info.name, root, split, **options)
    if info.kind == "idx":
        from minidl.data.mnist import load_mnist

        _check_options(info.name, load_mnist, options)
        return load_mnist(info.name, root, split, **options)
    if info.kind == "sklearn":
        from minidl.data.digits import load_digits

        _check_options(info.name, load_digits, options)
        return load_digits(split, **options)
    from minidl.data.shapes import load_shapes

    _check_options(info.name, load_shapes, options)
    return load_shapes(info.name, split, **options)


def _check_options(name: str, function: Any, options: dict[str, Any]) -> None:
    known = list(function.__kwdefaults__ or {})
    for option in options:
        if option not in known:
            raise ConfigError(f"{name}: no option is called {option!r}; expected {', '.join(known)}")
