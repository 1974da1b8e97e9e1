"""The record of a run: one JSON object per line in ``metrics.jsonl``, only ever appended to.

A line that a crash cut short is dropped when the file is read again, and a resumed run cuts the record back to where
its checkpoint was made: what follows will be written again, and nothing is counted twice.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError
from minidl.io.atomic import describe_oserror

Record = dict[str, Any]


class MetricsLog:
    """An append-only file of JSON lines; ``count`` is the number of records in it.

    ``MetricsLog(path)`` opens or creates the file and keeps what is there; ``keep=n`` keeps the first ``n`` records
    only.  An unfinished last line is dropped in either case.
    Raises :class:`~minidl.errors.CheckpointError` when the file cannot be written, or holds something else than JSON
    lines.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int | None = None) -> None:
        self.path = Path(path)
        try:
            ends = _ends_of_records(self.path)
            self.count = len(ends) if keep is None else min(keep, len(ends))
            self._file = open(self.path, "ab")
            self._file.truncate(ends[self.count - 1] if self.count else 0)
        except OSError as error:
            raise CheckpointError(describe_oserror("write", self.path, error)) from error

    def append(self, record: Record) -> None:
        """Add one record.  NaN and infinities, which JSON does not know, are written as null."""
        line = json.dumps(_finite(record), separators=(",", ":")) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise CheckpointError(describe_oserror("write", self.path, error)) from error
        self.count += 1

    def sync(self) -> None:
        """Force what was appended to disk, so that a checkpoint never knows more records than the file has."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(describe_oserror("write", self.path, error)) from error

    def close(self) -> None:
        """Close the file; records already appended stay."""
        try:
            self._file.close()
        except OSError:  # what a full disk did not take is still in the buffer; append has reported it
            pass


def read_metrics(path: str | os.PathLike[str]) -> list[Record]:
    """All whole records of a ``metrics.jsonl``; an unfinished last line is passed over."""
    data = Path(path).read_bytes()
    ends = _ends_of_records(Path(path))
    return [json.loads(data[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _ends_of_records(path: Path) -> list[int]:
    """The byte position after each whole record of the file."""
    ends: list[int] = []
    if not path.exists():
        return ends
    position = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            whole = line.endswith(b"\n") and isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            break  # a torn write: nothing after it can be trusted
        position += len(line)
        ends.append(position)
    return ends


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
