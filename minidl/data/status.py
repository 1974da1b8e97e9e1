"""What is on this machine: the table behind ``minidl data list`` and ``minidl data check``."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from minidl.data.registry import DATASETS, DatasetInfo, data_root
from minidl.errors import DataError


@dataclass(frozen=True)
class DatasetStatus:
    """One data set's state.

    ``present``: it can be loaded.  ``where``: its folder or archive, "generated", or how to get it.  ``counts``: images
    per split.  ``checksum``: "ok", "bad", "unverified" (none is known), "not checked", or "-" where there is no file.
    ``problems``: a line for each thing that is wrong.
    """

    name: str
    title: str
    present: bool
    where: str
    counts: dict[str, int]
    checksum: str
    problems: tuple[str, ...] = ()


def available(root: str | os.PathLike[str] | None = None, verify: bool = False) -> list[DatasetStatus]:
    """The state of every data set known by name.

    Args:
        root: the data root; None for the default.
        verify: also read every file and compare its checksum (about a second for CIFAR-10).
    """
    where = data_root(root)
    return [_status(info, where, verify) for info in DATASETS.values()]


def _status(info: DatasetInfo, root: Path, verify: bool) -> DatasetStatus:
    def status(present: bool, where: str, checksum: str = "-", problems: tuple[str, ...] = ()) -> DatasetStatus:
        return DatasetStatus(info.name, info.title, present, where, dict(info.counts), checksum, problems)

    if info.kind == "generated":
        return status(True, "generated")
    if info.kind == "sklearn":
        present = importlib.util.find_spec("sklearn") is not None
        return status(present, "scikit-learn" if present else "pip install scikit-learn")
    place = _find(info, root)
    if place is None:
        return status(False, f"minidl data download {info.name}")
    if not verify:
        return status(True, str(place), "not checked")
    try:
        results = _check_cifar(info, root) if info.kind == "cifar" else _check_idx(info, place)
    except DataError as error:
        return status(False, str(place), "bad", (str(error),))
    problems = tuple(problem for problem in results.values() if problem not in ("ok", "unverified"))
    checksum = "bad" if problems else "unverified" if "unverified" in results.values() else "ok"
    return status(not problems, str(place), checksum, problems)


def _find(info: DatasetInfo, root: Path) -> Path | None:
    if info.kind == "cifar":
        from minidl.data import cifar

        found = cifar.find(info.name, root)
        return found[1] if found else None
    from minidl.data import mnist

    return mnist.find(info.name, root)


def _check_cifar(info: DatasetInfo, root: Path) -> dict[str, str]:
    """File name -> "ok", "unverified" or a sentence on what is wrong."""
    from minidl.data import cifar

    found = cifar.find(info.name, root)
    return cifar.check(info.name, *found) if found else {}


def _check_idx(info: DatasetInfo, place: Path) -> dict[str, str]:
    from minidl.data import mnist

    results = {}
    for source in info.sources:
        stem = source.filename.removesuffix(".gz")
        path = mnist.idx_path(place, stem)
        result = mnist.checksum_status(info.name, path) if path else f"{place / stem}: missing"
        results[stem] = f"{path}: {result[5:]}" if result.startswith("bad: ") else result
    return results
