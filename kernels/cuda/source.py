"""The .cu files as text: what they include, and the kernels in them with the types of their parameters.

The types are read from the source, so that a launch converts each Python number to exactly what the kernel takes: CuPy
sends a NumPy scalar's bytes as they are, and a number of the wrong size is silently read together with its neighbour.
"""
import functools
import importlib.resources
import re
from typing import NamedTuple

import numpy as np

from minidl.errors import ConfigError

# NumPy's name of a dtype -> (type of the arrays, type that is computed in), as -DVALUE= and -DACCUMULATE=.
DTYPES = {
    "float32": ("float", "float"),
    "float64": ("double", "double"),
    "float16": ("__half", "float"),
    "bfloat16": ("__nv_bfloat16", "float"),
}
# Files that are made for some dtypes only, and the first architecture that has their instructions.
SOME_ONLY = {
    "conv_mma.cu": (("float16", "bfloat16", "float32"), 80),
    "conv_wide.cu": (("float16", "bfloat16", "float32"), 80),
    "conv_fma.cu": (("float32",), 80),
}

_NUMBERS: dict[str, np.dtype] = {
    "int": np.dtype(np.int32), "unsigned": np.dtype(np.uint32), "Index": np.dtype(np.int64),
    "float": np.dtype(np.float32), "double": np.dtype(np.float64), "unsigned long long": np.dtype(np.uint64),
    "unsigned char": np.dtype(np.uint8), "bool": np.dtype(np.bool_),
}  # fmt: skip
_ENTRY = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')
_PARAMETER = re.compile(r"(?P<const>const )?(?P<type>[\w ]+?)\s*(?P<pointer>\*)?\s*(?:__restrict__\s+)?(?P<name>\w+)$")
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"', re.MULTILINE)


class Parameter(NamedTuple):
    """One parameter of a kernel; ``type`` is as written: float, int, Index, T (of the arrays) or A (computed in)."""

    name: str
    type: str
    pointer: bool
    const: bool

    def dtype(self, values: str) -> np.dtype | str:
        """What NumPy calls its type where T is the dtype named ``values``."""
        if self.type == "T":
            return values if values == "bfloat16" else np.dtype(values)
        number: np.dtype = _NUMBERS[DTYPES[values][1] if self.type == "A" else self.type]
        return number


@functools.cache
def read(name: str) -> str:
    """The text of a file of this folder."""
    return importlib.resources.files("minidl.kernels.cuda").joinpath(name).read_text(encoding="utf-8")


def files() -> list[str]:
    """The names of all .cu files."""
    return sorted(f.name for f in importlib.resources.files("minidl.kernels.cuda").iterdir() if f.name.endswith(".cu"))


@functools.cache
def headers(name: str) -> dict[str, str]:
    """The .cuh files that ``name`` includes, directly or not."""
    found: dict[str, str] = {}
    for header in _INCLUDE.findall(read(name)):
        found[header] = read(header)
        found.update(headers(header))
    return found


@functools.cache
def entries(name: str) -> dict[str, tuple[Parameter, ...]]:
    """The kernels of a file, with their parameters.

    Raises:
        ConfigError: a parameter's type is none that a launch could convert to.
    """
    found = {}
    for kernel, parameters in _ENTRY.findall(read(name)):
        found[kernel] = tuple(_parameter(name, kernel, " ".join(p.split())) for p in parameters.split(","))
    return found


def _parameter(file: str, kernel: str, text: str) -> Parameter:
    match = _PARAMETER.match(text)
    if match is None or match["type"] not in (*_NUMBERS, "T", "A"):
        raise ConfigError(f"{file}: kernel {kernel}: cannot read the type of {text!r}; known: T, A, {', '.join(_NUMBERS)}")
    return Parameter(match["name"], match["type"], match["pointer"] is not None, match["const"] is not None)


def made_for(name: str, dtype: str, capability: int) -> bool:
    """Whether a file is compiled for arrays of ``dtype`` and a GPU of this compute capability (80: sm_80)."""
    dtypes, first = SOME_ONLY.get(name, (tuple(DTYPES), 0))
    return dtype in dtypes and capability >= first


def defines(dtype: str) -> tuple[str, ...]:
    """The macros under which a file is compiled for arrays of ``dtype``.

    Raises:
        ConfigError: no kernel is made for this dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"no CUDA kernel takes {dtype}; they take {', '.join(DTYPES)}")
    values, computed = DTYPES[dtype]
    half = () if values == computed else ("MINIDL_HALF=1",)
    return (f"VALUE={values}", f"ACCUMULATE={computed}", *half)
