"""Whether CuPy works here, and if not, the one sentence that says why and what to do."""
from __future__ import annotations

import os
from typing import Any

OLDEST = 14                                          # CuPy's major version that the backend is written for
PACKAGES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-7-0")
NEWEST = "pip install 'minidl[cuda13]'"


def packages() -> dict[str, str]:
    """The packages that bring a ``cupy`` to import, with their versions.  Two of them overwrite each other's files."""
    from importlib import metadata  # not for `import minidl`: it brings seventy modules
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def why_not() -> str | None:
    """Why there is no CUDA here, in words, with what to do; None when there is.  (Importing CuPy succeeds without a GPU.)"""
    try:
        import cupy
    except ModuleNotFoundError as e:
        if e.name == "cupy":
            return f"CuPy is not installed; {NEWEST} (or minidl[cuda12] for a driver older than CUDA 13)"
        return _not_imported(e)
    except Exception as e:                           # a broken installation fails in many ways
        return _not_imported(e)
    if _major(cupy.__version__) < OLDEST:
        return f"CuPy {cupy.__version__} is too old, minidl needs {OLDEST}.2 or newer; pip install -U '{_extra()}'"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as e:
        return _no_devices(cupy, e)
    return None if count else f"CuPy finds no GPU{_hidden()}"


def advice() -> list[str]:
    """What is odd about an installation that may still work: each with the line that mends it."""
    found = packages()
    if len(found) > 1:
        return [_two_packages(found)]
    try:
        import cupy
        driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    except Exception:                                # why_not says it
        return []
    if driver // 1000 > runtime // 1000:
        name = next(iter(found), "cupy")
        return [f"CuPy is made for CUDA {runtime // 1000}, the driver for CUDA {driver // 1000}, which also runs newer packages: "
                f"pip uninstall -y {name} && {NEWEST}"]
    return []


def _not_imported(error: Exception) -> str:
    found = packages()
    if len(found) > 1:
        return _two_packages(found)
    # CuPy's own message is a page; the error that it quotes is what tells.
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =")]
    quoted = next((lines[i + 1] for i, line in enumerate(lines[:-1]) if line == "Original error:"), None)
    return f"CuPy cannot be imported: {quoted or ' '.join(lines)}; pip install --force-reinstall '{_extra()}'"


def _two_packages(found: dict[str, str]) -> str:
    names = sorted(found)
    return (f"{' and '.join(names)} are both installed, and overwrite each other: "
            f"pip uninstall -y {' '.join(names)} && {NEWEST}")


def _no_devices(cupy: Any, error: Exception) -> str:
    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    if "NoDevice" in str(error):
        return f"CuPy finds no GPU{_hidden()}"
    if not driver:
        return f"CuPy finds no usable driver: {error}; install NVIDIA's driver, and see that `nvidia-smi` works"
    if driver // 1000 < runtime // 1000:
        name = next(iter(packages()), "cupy")
        here = f"{driver // 1000}.{driver % 1000 // 10}"
        return (f"CuPy is made for CUDA {runtime // 1000}, the driver for CUDA {here}; update the driver, or "
                f"pip uninstall -y {name} && pip install 'minidl[cuda{driver // 1000}]'")
    return f"CuPy finds no usable driver: {error}; see whether `nvidia-smi` works"


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r} hides those that are not in it"


def _extra() -> str:
    return "minidl[cuda12]" if "cupy-cuda12x" in packages() else "minidl[cuda13]"


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else OLDEST
