"""Checkpoints: a nested tree of arrays, numbers, strings, lists and dictionaries in one safetensors file.

The arrays become the file's arrays; everything else is JSON in its metadata, with ``{"~array": "a3"}`` where an array
belongs.  So a checkpoint can be opened by anything that reads safetensors, nothing in it can run code, and one checksum
covers all of it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import CheckpointError
from minidl.io import safetensors

Tree = Any
_KEY = "minidl.tree"
_PATTERN = re.compile(r"step-(\d{8,})\.checkpoint")


def save(path: str | os.PathLike[str], tree: Tree) -> None:
    """Save ``tree`` as the file ``path``, whole or not at all.

    A tree is None, a bool, int, float, string, NumPy array or scalar, or a list, tuple or dictionary of trees
    (dictionary keys: strings, ints, floats, bools, None, tuples).  :func:`load` gives back the same types and bits.
    Raises :class:`~minidl.errors.CheckpointError` for anything else, naming where in the tree it is, and if the disk
    refuses; a file that was there before is then unchanged.
    """
    arrays: safetensors.Arrays = {}
    try:
        text = json.dumps(_pack(tree, arrays, "tree"), separators=(",", ":"))
    except RecursionError:
        raise CheckpointError(f"cannot save {os.fspath(path)}: it is nested too deeply or contains itself") from None
    safetensors.save_file(arrays, path, {_KEY: text})


def load(path: str | os.PathLike[str]) -> Tree:
    """Read the tree that :func:`save` wrote, after checking its checksum.

    Raises :class:`~minidl.errors.CheckpointError` if the file is missing, truncated, corrupt or not a checkpoint.
    """
    arrays, metadata = safetensors.load_file(path)
    if _KEY not in metadata:
        raise CheckpointError(
            f"{os.fspath(path)} is a safetensors file but not a minidl checkpoint; "
            f"read it with minidl.io.safetensors.load_file"
        )
    try:
        return _unpack(json.loads(metadata[_KEY]), arrays)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{os.fspath(path)} is corrupt: its tree cannot be read ({error!r})") from error


def filename(step: int) -> str:
    """The name of the checkpoint of training step ``step``: ``step-00001200.checkpoint``."""
    return f"step-{step:08d}.checkpoint"


def find(folder: str | os.PathLike[str]) -> list[Path]:
    """The files in ``folder`` that are named like checkpoints, newest (highest step) first, valid or not."""
    found = [(int(match[1]), path) for path in _listing(folder) if (match := _PATTERN.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint in ``folder`` that is whole and passes its checksum; None if there is none."""
    for path in find(folder):
        try:
            load(path)
        except CheckpointError:
            continue
        return path
    return None


def prune(folder: str | os.PathLike[str], keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints of ``folder``."""
    if keep < 1:
        raise CheckpointError(f"prune keeps at least 1 checkpoint, got keep={keep}")
    for path in find(folder)[keep:]:
        path.unlink(missing_ok=True)


def _listing(folder: str | os.PathLike[str]) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except FileNotFoundError:
        return []


def _pack(tree: Tree, arrays: safetensors.Arrays, where: str) -> Any:
    if tree is None or isinstance(tree, bool | str) or type(tree) in (int, float):
        return tree
    if isinstance(tree, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = tree
        return {"~array": name}
    if isinstance(tree, np.generic):
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(tree)
        return {"~scalar": name}
    if isinstance(tree, list):
        return [_pack(value, arrays, f"{where}[{i}]") for i, value in enumerate(tree)]
    if isinstance(tree, tuple):
        return {"~tuple": [_pack(value, arrays, f"{where}[{i}]") for i, value in enumerate(tree)]}
    if isinstance(tree, dict):
        if all(isinstance(key, str) and not key.startswith("~") for key in tree):
            return {key: _pack(value, arrays, f"{where}[{key!r}]") for key, value in tree.items()}
        return {
            "~pairs": [
                [_pack(key, arrays, f"a key of {where}"), _pack(value, arrays, f"{where}[{key!r}]")]
                for key, value in tree.items()
            ]
        }
    raise CheckpointError(
        f"cannot save a {type(tree).__name__} ({where}): a checkpoint holds arrays, numbers, "
        f"strings, bools, None, and lists, tuples and dictionaries of them"
    )


def _unpack(packed: Any, arrays: safetensors.Arrays) -> Tree:
    if isinstance(packed, list):
        return [_unpack(value, arrays) for value in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        ((tag, value),) = packed.items()
        if tag == "~array":
            return arrays[value]
        if tag == "~scalar":
            return arrays[value][()]
        if tag == "~tuple":
            return tuple(_unpack(item, arrays) for item in value)
        if tag == "~pairs":
            return {_unpack(key, arrays): _unpack(item, arrays) for key, item in value}
    return {key: _unpack(value, arrays) for key, value in packed.items()}
