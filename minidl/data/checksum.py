"""Checksums of files, written ``md5:...`` or ``sha256:...``: they find accidents, and sha256 also finds intent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def new_hash(algorithm: str) -> Any:
    """A hash object; md5 is marked as not for security, so that it also works on a FIPS build."""
    return hashlib.new(algorithm, usedforsecurity=False)


def bytes_checksum(data: bytes, algorithm: str = "sha256") -> str:
    """The checksum of ``data``."""
    digest = new_hash(algorithm)
    digest.update(data)
    return f"{algorithm}:{digest.hexdigest()}"


def file_checksum(path: str | Path, algorithm: str = "sha256") -> str:
    """The checksum of a file, read a megabyte at a time."""
    digest = new_hash(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def algorithm_of(checksum: str) -> str:
    """``"md5:12ab"`` -> ``"md5"``."""
    return checksum.partition(":")[0]
