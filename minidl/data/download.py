"""Getting the files: from the first address that answers, resumed, checked, and put in place in one step.

A file is written to ``NAME.part`` and renamed once its checksum fits, so a file that has its name is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from minidl.data.checksum import algorithm_of, file_checksum
from minidl.data.registry import DatasetInfo, Source, data_root, dataset_info
from minidl.errors import ConfigError, DataError

Progress = Callable[[str, int, int], None]  # file name, bytes so far, bytes in all (0 if not known)
_BLOCK = 1 << 16
# Larger than any file that minidl knows; a server that sends more is not sending that file.
MAX_BYTES = 1 << 30


def download(
    name: str, root: str | os.PathLike[str] | None = None, progress: Progress | None = None, timeout: float = 30.0
) -> list[Path]:
    """Download the files of a data set into the data root; those that are there and right are kept.

    Args:
        name: a data set with files: cifar10, cifar100, mnist, fashion_mnist.
        root: the data root; None for the default.
        progress: called as ``progress(file, done, total)`` in bytes.
        timeout: seconds without an answer after which an address is given up.

    Returns:
        The files' paths.

    Raises:
        DataError: no address delivered the right file, or it cannot be written.
        ConfigError: the data set has nothing to download.
    """
    info = _with_files(name)
    folder = data_root(root) / info.folder
    return [
        fetch(
            source.urls,
            folder / source.filename,
            source.checksum,
            progress=progress,
            timeout=timeout,
            size=source.size,
            hint=f" If your network is closed, fetch the file elsewhere and run `minidl data download {info.name} "
            "--data-file PATH`.",
        )
        for source in info.sources
    ]


def fetch(
    urls: Sequence[str],
    path: Path,
    checksum: str,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    size: int = 0,
    max_bytes: int = MAX_BYTES,
    hint: str = "",
) -> Path:
    """Download ``path`` from the first of ``urls`` that serves a file with this checksum.

    An interrupted download leaves ``path.part``; the next one continues it (HTTP Range).  Each address is tried, and
    tried once more from the beginning if what it continued turns out wrong.

    Raises:
        DataError: every address failed; the message says how each did.
    """
    if path.is_file() and file_checksum(path, algorithm_of(checksum)) == checksum:
        return path
    part = path.with_name(path.name + ".part")
    failures = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in urls:
            if not url.lower().startswith(("http://", "https://")):
                raise ConfigError(f"download: {url} is not an http or https address")
            for _ in range(2):
                resumed = part.exists() and part.stat().st_size > 0
                try:
                    _transfer(url, part, path.name, progress, timeout, size, max_bytes)
                except DataError as error:
                    failures.append(f"{url}: {error}")
                    break
                found = file_checksum(part, algorithm_of(checksum))
                if found == checksum:
                    os.replace(part, path)
                    return path
                part.unlink()
                failures.append(f"{url}: checksum {found}, expected {checksum}")
                if not resumed:
                    break
    except OSError as error:
        raise DataError(
            f"download: cannot write {error.filename or path} ({error.strerror or error}); choose another data root "
            "with MINIDL_DATA or free some space. What came so far is kept in a .part file."
        ) from None
    raise DataError(f"download: {path.name} could not be had. {'; '.join(failures)}.{hint}")


def _transfer(
    url: str, part: Path, name: str, progress: Progress | None, timeout: float, size: int, max_bytes: int
) -> None:
    """Append to (or begin) ``part`` until the server says the file is complete.

    What goes wrong with the network is a DataError; an OSError is one of the disk.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "minidl", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416 or not have:
                raise DataError(f"HTTP {error.code} {error.reason}") from None
        # Nothing lies beyond what is here: either it is complete, which the checksum will tell, or it is another file.
        if have == size or error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return
        part.unlink()
        return _transfer(url, part, name, progress, timeout, size, max_bytes)
    except (OSError, HTTPException) as error:
        raise DataError(str(getattr(error, "reason", "") or error)) from None
    with response:
        total = _total(response, have)
        if response.status != 206:
            have = 0  # the server ignores Range and sends everything
        if max(total, size) > max_bytes:
            raise DataError(f"{max(total, size):,} bytes, more than the limit of {max_bytes:,}")
        with open(part, "ab" if have else "wb") as file:
            while block := _receive(response):
                have += len(block)
                if have > max_bytes:
                    raise DataError(f"more than the limit of {max_bytes:,} bytes")
                file.write(block)
                if progress is not None:
                    progress(name, have, total or size)
            file.flush()
            os.fsync(file.fileno())
    if total and have != total:
        raise DataError(f"the connection closed after {have:,} of {total:,} bytes; run it again to continue")


