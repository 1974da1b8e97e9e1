"""The two containers of PyTorch files: a zip archive (since 1.6) and a row of pickles followed by raw bytes (before).

Both are read without trusting a number in them: nothing is allocated for a size that the file does not hold.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minidl.errors import CheckpointError
from minidl.io.atomic import describe_oserror
from minidl.io.torch_pickle import ITEMSIZE, Reader, Record
from minidl.pickles import DAMAGE, Refused

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LEGACY_START = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")  # the number as a pickle, after protocol and frame
# Trained weights do not compress, and torch stores them as they are; an archive that grows sixteenfold is a bomb.
_MOST_INFLATION = 16
_SMALL = 1 << 20
_MOST_COPIES = 1 << 26  # elements that calls in a legacy pickle may copy; its length is not known beforehand

_ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError, struct.error, OSError)


class TorchFile:
    """A file that is open, its pickle read and its records not yet.

    Attributes:
        format: "zip" or "legacy".
        byteorder: "<" or ">", of the records.
        value: what was saved, in the stand-ins of :mod:`minidl.io.torch_pickle`.
    """

    format: str
    byteorder: str = "<"
    value: Any

    def load(self, records: Iterable[Record]) -> None:
        """Read the bytes of ``records``."""
        raise NotImplementedError


def read(path: str | os.PathLike[str], use: Callable[[TorchFile], Any]) -> Any:
    """Open the file ``path`` and return ``use(file)``; whatever is wrong in there becomes one error.

    Raises:
        CheckpointError: no such file, another format, a damaged file, or one made to do harm.
    """
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{where} is not a regular file")
            return use(_open(file, status.st_size))
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {where}; check the name and the current folder") from None
    except OSError as error:
        raise CheckpointError(describe_oserror("read", Path(path), error)) from error
    except Refused as error:
        raise CheckpointError(
            f"{where} was refused, and nothing in it was run: it holds {error}. Weights need no such thing; if you trust "
            "where it comes from, load it with torch and save its state_dict()"
        ) from None
    except MemoryError:
        raise CheckpointError(f"{where}: there is not enough memory for its tensors") from None
    except CheckpointError as error:
        raise CheckpointError(f"{where} {error}") from None
    except DAMAGE as error:
        raise CheckpointError(f"{where} is damaged: {_reason(error)}; use another copy of it") from None


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


def _open(file: BinaryIO, size: int) -> TorchFile:
    start = file.read(262 + 6)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _Zip(file, size)
    if _LEGACY_START in start[:32]:
        return _Legacy(file, size)
    if not start:
        found, advice = "it is empty", "use another copy of it"
    elif start[257:262] == b"ustar":
        found, advice = (
            "it is a tar archive, as torch wrote before 0.1.10",
            "load it with an old torch and save it again",
        )
    elif start[:1] == b"\x80":
        found, advice = "it is a plain pickle", "load it where it was made and save its arrays with torch or NumPy"
    elif start[8:9] == b"{":
        found, advice = "it looks like safetensors", "name it *.safetensors"
    elif start.lstrip()[:1] in (b"<", b"{"):
        found, advice = "it is text", "the download probably saved an error page; download it again"
    else:
        found, advice = "it starts with none of their signatures", "the file is damaged or of another kind"
    raise CheckpointError(f"is not a file that torch.save wrote: {found}; {advice}")


def _check_size(record: Record, nbytes: int) -> None:
    if nbytes != record.nbytes:
        raise ValueError(
            f"storage {record.key[:40]!r} should have {record.count:,} elements, {record.nbytes:,} bytes, and has {nbytes:,}"
        )


def _fill(file: Any, nbytes: int, record: Record) -> np.ndarray[Any, Any]:
    """The next ``nbytes`` of ``file`` in memory of their own."""
    data = np.empty(nbytes, np.uint8)
    view, at = data.data, 0
    while at < nbytes:
        count = file.readinto(view[at:])
        if not count:
            raise ValueError(f"it ends in the middle of storage {record.key[:40]!r}")
        at += count
    return data


class _Zip(TorchFile):
    """``NAME/data.pkl`` and one entry ``NAME/data/KEY`` for each storage."""

    format = "zip"

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        try:
            self.archive = zipfile.ZipFile(file)
            self._read(size)
        except _ZIP_DAMAGE as error:
            raise _unreadable(error) from None

    def _read(self, size: int) -> None:
        archive = self.archive
        self.entries = {entry.filename: entry for entry in archive.infolist()}
        total = sum(entry.file_size for entry in self.entries.values())
        if total > _MOST_INFLATION * size + _SMALL:
            raise CheckpointError(f"is a decompression bomb: its {size:,} bytes would unpack to {total:,}")
        if len(self.entries) != len(archive.infolist()):
            raise ValueError("its zip archive has two entries of one name")
        pickles = [name for name in self.entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            found = _some(list(self.entries))
            raise CheckpointError(
                f"is a zip archive but not one that torch.save wrote: it holds {found}; expected data.pkl"
            )
        self.prefix = prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in self.entries:
            raise CheckpointError("is a TorchScript program; load it with torch.jit.load and save its state_dict()")
        order = archive.read(f"{prefix}byteorder") if f"{prefix}byteorder" in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"its byte order is {order[:20]!r}")
        self.byteorder = "<" if order == b"little" else ">"
        program = archive.read(pickles[0])
        self.value = Reader(4 * len(program)).run(program)

    def load(self, records: Iterable[Record]) -> None:
        try:
            for record in records:
                entry = self.entries.get(f"{self.prefix}data/{record.key}")
                if entry is None:
                    raise ValueError(f"storage {record.key[:40]!r} is missing")
                _check_size(record, entry.file_size)
                with self.archive.open(entry) as member:  # compares the entry's own header with the directory
                    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size:
                        record.data = self._stored(entry, record)
                    else:
                        record.data = _fill(member, entry.file_size, record)
                        member.read(1)  # to the end, where the checksum is compared
        except _ZIP_DAMAGE as error:
            raise _unreadable(error) from None


    def _stored(self, entry: zipfile.ZipInfo, record: Record) -> np.ndarray[Any, Any]:
        """An entry that is not compressed, as nearly all are, straight into its memory; zipfile would copy it twice more."""
        self.file.seek(entry.header_offset)
        name, extra = struct.unpack("<26x2H", self.file.read(30))
        self.file.seek(name + extra, os.SEEK_CUR)
        data = _fill(self.file, entry.file_size, record)
        if zlib.crc32(data.data) != entry.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 of {entry.filename[:60]!r}")
        return data


def _unreadable(error: Exception) -> Exception:
    return ValueError(f"its zip archive cannot be read ({_reason(error)})")


class _Window:
    """A file that never allocates more for a read than is left in it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.tell, self.readline = file.tell, file.readline

    def left(self) -> int:
        return self.size - self.file.tell()

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.left()))

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)  # type: ignore[attr-defined]


