"""Runs the CUDA kernels on the CPU: a .cu file, compiled by g++ behind ``include/emulator.h``, is called as CuPy calls a kernel.

A launch takes what CuPy's RawKernel takes.  Where a GPU would read wrong bytes in silence, this raises: an argument of another
dtype than the kernel's parameter, a missing argument, an array with strides.
"""
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from minidl.kernels.cuda import source
from tests.cuda_emulator.blas import Blas

INCLUDE = Path(__file__).parent / "include"
KERNELS = Path(source.__file__).parent
SCHEDULES = {"forward": 0, "reverse": 1, "random": 2}
COMPILER = shutil.which("g++")


class EmulatorError(RuntimeError):
    """What a kernel did wrong: a barrier that not all threads reach, a deadlock, a misaligned copy."""


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint),
        ("schedule", ctypes.c_int), ("seed", ctypes.c_uint64), ("blocks_race", ctypes.c_int),
    ]  # fmt: skip


class Emulator:
    """A GPU (see ``minidl.kernels.cuda.launch.Gpu``) whose arrays are NumPy's.

    Args:
        schedule: in which order blocks, warps and lanes run: forward, reverse or random.
        sanitize: for g++'s -fsanitize=; the sanitizer's library must be preloaded (see ``sanitized.py``).
        options: macros for every file, such as the name of a planted bug.
        blocks_race: let TSan look for races between blocks.
    """

    name = "emu"
    xp = np
    capability = 90
    threads = 256
    multiprocessors = 2                              # few blocks: the grid-stride loops go round more than once
    device = stream = 0
    ever_launched: set[tuple[str, str, str]] = set()  # file, kernel and VALUE=type, of all emulators of the process

    def __init__(self, schedule: str = "forward", sanitize: str = "", options: tuple[str, ...] = (), blocks_race: bool = False,
                 folder: Path = KERNELS, seed: int = 1):  # fmt: skip
        self.schedule, self.sanitize, self.options, self.seed = schedule, sanitize, options, seed
        self.blocks_race, self.folder = blocks_race, folder
        self.launched: set[str] = set()              # names of kernels that ran
        self.blas = Blas()

    def function(self, file: str, entry: str, defines: tuple[str, ...]):
        self.ever_launched.add((file, entry, defines[0]))
        library = load(self.folder / file, (*defines, *self.options), self.sanitize)
        return functools.partial(self._call, library, entry)

    def address(self, array):
        return array.ctypes.data

    def scratch(self, size):
        memory = np.empty(size + 256, np.uint8)      # as aligned as a GPU's
        return memory[-memory.ctypes.data % 256 :][:size]

    def _call(self, library, entry, grid, block, arguments, *, shared_mem=0, stream=None):
        self.launched.add(entry)
        pointers, keep = _pack(entry, _signature(library, entry), arguments)
        three = ctypes.c_uint * 3
        launch = _Launch(three(*(*grid, 1, 1)[:3]), three(*(*block, 1, 1)[:3]), shared_mem, SCHEDULES[self.schedule], self.seed,
                         self.blocks_race)  # fmt: skip
        run = getattr(library, f"emulator_launch_{entry}")
        run.restype = ctypes.c_char_p
        error = run(ctypes.byref(launch), pointers)
        del keep
        if error:
            raise EmulatorError(f"{entry}: {error.decode()}")


def _signature(library, entry):
    tell = getattr(library, f"emulator_signature_{entry}")
    tell.restype = ctypes.c_char_p
    return tell().decode().split()


def _pack(entry, signature, arguments):
    """An array of pointers to the arguments, and what has to stay alive behind it."""
    if len(arguments) != len(signature):
        raise TypeError(f"{entry}: {len(arguments)} arguments, the kernel takes {len(signature)}")
    pointers, keep = (ctypes.c_void_p * len(arguments))(), []
    for i, (value, code) in enumerate(zip(arguments, signature, strict=True)):
        pointer = code[0] in "PC"
        if pointer and isinstance(value, np.ndarray):
            letters = value.dtype.str[1:] if value.dtype.name != "bfloat16" else "u2"
            if letters != code[1:] or not value.flags.c_contiguous:
                found = f"{letters}, strides {value.strides}"
                raise TypeError(f"{entry} argument {i}: the kernel wants contiguous {code[1:]}, got {found}")
            cell = ctypes.c_void_p(value.ctypes.data)
            keep += [cell, value]
            pointers[i] = ctypes.addressof(cell)
        elif isinstance(value, np.generic) and value.dtype.str[1:] == ("u8" if pointer else code) and not (pointer and value):
            cell = np.array(value)                   # a number, or a null pointer
            keep.append(cell)
            pointers[i] = cell.ctypes.data
        else:
            raise TypeError(f"{entry} argument {i}: the kernel wants {code}, got {value!r} ({type(value).__name__})")
    return pointers, keep


def _cache() -> Path:
    return Path(os.environ.get("MINIDL_EMULATOR_CACHE") or Path(tempfile.gettempdir()) / f"minidl-emulator-{os.getuid()}")


@functools.cache
def load(path: Path, defines: tuple[str, ...], sanitize: str = ""):
    """The shared library with the kernels of a .cu file; compiled if it is not in the cache."""
    if COMPILER is None:
        raise EmulatorError("g++ is not installed; the CUDA emulator compiles kernels with it")
    text = path.read_text(encoding="utf-8")
    included = "".join(f.read_text(encoding="utf-8") for folder in (INCLUDE, path.parent, KERNELS)
                       for f in sorted(folder.rglob("*.*h")) if f.suffix in (".h", ".cuh"))  # fmt: skip
    names = [name for name, _ in source._ENTRY.findall(text)]
    exports = "".join(f"EMULATOR_EXPORT({name})\n" for name in names)
    flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-w", "-fno-strict-aliasing", f"-I{INCLUDE}", f"-I{KERNELS}",
             *(f"-D{d}" for d in defines)]  # fmt: skip
    if sanitize:
        flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    key = hashlib.sha256("\0".join((text, included, exports, *flags)).encode()).hexdigest()[:24]
    cache = _cache()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    library = cache / f"{path.stem}-{key}.so"
    if not library.exists():
        # The anonymous namespace keeps the kernels of two libraries apart.
        unit = f'#include "emulator.h"\nnamespace {{\n#line 1 "{path}"\n{text}\n}}\n{exports}'
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "unit.so"
            command = [COMPILER, *flags, "-x", "c++", "-", "-o", str(made)]
            # A sanitizer that this process runs under would slow the compiler down tenfold.
            environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
            result = subprocess.run(command, input=unit, text=True, capture_output=True, env=environment)
            if result.returncode:
                raise EmulatorError(f"{path.name}: g++ refuses it under {' '.join(defines)}:\n{result.stderr[:4000]}")
            os.replace(made, library)
    return ctypes.CDLL(str(library))
