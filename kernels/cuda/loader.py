"""From a .cu file to machine code: NVRTC makes a cubin, which is kept on disk.

NVRTC is called directly, not through CuPy's RawModule: CuPy adds an architecture of its own, which excludes sm_90a, and its
cache does not see what a file includes.  NVRTC itself needs no driver, so a machine without a GPU compiles for all of them.
"""
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from minidl.errors import DeviceError
from minidl.kernels.cuda import source

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_90a", "sm_100", "sm_120")


class Resources(NamedTuple):
    """What ptxas says that a kernel needs on one architecture."""

    registers: int
    spill_bytes: int
    shared_bytes: int


class Cubin(NamedTuple):
    """Machine code of a file, and what its kernels need."""

    path: Path
    resources: dict[str, Resources]


def cache_folder() -> Path:
    """``MINIDL_KERNEL_CACHE`` or ~/.cache/minidl/kernels, then cuda."""
    root = os.environ.get("MINIDL_KERNEL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "minidl" / "kernels") / "cuda"


def compile_cubin(name: str, arch: str, defines: tuple[str, ...], folder: Path | None = None) -> Cubin:
    """Compiles ``name`` for ``arch`` ("sm_90") under the macros ``defines``, or finds it on disk.

    Raises:
        DeviceError: NVRTC is missing, or refuses the file; the message has its words.
    """
    try:
        from cupy_backends.cuda.libs import nvrtc
        version = nvrtc.getVersion()
    except Exception as e:                           # an ImportError, or CuPy's own error for a library that is not there
        raise DeviceError(f"{name}: NVRTC cannot be loaded: {e}; pip install 'minidl[cuda13]'") from None
    text, included = source.read(name), source.headers(name)
    options = ("-std=c++17", f"-arch={arch}", "--ptxas-options=-v", "-lineinfo", *(f"-D{d}" for d in defines))
    key = hashlib.sha256("\0".join((text, *included, *included.values(), *options, str(version))).encode()).hexdigest()[:32]
    folder = folder or cache_folder()
    path, log_path = folder / f"{key}.cubin", folder / f"{key}.log"
    if not (path.exists() and log_path.exists()):
        cubin, log = _compile(nvrtc, name, text, included, _with_headers(options, defines))
        _write(log_path, log.encode())
        _write(path, cubin)
    return Cubin(path, parse_report(log_path.read_text(encoding="utf-8")))


def _compile(nvrtc: Any, name: str, text: str, included: dict[str, str], options: tuple[str, ...]) -> tuple[bytes, str]:
    program = nvrtc.createProgram(text, name, tuple(h.encode() for h in included.values()), tuple(h.encode() for h in included))
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as e:
        raise DeviceError(f"{name}: NVRTC refuses it under {' '.join(options)}: {e}\n{nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)


def _with_headers(options: tuple[str, ...], defines: tuple[str, ...]) -> tuple[str, ...]:
    """16-bit floats need CUDA's own headers: from the runtime's wheel, else an installed toolkit."""
    if not any(d.startswith("MINIDL_HALF") for d in defines):
        return options
    folder = header_folder()
    if folder is None:
        raise DeviceError("cuda_fp16.h is not found; pip install 'minidl[cuda13]', or set CUDA_PATH to the toolkit")
    return (*options, f"-I{folder}")


def header_folder() -> Path | None:
    """The folder with cuda_fp16.h, if there is one."""
    candidates = []
    try:
        from cuda import pathfinder
        found = pathfinder.find_nvidia_header_directory("cudart")
        candidates += [Path(found)] if found else []
    except (ImportError, AttributeError):
        pass
    candidates.append(Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "include")
    try:
        import cupy
        candidates += sorted((Path(cupy.__file__).parent / "_core" / "include" / "cupy" / "_cuda").glob("cuda-*"), reverse=True)
    except ImportError:
        pass
    return next((folder for folder in candidates if (folder / "cuda_fp16.h").exists()), None)


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse_report(log: str) -> dict[str, Resources]:
    """What ``--ptxas-options=-v`` prints, by kernel."""
    found = {}
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", log):
        name, spills, used = _ENTRY.search(part), _SPILLS.search(part), _USED.search(part)
        if name and spills and used:
            shared = _SHARED.search(part)
            found[name[1]] = Resources(int(used[1]), int(spills[1]) + int(spills[2]), int(shared[1]) if shared else 0)
    return found


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, whoever else is writing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
