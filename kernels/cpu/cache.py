"""Machine code on disk: a folder of objects, each under the hash of what it was made from.

An entry is the SHA-256 of its key and the object, followed by the object: linking damaged machine code, or another kernel's,
would crash, or worse, not crash, so whatever does not match is thrown away and compiled again.  Entries appear whole or not at
all, the folder is bounded in size (the least recently used go first) and its owner's alone, and where it cannot be written the
objects live in memory.  Any number of processes may use it at once.
"""
import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

ENVIRONMENT = "MINIDL_KERNEL_CACHE"
LIMIT = 64 << 20                                     # bytes; all kernels of one machine take about 1 MB
_CHECKSUM = hashlib.sha256().digest_size
_SUFFIX, _UNFINISHED = ".object", ".tmp"
_ABANDONED = 3600.0                                  # seconds after which nobody is still writing an entry


def default_folder() -> Path:
    """$MINIDL_KERNEL_CACHE, else kernels/ in minidl's folder of the user's cache."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return Path(chosen)
    home = os.path.expanduser("~")
    if home == "~":                                  # a user without a home: nothing can be written below this, see ObjectCache
        home = os.devnull
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return Path(base) / "minidl" / "kernels"


def _checksum(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + code).digest()


class ObjectCache:
    """Objects by key, in ``folder``, or in memory where that cannot be written.

    Args:
        folder: made when the first object is stored.
        limit: bytes to keep.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit
        self._memory: dict[str, bytes] = {}

    def _path(self, key: str) -> Path:
        return self.folder / (key + _SUFFIX)

    def get(self, key: str) -> bytes | None:
        """The object stored under ``key``; None if there is none, or if it is not what was stored."""
        if key in self._memory:
            return self._memory[key]
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        checksum, code = content[:_CHECKSUM], content[_CHECKSUM:]
        if not code or _checksum(key, code) != checksum:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)                           # the time of last use, which decides what is dropped
        return code

    def put(self, key: str, code: bytes) -> None:
        """Store an object."""
        temporary = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)   # whoever may write here may choose what we run
            handle, temporary = tempfile.mkstemp(suffix=_UNFINISHED, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(_checksum(key, code) + code)
            os.replace(temporary, self._path(key))
        except OSError:                              # read-only, full, no home: compiled code is kept for this process only
            self._memory[key] = code
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            return
        self._shrink()

    def _shrink(self) -> None:
        """Remove the least recently used entries until the rest fits the limit."""
        entries = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                with contextlib.suppress(OSError):   # another process may remove it meanwhile
                    status = entry.stat()
                    abandoned = entry.name.endswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED
                    if entry.name.endswith(_SUFFIX) or abandoned:
                        entries.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
