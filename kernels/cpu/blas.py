"""How many threads NumPy's OpenBLAS uses beside the pool (threads.py).

OpenBLAS's threads spin for a while after each product.  On all cores they take those cores from the kernels that follow.  So
OpenBLAS keeps one, and large products are shared out by gemm.py.
"""
from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# OpenBLAS is built with different prefixes and suffixes; NumPy's wheels use the first.
_NAMES = [f"{prefix}openblas_{{}}_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")]


def get_threads() -> int | None:
    """How many threads OpenBLAS uses; None for another library."""
    for function in _functions(name.format("get") for name in _NAMES):
        return int(function())
    return None


def use_one() -> None:
    """Leave OpenBLAS one thread.  Another library is left as it is."""
    for function in _functions(name.format("set") for name in _NAMES):
        function(1)


def product(letter: str) -> int | None:
    """The address of cblas_sgemm (``letter`` "s") or cblas_dgemm ("d") with 64-bit integers, as NumPy's wheels have it."""
    for function in _functions([f"scipy_cblas_{letter}gemm64_", f"cblas_{letter}gemm64_"]):
        return ctypes.cast(function, ctypes.c_void_p).value
    return None


def _functions(names: Iterable[str]) -> Iterator[Any]:
    """The first function of these names in each OpenBLAS this process has loaded."""
    names = list(names)
    for path in _loaded_libraries():
        if "openblas" not in path.name.lower():
            continue
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(path))
            for name in names:
                function = getattr(library, name, None)
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
