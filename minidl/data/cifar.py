"""CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

Both releases are read, from a folder or straight from the original archive: ``python`` (pickles; see ``pickles.py`` for
why they cannot run code) and ``binary`` (records of one or two label bytes and 3,072 bytes of pixels, plane by plane).
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from minidl.data import pickles
from minidl.data.base import Array, ArrayDataset
from minidl.data.checksum import algorithm_of, bytes_checksum, file_checksum
from minidl.data.registry import DATASETS, data_root, dataset_info, how_to_get
from minidl.errors import ConfigError, DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
# The original archives unpack to 186 MB; a bomb stops here.
_ARCHIVE_LIMIT = 512 << 20


class Release:
    """One of the four releases: the names of its folder, archive and files, and the files' checksums."""

    def __init__(self, folder: str, archive: str, train: list[str], test: list[str], meta: dict[str, str]) -> None:
        self.folder, self.archive = folder, archive
        self.files = {"train": train, "test": test}
        self.meta = meta  # "fine"/"coarse" -> the file of names; empty for CIFAR-10
        self.all_files = [*train, *test, *dict.fromkeys(meta.values())]
        self.binary = archive.endswith("-binary.tar.gz")


RELEASES = {
    "cifar10": (
        Release(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            [f"data_batch_{k}" for k in range(1, 6)],
            ["test_batch"],
            {},
        ),
        Release(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            [f"data_batch_{k}.bin" for k in range(1, 6)],
            ["test_batch.bin"],
            {},
        ),
    ),
    "cifar100": (
        Release(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            ["train"],
            ["test"],
            {"fine": "meta", "coarse": "meta"},
        ),
        Release(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            ["train.bin"],
            ["test.bin"],
            {"fine": "fine_label_names.txt", "coarse": "coarse_label_names.txt"},
        ),
    ),
}

# (folder, file) -> checksum of the original; a test compares them with the files where those are there.
CHECKSUMS = {
    ("cifar-10-batches-py", "data_batch_1"): "sha256:54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    ("cifar-10-batches-py", "data_batch_2"): "sha256:766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    ("cifar-10-batches-py", "data_batch_3"): "sha256:0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    ("cifar-10-batches-py", "data_batch_4"): "sha256:3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    ("cifar-10-batches-py", "data_batch_5"): "sha256:d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    ("cifar-10-batches-py", "test_batch"): "sha256:f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    ("cifar-100-python", "train"): "md5:16019d7e3df5f24257cddd939b257f8d",
    ("cifar-100-python", "test"): "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    ("cifar-100-python", "meta"): "md5:7973b15100ade9c7d40fb424638fde48",
}
# Of the binary releases no other is published.  Those of the python releases go with their addresses.
ARCHIVE_CHECKSUMS = {
    **{source.filename: source.checksum for name in RELEASES for source in DATASETS[name].sources},
    "cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8",
}


def load_cifar(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    coarse: bool = False,
    verify: bool = True,
) -> ArrayDataset:
    """CIFAR-10 or CIFAR-100 as uint8 images (N, 3, 32, 32).

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        root: the data root, the release's folder, or its .tar.gz; None for the default root.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        coarse: CIFAR-100's 20 superclasses instead of its 100 classes.
        verify: compare with the original files' checksums, and demand the original counts.

    Raises:
        DataError: no data, or files that are truncated, damaged, hostile or not the originals.
        ConfigError: an unknown split, or ``coarse`` for CIFAR-10.
    """
    info = dataset_info(name)
    if split not in info.counts:
        raise ConfigError(f"{name}: no split is called {split!r}; expected 'train' or 'test'")
    if coarse and name != "cifar100":
        raise ConfigError("cifar10 has no coarse labels; coarse=True is for cifar100")
    where = data_root(root)
    release, location = find(name, where) or (None, None)
    if release is None or location is None:
        looked = ", ".join(f"{r.folder}/ or {r.archive}" for r in RELEASES[name])
        raise DataError(f"{name}: no data in {where} (looked for {looked}). {how_to_get(info, where)}")

    if verify and release.binary and location.is_file():
        problems = [result for result in check(name, release, location).values() if result != "ok"]
        if problems:
            raise DataError(f"{name}: {problems[0]}. Download it again, or pass verify=False if that is intended.")
    level = "coarse" if coarse else "fine"
    names = [*release.files[split], *([release.meta[level]] if release.meta else [])]
    contents = _read_folder(location, names) if location.is_dir() else _read_archive(location, names)
    images, labels = [], []
    for file in release.files[split]:
        source = f"{name}: {location / file}"

        def parse(data: bytes, source: str = source) -> tuple[Array, Array]:
            return (_parse_binary if release.binary else _parse_python)(data, source, name, level)

        part = _checked(contents.pop(file), release, file, source, parse, verify)
        images.append(part[0])
        labels.append(part[1])
    class_names = CLASSES
    if release.meta:
        file = release.meta[level]
        source = f"{name}: {location / file}"
        count = 20 if coarse else info.num_classes
        class_names = _checked(
            contents[file],
            release,
            file,
            source,
            lambda data: _parse_names(data, source, release, level, count),
            verify,
        )
    total = sum(map(len, labels))
    if verify and total != info.counts[split]:
        raise DataError(
            f"{name}: {location} has {total:,} {split} images, expected {info.counts[split]:,}. The files are not the "
            "original ones; download them again, or pass verify=False if that is intended."
        )
    pixels = np.concatenate(images) if len(images) > 1 else images[0]
    return ArrayDataset(pixels, np.concatenate(labels), class_names, f"{name}/{split}")


