"""MNIST and Fashion-MNIST: the IDX format, plain or gzipped.

An IDX file is big-endian: two zero bytes, a type code (8 for uint8), the number of dimensions, the dimensions as
uint32, then the data (LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998; Xiao, Rasul, Vollgraf,
"Fashion-MNIST", 2017).
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from minidl.data.base import Array, ArrayDataset
from minidl.data.checksum import algorithm_of, bytes_checksum
from minidl.data.registry import data_root, dataset_info, how_to_get
from minidl.errors import ConfigError, DataError

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "MNIST", "."),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
}
_PREFIX = {"train": "train", "test": "t10k"}
# Of the unpacked files: they were packed anew more than once, so the .gz files differ and these do not.
CHECKSUMS = {
    ("mnist", "train-images-idx3-ubyte"): "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ("mnist", "train-labels-idx1-ubyte"): "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ("mnist", "t10k-images-idx3-ubyte"): "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ("mnist", "t10k-labels-idx1-ubyte"): "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# The largest original unpacks to 47 MB; a bomb stops here.
_LIMIT = 256 << 20


def read_idx(path: str | os.PathLike[str]) -> Array:
    """The uint8 array of an IDX file, gzipped or not (told by its content, not its name).

    Raises:
        DataError: a file that cannot be read, is truncated or damaged, has bytes to spare, or holds another type.
    """
    return parse_idx(read_unpacked(Path(path)), str(path))


def read_unpacked(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_LIMIT + 1)
            if raw[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
                    raw = packed.read(_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read or unpacked ({error}). Download it again.") from None
    if len(raw) > _LIMIT:
        raise DataError(
            f"{path}: more than {_LIMIT:,} bytes unpacked, five times the original. It is not this data set."
        )
    return raw


def parse_idx(data: bytes, source: str) -> Array:
    """The uint8 array that the bytes of an IDX file describe."""
    if len(data) < 4 or data[:2] != b"\0\0":
        raise DataError(
            f"{source}: starts with {data[:4].hex(' ')}, expected an IDX file's 00 00 08. Download it again."
        )
    code, ndim = data[2], data[3]
    if code != 8 or not 1 <= ndim <= 4:
        raise DataError(
            f"{source}: IDX type {code:#04x} with {ndim} dimensions, expected 0x08 (uint8) with 1 to 4. The file is "
            "damaged or is not an image set."
        )
    start = 4 + 4 * ndim
    if len(data) < start:
        raise DataError(f"{source}: {len(data)} bytes, too short for a header of {start}. The file is truncated.")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{source}: the header promises {' x '.join(map(str, shape))} bytes, {len(data) - start:,} follow. The "
            "file is truncated or damaged; download it again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def load_mnist(
    name: str, root: str | os.PathLike[str] | None = None, split: str = "train", *, verify: bool = True
) -> ArrayDataset:
    """MNIST or Fashion-MNIST as uint8 images (N, 1, 28, 28).

    Args:
        name: ``"mnist"`` or ``"fashion_mnist"``.
        root: the data root, or the folder with the four files; None for the default root.
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000).
        verify: compare with the original checksums where they are known, and demand the original counts.

    Raises:
        DataError: no data, or files that are truncated, damaged or not the originals.
        ConfigError: an unknown split.
    """
    info = dataset_info(name)
    if split not in info.counts:
        raise ConfigError(f"{name}: no split is called {split!r}; expected 'train' or 'test'")
    where = data_root(root)
    folder = find(name, where)
    if folder is None:
        raise DataError(
            f"{name}: no data in {where} (looked in {', '.join(_FOLDERS[name])}). {how_to_get(info, where)}"
        )
    images = _read(name, folder, f"{_PREFIX[split]}-images-idx3-ubyte", verify)
    labels = _read(name, folder, f"{_PREFIX[split]}-labels-idx1-ubyte", verify)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{name}: {folder} has {split} images of shape {images.shape} and labels of shape {labels.shape}; expected "
            "(n, rows, columns) and (n,). The files do not belong together; download them again."
        )
    if verify and images.shape != (info.counts[split], 28, 28):
        raise DataError(
            f"{name}: {folder} has {split} images of shape {images.shape}, expected ({info.counts[split]}, 28, 28). "
            "Download them again, or pass verify=False if that is intended."
        )
    return ArrayDataset(images[:, None], labels, CLASSES[name], f"{name}/{split}")


def find(name: str, root: Path) -> Path | None:
    """The folder under ``root`` that holds the set's files, or at least its training images."""
    folders = [root / folder for folder in _FOLDERS[name]]
    if "fashion" in root.name.lower():
        folders.append(root)
    for folder in folders:
        if idx_path(folder, "train-images-idx3-ubyte") or idx_path(folder, "t10k-images-idx3-ubyte"):
            return folder
    return None


def idx_path(folder: Path, stem: str) -> Path | None:
    """``stem`` with or without .gz, or with the dot that some copies have instead of the last hyphen."""
    for name in (stem, stem + ".gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _read(name: str, folder: Path, stem: str, verify: bool) -> Array:
    path = idx_path(folder, stem)
    if path is None:
        raise DataError(f"{name}: {folder} has no {stem} or {stem}.gz. Download the data set again.")
    data = read_unpacked(path)
    array = parse_idx(data, f"{name}: {path}")
    if verify:
        check = checksum_status(name, path, data)
        if check.startswith("bad"):
            raise DataError(
                f"{name}: {path}: {check[5:]}. The file is damaged or another one; download it again, or pass "
                "verify=False if that is intended."
            )
    return array


def checksum_status(name: str, path: Path, data: bytes | None = None) -> str:
    """``"ok"``, ``"unverified"`` (no checksum of the unpacked file is known) or ``"bad: what is wrong"``."""
    data = read_unpacked(path) if data is None else data
    stem = path.name.removesuffix(".gz").replace(".idx", "-idx")
    found = bytes_checksum(data)
    expected = CHECKSUMS.get((name, stem))
    if expected:
        return "ok" if found == expected else f"bad: unpacked it has checksum {found}, the original's is {expected}"
    if found in CHECKSUMS.values():
        return f"bad: this is a file of MNIST, not of {name}"
    packed = {source.filename: source.checksum for source in dataset_info(name).sources}.get(path.name, "")
    if packed and bytes_checksum(path.read_bytes(), algorithm_of(packed)) == packed:
        return "ok"
    return "unverified"
