"""Named arrays in the safetensors format: https://huggingface.co/docs/safetensors.

The format is an 8-byte little-endian length, a JSON header of that length (name -> dtype, shape, byte range) and the
raw bytes.  Nothing in it can run code, which is why minidl uses it for everything that it saves.  Reading goes
through the ``safetensors`` library, which distrusts the header.  Writing is done here: arrays are streamed to disk
without a second copy in memory, and the same input always gives the same bytes (the library orders metadata at random).

Files written here carry a SHA-256 of their content; :func:`load_file` checks it, so a flipped bit is found, not used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import CheckpointError
from minidl.io.atomic import Buffer, describe_oserror, write_atomic

Arrays = dict[str, np.ndarray[Any, Any]]

_NAMES = {  # NumPy's name of a dtype -> the format's
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _NAMES.items() if name != "bfloat16"}
_FORMAT, _CHECKSUM = "minidl.format", "minidl.sha256"  # our keys in the metadata


def save_file(
    arrays: Mapping[str, np.ndarray[Any, Any]], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Save named arrays and text as one file, atomically (see :func:`minidl.io.atomic.write_atomic`).

    ``arrays``: name -> array of any shape and memory order; dtypes bool, (u)int8..64, float16/32/64, complex64, and
    bfloat16 as defined by ``ml_dtypes``.  ``metadata``: text to text.  Equal arguments give equal bytes.
    Raises :class:`~minidl.errors.CheckpointError` for other dtypes, names that are not text, and failing disks.
    """
    where = os.fspath(path)
    prepared: dict[str, tuple[str, np.ndarray[Any, Any]]] = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise CheckpointError(f"cannot save {where}: {name!r} is not a usable array name; use a string")
        if not isinstance(array, np.ndarray) or array.dtype.name not in _NAMES:
            kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise CheckpointError(
                f"cannot save {where}: {name!r} is {kind}; expected a NumPy array of {', '.join(_NAMES)}"
            )
        prepared[name] = _NAMES[array.dtype.name], _plain(array)
    extra = dict(metadata or {})
    for key, text in extra.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise CheckpointError(f"cannot save {where}: metadata maps text to text, but {key!r} -> {text!r} does not")
    extra[_FORMAT] = "1"
    extra[_CHECKSUM] = _digest({name: (code, a.shape, _bytes(a)) for name, (code, a) in prepared.items()}, extra)
    write_atomic(path, _encode(prepared, extra))


def load_file(path: str | os.PathLike[str]) -> tuple[Arrays, dict[str, str]]:
    """Read ``(arrays, metadata)`` from any safetensors file; the arrays are writable and own their memory.

    bfloat16 is widened to float32, which is exact.  Files that minidl wrote are checked against their checksum.
    Raises :class:`~minidl.errors.CheckpointError` if the file is missing, unreadable, truncated, corrupt or hostile.
    """
    data = read_bytes(path)
    where = os.fspath(path)
    entries, metadata = _decode(where, data)
    if _FORMAT in metadata or _CHECKSUM in metadata:
        content = {name: (entry["dtype"], entry["shape"], entry["data"]) for name, entry in entries.items()}
        if metadata.get(_CHECKSUM) != _digest(content, metadata):
            raise CheckpointError(f"{where} is corrupt: the content does not match the checksum; use another copy")
        metadata = {key: text for key, text in metadata.items() if key not in (_FORMAT, _CHECKSUM)}
    arrays = {name: _array(where, name, entry) for name, entry in entries.items()}
    return arrays, metadata


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, or a :class:`~minidl.errors.CheckpointError` that says why it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {os.fspath(path)}; check the name and the current folder") from None
    except OSError as error:
        raise CheckpointError(describe_oserror("read", path, error)) from error


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values, contiguous and little-endian; no copy where they already are."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _encode(prepared: dict[str, tuple[str, np.ndarray[Any, Any]]], metadata: dict[str, str]) -> Iterable[Buffer]:
    # Wide dtypes first, so that every array starts at a multiple of its item size.
    order = sorted(prepared, key=lambda name: (-prepared[name][1].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in order:
        code, array = prepared[name]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield _bytes(prepared[name][1])


def _decode(where: str, data: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    import safetensors

    try:
        entries = dict(safetensors.deserialize(data))
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        if len(data) < 8:
            problem = f"it has only {len(data)} bytes"
        else:
            problem = str(error).strip().rstrip(".")
        raise CheckpointError(
            f"{where} is not a whole safetensors file ({problem}): it is truncated, corrupt "
            f"or of another format; use another copy of it"
        ) from error
    return entries, metadata


def _array(where: str, name: str, entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    code, shape, data = entry["dtype"], entry["shape"], entry["data"]
    try:
        if code == "BF16":  # the upper half of a float32
            wide = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(shape)
        if code not in _DTYPES:
            raise CheckpointError(f"{where}: {name!r} has the dtype {code}, which minidl cannot read")
        array = np.frombuffer(data, _DTYPES[code]).reshape(shape)
        return array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    except (ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{where} is corrupt: {name!r} cannot have the shape {shape} ({error})") from error


def _digest(content: Mapping[str, tuple[str, Iterable[int], Buffer]], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, dtypes, shapes, bytes and metadata, in an order that does not depend on the file's."""
    digest = hashlib.sha256()
    texts = {key: text for key, text in metadata.items() if key != _CHECKSUM}
    digest.update(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(content):
        code, shape, data = content[name]
        digest.update(json.dumps([name, code, list(shape)]).encode())
        digest.update(data)
    return digest.hexdigest()