def find(name: str, root: Path) -> tuple[Release, Path] | None:
    """The release under ``root`` (or that ``root`` itself is) and its folder or archive; None if there is none."""
    releases = RELEASES[name]
    for release in releases:
        for folder in (root / release.folder, root):
            # "train" and "test" are such common names that a folder with them must also hold the list of classes.
            if all((folder / file).is_file() for file in release.all_files):
                return release, folder
    for release in releases:
        if (root / release.archive).is_file():
            return release, root / release.archive
    if root.is_file():
        return next(((r, root) for r in releases if r.archive == root.name), None) or _release_of_archive(name, root)
    for release in releases:
        for folder in (root / release.folder, root):
            if folder.is_dir() and folder.name == release.folder:
                return release, folder  # incomplete: the reader says which file is missing
    return None


def check(name: str, release: Release, location: Path) -> dict[str, str]:
    """The checksums of a folder or archive: file name -> "ok", "unverified" (none is known) or what is wrong.

    An archive of the python release that was packed anew is judged by the files in it.
    """
    names = release.all_files
    known = {file: CHECKSUMS[release.folder, file] for file in names if (release.folder, file) in CHECKSUMS}
    if location.is_file():
        expected = ARCHIVE_CHECKSUMS[release.archive]
        found = file_checksum(location, algorithm_of(expected))
        if found == expected:
            return {location.name: "ok"}
        if not known:
            return {location.name: f"{location}: checksum {found}, the original's is {expected}"}
        contents = _read_archive(location, list(known))
        sums = {file: bytes_checksum(contents[file], algorithm_of(known[file])) for file in known}
    else:
        there = [file for file in known if (location / file).is_file()]
        sums = {file: file_checksum(location / file, algorithm_of(known[file])) for file in there}
    results = {}
    for file in names:
        if location.is_dir() and not (location / file).is_file():
            results[file] = f"{location / file}: missing"
        elif file not in known:
            results[file] = "unverified"
        elif sums[file] != known[file]:
            results[file] = f"{location / file}: checksum {sums[file]}, the original's is {known[file]}"
        else:
            results[file] = "ok"
    return results


def _release_of_archive(name: str, path: Path) -> tuple[Release, Path] | None:
    """Which release an archive with another name holds, by its member names."""
    try:
        members = _archive_names(path)
    except DataError:
        return None
    for release in RELEASES[name]:
        if release.files["train"][0] in members and release.files["test"][0] in members:
            return release, path
    return None


def _read_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    contents = {}
    for name in names:
        path = folder / name
        try:
            if path.stat().st_size > _ARCHIVE_LIMIT:
                raise DataError(f"{path}: {path.stat().st_size:,} bytes, more than any file of this data set has")
            contents[name] = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror or error}); expected the files {', '.join(names)} in this "
                "folder. Download the data set again."
            ) from None
    return contents


