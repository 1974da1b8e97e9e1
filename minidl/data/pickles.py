"""A reader of pickles that cannot run code, for the original CIFAR batches, which are pickles of Python 2.

Names are looked up in a table of five (see :mod:`minidl.pickles` for the machine), and even NumPy's own constructors
are replaced by stand-ins that write down what they are told; an array is made at the end, from checked parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.errors import DataError
from minidl.pickles import DAMAGE, Machine, Refused

# "numpy.core" became "numpy._core" in NumPy 2; Python 3 writes bytes for Python 2 readers through _codecs.encode.
_NAMES = {
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}


class _Name:
    """A name the pickle imported, one of the values of ``_NAMES``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Dtype:
    """What the pickle said about a dtype; only bytes (uint8, int8) have no order or fields to get wrong."""

    def __init__(self, code: object) -> None:
        if code not in ("u1", "i1", b"u1", b"i1"):
            raise Refused(f"an array of dtype {str(code)[:20]!r}; expected uint8 ('u1')")
        self.code = code if isinstance(code, str) else code.decode()  # type: ignore[attr-defined]


class _Array:
    """What the pickle said about an array."""

    array: np.ndarray[Any, Any] | None = None

    def build(self, state: object, latin1: Callable[[str], bytes]) -> None:
        match state:
            case (int(), tuple(shape), _Dtype(code=code), (bool() | int()) as fortran, (str() | bytes()) as raw):
                pass
            case _:
                raise Refused("an array whose parts are not (version, shape, dtype, order, bytes)")
        if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise Refused("an array whose shape is not a short tuple of sizes")
        data = latin1(raw) if isinstance(raw, str) else raw
        if math.prod(shape) != len(data):
            raise Refused(f"an array of shape {shape} with {len(data):,} bytes of data")
        self.array = np.frombuffer(data, code).reshape(shape, order="F" if fortran else "C")


def loads(data: bytes, source: str) -> Any:
    """The value that the pickle ``data`` describes, text as str (Python 2's strings through latin-1).

    Args:
        data: the whole pickle.
        source: what an error calls it: a file's path.

    Raises:
        DataError: a truncated or corrupt pickle, or one that asks for anything but plain values and uint8 arrays.
    """
    try:
        # 4: a few instructions could otherwise copy one long text until memory is full
        return _plain(_Reader(budget=4 * len(data)).run(data))
    except Refused as error:
        raise DataError(
            f"{source}: not a plain data pickle: it holds {error}. The file is damaged or was made to do harm; "
            "get it again from the official address."
        ) from None
    except DAMAGE as error:
        raise DataError(
            f"{source}: a damaged pickle ({type(error).__name__}: {str(error)[:100]}); expected a complete Python "
            "pickle. The file is truncated or corrupt; download it again."
        ) from None


def _plain(value: Any) -> Any:
    """Replace the recorded arrays by arrays, in the two levels that the data files have."""
    if isinstance(value, dict):
        return {key: _plain_leaf(item) for key, item in value.items()}
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise Refused("an array that was never filled")
        return value.array
    if isinstance(value, _Name | _Dtype):
        raise Refused("a bare constructor where a value was expected")
    return value


class _Reader(Machine):
    """The machine, with NumPy's constructors of arrays of bytes."""

    def name(self, module: str, name: str) -> Any:
        kind = _NAMES.get(f"{module} {name}")
        return super().name(module, name) if kind is None else _Name(kind)

    def call(self, function: Any, arguments: Any) -> Any:
        match getattr(function, "kind", None), arguments:
            case "reconstruct", (_Name(kind="ndarray"), _, _):
                return _Array()
            case "dtype", (code, _, _):
                return _Dtype(code)
            case "encode", (str(text), "latin1" | "latin-1"):
                return self.latin1(text)
            case _:
                raise Refused("a call of something other than an array's constructor")

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, _Array):
            target.build(state, self.latin1)
        elif not isinstance(target, _Dtype):  # a one-byte dtype's state says nothing that matters
            super().build(target, state)