class _Legacy(TorchFile):
    """Magic number, protocol, system, value and keys, five pickles; then for each key a count and the bytes."""

    format = "legacy"

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.window = window = _Window(file, size)
        reader = Reader(min(4 * size, _MOST_COPIES))
        magic, protocol, system = reader.run(window), reader.run(window), reader.run(window)
        if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
            raise ValueError(f"its header says protocol {str(protocol)[:20]}; expected {_LEGACY_PROTOCOL}")
        self.byteorder = "<" if system.get("little_endian", True) else ">"
        self.value = reader.run(window)
        keys = reader.run(window)
        if not isinstance(keys, list) or not all(type(key) is str for key in keys) or set(keys) != set(reader.records):
            raise ValueError("the storages it lists are not those that its tensors need")
        self.places: dict[str, int] = {}
        for key in keys:
            record = reader.records[key]
            (count,) = struct.unpack("<q", _fill(window, 8, record).tobytes())
            _check_size(record, count * ITEMSIZE[record.code])
            if record.nbytes > window.left():
                raise ValueError(f"it ends in the middle of storage {key[:40]!r}")
            self.places[key] = file.tell()
            file.seek(record.nbytes, os.SEEK_CUR)

    def load(self, records: Iterable[Record]) -> None:
        for record in sorted(records, key=lambda record: self.places[record.key]):
            self.window.file.seek(self.places[record.key])
            record.data = _fill(self.window, record.nbytes, record)


def _some(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:4]) + (", ..." if len(names) > 4 else "") or "nothing"