def _receive(response: HTTPResponse) -> bytes:
    """The next block, or b"" at the end."""
    try:
        return response.read(_BLOCK)
    except (OSError, HTTPException) as error:
        raise DataError(f"the connection broke ({error}); run it again to continue") from None


def _total(response: HTTPResponse, have: int) -> int:
    """The whole file's size in bytes as the server says, or 0.  A part that does not continue ours is an error."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not match or int(match[1]) != have:
            raise DataError(f"the server answered with another part of the file than the one from byte {have:,}")
        return 0 if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else 0


def install(name: str, data_file: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Put files that the user brought into the data root, after checking that they are the right ones.

    Args:
        name: the data set.
        data_file: the archive, one of the set's files, or a folder that has them all.  Of CIFAR either release, python or
            binary, as an archive or unpacked.
        root: the data root; None for the default.

    Returns:
        Where the files now are.

    Raises:
        DataError: the file is missing, is not one of the set's, or has another checksum.
    """
    info = _with_files(name)
    given = Path(data_file).expanduser()
    target = data_root(root) / info.folder
    pairs = _unpacked_or_binary(info, given, target) if info.kind == "cifar" else []
    if not pairs:
        if given.is_dir():
            sources = [(given / source.filename, source) for source in info.sources]
        else:
            sources = [(given, _source_for(info, given))]
        for file, source in sources:
            _check_given(info, file, source)
        pairs = [(file, target / source.filename) for file, source in sources]
    for file, path in pairs:
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (path.exists() and path.samefile(file)):
                shutil.copyfile(file, part)
                os.replace(part, path)
        except OSError as error:
            raise DataError(
                f"{name}: cannot write {path} ({error.strerror or error}); free some space or move MINIDL_DATA"
            ) from None
    return [path for _, path in pairs]


def _unpacked_or_binary(info: DatasetInfo, given: Path, target: Path) -> list[tuple[Path, Path]]:
    """What to copy where, of a CIFAR release that is not the archive minidl downloads; checked by reading all of it."""
    from minidl.data import cifar

    found = cifar.find(info.name, given)
    if found is None or (found[1].is_file() and not found[0].binary):
        return []
    release, location = found
    for split in info.counts:
        cifar.load_cifar(info.name, location, split)
    if location.is_file():
        return [(location, target / release.archive)]
    return [(location / file, target / release.folder / file) for file in release.all_files]


def _source_for(info: DatasetInfo, given: Path) -> Source:
    """Which of the set's files this is: by name, or, if the set has but one, that one."""
    for source in info.sources:
        if given.name == source.filename or len(info.sources) == 1:
            return source
    names = ", ".join(source.filename for source in info.sources)
    raise DataError(f"{info.name}: {given} is not one of its files; expected a folder with {names}, or one of these")


def _check_given(info: DatasetInfo, file: Path, source: Source) -> None:
    """Raise a DataError unless the file is right: itself, or what it holds if it was packed anew."""
    try:
        found = file_checksum(file, algorithm_of(source.checksum))
    except OSError as error:
        raise DataError(
            f"{info.name}: {file} cannot be read ({error.strerror or error}); expected {source.filename}"
        ) from None
    if found == source.checksum:
        return
    if _holds_the_originals(info, file):
        return
    size = f"{file.stat().st_size:,} bytes" + (f" of {source.size:,}" if source.size else "")
    raise DataError(
        f"{info.name}: {file} ({size}) has checksum {found}, expected {source.checksum} of {source.filename}. It is "
        f"incomplete or another file; fetch {source.urls[0]} again."
    )


def _holds_the_originals(info: DatasetInfo, file: Path) -> bool:
    """Whether the unpacked content has the original's checksums."""
    from minidl.data import cifar, mnist

    try:
        if info.kind == "idx":
            return mnist.checksum_status(info.name, file) == "ok"
        return set(cifar.check(info.name, cifar.RELEASES[info.name][0], file).values()) == {"ok"}
    except DataError:
        return False


def _with_files(name: str) -> DatasetInfo:
    info = dataset_info(name)
    if not info.sources:
        raise ConfigError(
            f"{info.name}: there is nothing to download; `minidl train --data {info.name}` works as it is"
        )
    return info
