"""Write a file whole or not at all.

The new content goes to a temporary file in the same folder, is forced to disk, and only then takes the name of the old
one (a rename within a folder is atomic).  Whatever happens before the rename - a full disk, a crash, ``kill -9`` -
leaves the old file as it was.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from minidl.errors import CheckpointError

Buffer = bytes | bytearray | memoryview
_SUFFIX = ".minidl-tmp"

_ADVICE = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file is larger than this system allows (see `ulimit -f`)",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "this path is a folder; give the name of a file",
}
# What is said instead where reading was refused.
_READ_ADVICE = {
    errno.EACCES: "ask its owner for the right to read it (`ls -l` shows who that is)",
    errno.EPERM: "ask its owner for the right to read it (`ls -l` shows who that is)",
    errno.EIO: "the disk may be failing: try again, or use another copy",
}


def describe_oserror(action: str, path: str | os.PathLike[str], error: OSError) -> str:
    """One sentence for an :class:`OSError`: what failed, on which path, why, and what to do about it."""
    reason = error.strerror or str(error)
    advice = ({**_ADVICE, **_READ_ADVICE} if action == "read" else _ADVICE).get(error.errno or 0)
    return f"cannot {action} {os.fspath(path)}: {reason}" + (f"; {advice}" if advice else "")


def write_atomic(path: str | os.PathLike[str], chunks: Iterable[Buffer]) -> None:
    """Write the bytes of ``chunks``, one after the other, as the file ``path``, replacing an old one in one step.

    Raises :class:`~minidl.errors.CheckpointError` when the system refuses (disk full, no permission, ...); an old file
    is then unchanged and no temporary file stays behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        try:
            with open(temporary, "xb", buffering=0) as file:
                for chunk in chunks:
                    _write_all(file.fileno(), chunk)
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        message = describe_oserror("write", target, error)
        raise CheckpointError(f"{message} (nothing already saved was changed)") from error


def _write_all(descriptor: int, chunk: Buffer) -> None:
    view = memoryview(chunk).cast("B")
    while len(view):  # one call may write less than asked, and never more than 2 GiB
        written = os.write(descriptor, view[: 1 << 30])
        view = view[written:]


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to disk; without this a power cut may bring the old name back."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete temporary files that killed processes left in ``folder``; only call it where nobody else is writing."""
    for leftover in Path(folder).glob(f".*{_SUFFIX}"):
        leftover.unlink(missing_ok=True)