class _Bounded:
    """A stream that raises once more than ``limit`` bytes were read from it."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int) -> bytes:
        data: bytes = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise DataError("unpacks to more than 512 MiB, nearly three times the original")
        return data


def _walk_archive(path: Path, visit: Callable[[tarfile.TarFile, tarfile.TarInfo], bool]) -> None:
    """Call ``visit`` with each plain file of a .tar.gz until it returns False.  Nothing is written to disk."""
    try:
        with gzip.open(path) as stream, _open_tar(_Bounded(stream, _ARCHIVE_LIMIT)) as archive:
            for member in archive:
                if member.isreg() and not visit(archive, member):
                    return
    except DataError as error:
        raise DataError(f"{path}: {error}. It is damaged or hostile; download it again.") from None
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, UnicodeError, OverflowError) as error:
        raise DataError(
            f"{path}: not a complete .tar.gz ({type(error).__name__}: {error}); {_size(path)} found. The download was "
            "cut off or damaged; download it again."
        ) from None


def _open_tar(stream: Any) -> tarfile.TarFile:
    """A tar read from front to back, never sought."""
    return tarfile.open(fileobj=stream, mode="r|")


def _read_archive(path: Path, names: list[str]) -> dict[str, bytes]:
    """The contents of the members called ``names``, whatever folder they claim to lie in."""
    contents: dict[str, bytes] = {}

    def visit(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
        name = PurePosixPath(member.name).name
        if name in names and name not in contents:
            file = archive.extractfile(member)
            contents[name] = file.read() if file else b""
        return len(contents) < len(names)

    _walk_archive(path, visit)
    missing = [name for name in names if name not in contents]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; expected the original archive. Download it again.")
    return contents


def _archive_names(path: Path) -> set[str]:
    names: set[str] = set()

    def visit(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
        names.add(PurePosixPath(member.name).name)
        return True

    _walk_archive(path, visit)
    return names


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes" if path.exists() else "nothing"


def _checked(data: bytes, release: Release, file: str, source: str, parse: Callable[[bytes], Any], verify: bool) -> Any:
    """Parse ``data``; then its checksum must be the original's, so that what is wrong is said first, and exactly."""
    value = parse(data)
    expected = CHECKSUMS.get((release.folder, file)) if verify else None
    if expected is not None:
        found = bytes_checksum(data, algorithm_of(expected))
        if found != expected:
            raise DataError(
                f"{source}: its {len(data):,} bytes have checksum {found}, the original's is {expected}. The file is "
                "damaged or another one; download it again, or pass verify=False if that is intended."
            )
    return value


def _parse_binary(data: bytes, source: str, name: str, level: str) -> tuple[Array, Array]:
    """Records of (label | coarse, fine) and 3,072 pixels -> images (n, 3, 32, 32) and labels (n,)."""
    label_bytes = 2 if name == "cifar100" else 1
    record = label_bytes + PIXELS
    if not data or len(data) % record:
        raise DataError(
            f"{source}: {len(data):,} bytes, expected a multiple of {record:,} (30,730,000 for 10,000 images of "
            "CIFAR-10). The file is truncated; download it again."
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = records[:, label_bytes - 1 if level == "fine" else 0]
    return np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, 3, 32, 32), _class_labels(
        labels, source, name, level
    )


def _parse_python(data: bytes, source: str, name: str, level: str) -> tuple[Array, Array]:
    """A pickled dictionary of ``data`` (n, 3072) uint8 and ``labels``/``fine_labels``/``coarse_labels``, n integers."""
    batch = pickles.loads(data, source)
    key = "labels" if name == "cifar10" else f"{level}_labels"
    if not isinstance(batch, dict) or "data" not in batch or key not in batch:
        keys = ", ".join(map(str, list(batch)[:6])) if isinstance(batch, dict) else type(batch).__name__
        raise DataError(f"{source}: expected a dictionary with 'data' and '{key}', got {keys[:200]}. Is it {name}?")
    pixels, labels = batch["data"], batch[key]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{source}: 'data' must be uint8 of shape (n, {PIXELS}), got {found}. Download the file again.")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(k) is int for k in labels):
        count = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise DataError(f"{source}: '{key}' must be a list of {len(pixels):,} integers, got {count}")
    # The bounds first: a huge integer does not fit an array.
    return pixels.reshape(-1, 3, 32, 32), _class_labels(
        np.array([k if 0 <= k < 256 else 255 for k in labels]), source, name, level
    )


def _class_labels(labels: Array, source: str, name: str, level: str) -> Array:
    count = 20 if level == "coarse" else dataset_info(name).num_classes
    bad = np.flatnonzero(labels >= count)
    if len(bad):
        raise DataError(
            f"{source}: the label of image {int(bad[0])} is not in 0 to {count - 1} ({len(bad):,} such labels); the "
            f"file is damaged or is not {name}. Download it again."
        )
    return labels.astype(np.int64)


def _parse_names(data: bytes, source: str, release: Release, level: str, count: int) -> tuple[str, ...]:
    """The class names, from the pickled ``meta`` or a text file with a name per line."""
    if release.binary:
        names: Any = data.decode("latin-1").split()
    else:
        meta = pickles.loads(data, source)
        names = meta.get(f"{level}_label_names") if isinstance(meta, dict) else None
    if not isinstance(names, list) or len(names) != count or not all(isinstance(n, str | bytes) for n in names):
        raise DataError(f"{source}: expected {count} {level} class names. Download the data set again.")
    return tuple(n.decode("latin-1") if isinstance(n, bytes) else n for n in names)
