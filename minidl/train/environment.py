"""The machine a run takes place on: versions, matrix-product threads, processor, memory, disk, GPU."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import minidl
import minidl.cuda
from minidl.backend import get_backend
from minidl.backend.threads import get_blas_threads as blas_threads
from minidl.backend.threads import set_num_threads
from minidl.kernels import contract, registry

PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "safetensors",
    "pillow",
    "click",
    "rich",
    "cupy",
    "scikit-learn",
    "matplotlib",
    "torch",
)
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def versions() -> dict[str, str]:
    """The versions of Python, minidl and the packages around it, as far as they are installed."""
    found = {"python": platform.python_version(), "minidl": minidl.__version__}
    for package in PACKAGES:
        for name in (package, f"{package}-cuda13x", f"{package}-cuda12x") if package == "cupy" else (package,):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(name)
    return found


def describe() -> dict[str, Any]:
    """What ``config.json`` records of the machine."""
    return {
        "versions": {name: versions()[name] for name in ("python", "minidl", "numpy")},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "blas": blas()["name"],
        "blas_threads": blas_threads(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """The machine's memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def numpy_config() -> dict[str, Any]:
    """NumPy's build: BLAS, compilers, SIMD extensions."""
    return get_backend("cpu").xp.show_config(mode="dicts")


def blas() -> dict[str, str]:
    """Name and version of the library that multiplies NumPy's matrices."""
    found = numpy_config().get("Build Dependencies", {}).get("blas", {})
    return {"name": str(found.get("name", "unknown")), "version": str(found.get("version", "unknown"))}


def simd() -> list[str]:
    """The vector extensions NumPy found on this processor."""
    return list(numpy_config().get("SIMD Extensions", {}).get("found", []))


def set_threads(count: int) -> None:
    """Let kernels and matrix products use ``count`` threads; other libraries, if they are loaded later, keep to one.

    Their number decides how products are cut, so a run that is to repeat bit for bit must keep it.
    """
    set_num_threads(count)
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"


def gpu() -> tuple[bool, str]:
    """Whether a GPU can be used, and its name or why not."""
    reason = minidl.cuda.why_not()
    if reason is not None:
        return False, reason
    properties = minidl.cuda.get_device_properties()
    return True, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def may_write(folder: Path) -> bool:
    """Whether files can be made in ``folder``, or in its nearest existing parent if it is not there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def load() -> float | None:
    """How many programs wanted to run, on average over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def kernel_variants() -> str:
    """How many verbs the kernel registry has in each variant on the CPU."""
    counts: dict[str, int] = {}
    verbs = contract.verbs()
    for verb in verbs:
        for variant in registry.variants(verb, "cpu"):
            counts[variant] = counts.get(variant, 0) + 1
    chosen = os.environ.get(registry.ENVIRONMENT)
    text = f"{len(verbs)} verbs: " + ", ".join(f"{count} {variant}" for variant, count in sorted(counts.items()))
    return text + (f"; {registry.ENVIRONMENT}={chosen}" if chosen else "")


def kernel_cache() -> str:
    """Where compiled kernels are kept, how many and how large; and whether new ones can be."""
    from minidl.kernels.cpu.cache import ENVIRONMENT, default_folder

    folder = default_folder()
    sizes = []
    with contextlib.suppress(OSError):
        sizes = [entry.stat().st_size for entry in os.scandir(folder)]
    text = f"{folder}, {len(sizes)} objects, {sum(sizes) / 2**20:.1f} MiB"
    return text if may_write(folder) else f"{text}, NOT writable: every process compiles anew (see {ENVIRONMENT})"


def advice(folders: Iterable[Path] = ()) -> list[str]:
    """Settings of this machine that cost speed or stop minidl from working, one sentence each.

    ``folders`` are those that ought to be writable.
    """
    found = [
        f"{folder} may not be written: choose another with MINIDL_DATA, --data-root or --out"
        for folder in folders
        if not may_write(folder)
    ]
    for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if variable in os.environ:
            found.append(f"{variable} is set, which can halve the speed of matrix products: unset {variable}")
    threads = blas_threads()
    if threads is not None and threads > cores():
        found.append(f"BLAS would use {threads} threads on {cores()} cores: set OPENBLAS_NUM_THREADS={cores()}")
    return found
