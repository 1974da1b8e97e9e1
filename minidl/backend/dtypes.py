"""The dtypes, under PyTorch's names: NumPy's own dtype objects.

bfloat16 is the one that NumPy lacks: a float32 with 7 of its 23 bits of mantissa.  The package ml_dtypes lends it, and is
imported when ``minidl.bfloat16`` is first asked for.  To NumPy such a dtype is of kind "V", as bytes without a meaning would be;
no other dtype of that kind becomes a tensor, so "fV" are the kinds of floating point here.
"""
from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.errors import DTypeError

float16 = half = np.dtype("float16")
float32 = float = np.dtype("float32")
float64 = double = np.dtype("float64")
int8 = np.dtype("int8")
int16 = np.dtype("int16")
int32 = np.dtype("int32")
int64 = long = np.dtype("int64")
uint8 = np.dtype("uint8")
bool = np.dtype("bool")

_bfloat16: list[np.dtype] = []                       # once it was asked for
_waiting: list[Callable[[], None]] = []              # what is to be done then


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        return load_bfloat16()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_bfloat16() -> np.dtype:
    """The dtype bfloat16.

    Raises:
        DTypeError: ml_dtypes is not installed.
    """
    if not _bfloat16:
        try:
            import ml_dtypes
        except ImportError:
            raise DTypeError("bfloat16: NumPy has no such dtype, and ml_dtypes, which lends it, is not installed; "
                             "pip install ml_dtypes (or 'minidl[bfloat16]')") from None
        _bfloat16.append(np.dtype(ml_dtypes.bfloat16))
        while _waiting:
            _waiting.pop()()
    return _bfloat16[0]


def when_bfloat16_is_used(prepare: Callable[[], None]) -> None:
    """Call ``prepare`` before the first tensor of bfloat16 is made; at once if there may be some."""
    if _bfloat16:
        prepare()
    else:
        _waiting.append(prepare)


def dtype_of(name: Any) -> np.dtype | None:
    """The dtype that ``name`` names (a string, a dtype, a type), None if it is none that a tensor can have.

    Raises:
        DTypeError: it is bfloat16, and ml_dtypes is not installed.
    """
    try:
        found = load_bfloat16() if isinstance(name, str) and name == "bfloat16" else np.dtype(name)
    except TypeError as error:
        if isinstance(error, DTypeError):
            raise
        return None
    return found if is_known(found) else None


def is_known(dtype: np.dtype) -> builtins.bool:
    """Whether a tensor can have this dtype."""
    if dtype.kind == "V" and dtype.name == "bfloat16":
        load_bfloat16()                              # somebody else's array may be the first
        return True
    return dtype.kind in "biuf"


def is_16_bit(dtype: np.dtype) -> builtins.bool:
    """Whether it is float16 or bfloat16, which are added up in float32."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def widest(a: np.dtype, b: np.dtype) -> np.dtype:
    """The floating-point dtype that holds the numbers of both: float32 for float16 and bfloat16."""
    if a != b and a.itemsize == b.itemsize == 2:
        return float32
    return a if a.itemsize >= b.itemsize else b
