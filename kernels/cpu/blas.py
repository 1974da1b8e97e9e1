"""How many threads NumPy's OpenBLAS uses beside the pool (threads.py).

OpenBLAS's threads spin for milliseconds after each product.  On all cores they take those cores from the kernels that follow: a
training step of LeNet-5 took three times as long.  So the products get half of the pool's threads, one at least.
"""
from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# OpenBLAS is built with different prefixes and suffixes; NumPy's wheels use the first.
_NAMES = [f"{prefix}openblas_{{}}_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")]


def get_threads() -> int | None:
    """How many threads OpenBLAS uses; None for another library."""
    for function in _functions("get"):
        return int(function())
    return None


def share(threads: int) -> None:
    """Give the products their part of ``threads``.  Another library than OpenBLAS is left as it is."""
    for function in _functions("set"):
        function(max(1, threads // 2))


def _functions(verb: str) -> Iterator[Any]:
    """``openblas_get/set_num_threads`` of each OpenBLAS this process has loaded."""
    for path in _loaded_libraries():
        if "openblas" not in path.name.lower():
            continue
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(path))
            for name in _NAMES:
                function = getattr(library, name.format(verb), None)
                if function is not None:
                    yield function
                    break


def _loaded_libraries() -> list[Path]:
    """The shared libraries of this process; on systems without /proc, those that NumPy's wheel brought."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted({Path(line.split(maxsplit=5)[5]) for line in lines if line.count(" ") >= 5 and ".so" in line})
    numpy = Path(sys.modules["numpy"].__file__ or "").parent
    return [*numpy.glob(".dylibs/*"), *numpy.parent.glob("numpy.libs/*")]
