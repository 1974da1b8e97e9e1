"""A reader of pickles that cannot run code.

A pickle is a program for a small stack machine; two of its instructions import any object by name and call it, which
is how a hostile file runs commands.  The original CIFAR batches are pickles of Python 2.  Instead of restricting
Python's machine, this module *is* a smaller one: it takes the instructions one by one from the standard library's
disassembler and knows only those that build numbers, strings, bytes, lists, tuples and dictionaries.  Names are looked
up in a table of five, and even NumPy's own constructors are replaced by stand-ins that write down what they are told;
an array is made at the end, from checked parts.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.errors import DataError

# "numpy.core" became "numpy._core" in NumPy 2; Python 3 writes bytes for Python 2 readers through _codecs.encode.
_NAMES = {
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_MARK = object()


class _Name:
    """A name the pickle imported, one of the values of ``_NAMES``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Dtype:
    """What the pickle said about a dtype; only bytes (uint8, int8) have no order or fields to get wrong."""

    def __init__(self, code: object) -> None:
        if code not in ("u1", "i1", b"u1", b"i1"):
            raise DataError(f"an array of dtype {str(code)[:20]!r}; expected uint8 ('u1')")
        self.code = code if isinstance(code, str) else code.decode()  # type: ignore[attr-defined]


class _Array:
    """What the pickle said about an array."""

    array: np.ndarray[Any, Any] | None = None

    def build(self, state: object, latin1: Callable[[str], bytes]) -> None:
        match state:
            case (int(), tuple(shape), _Dtype(code=code), (bool() | int()) as fortran, (str() | bytes()) as raw):
                pass
            case _:
                raise DataError("an array whose parts are not (version, shape, dtype, order, bytes)")
        if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise DataError("an array whose shape is not a short tuple of sizes")
        data = latin1(raw) if isinstance(raw, str) else raw
        if math.prod(shape) != len(data):
            raise DataError(f"an array of shape {shape} with {len(data):,} bytes of data")
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
        return _plain(_Machine().run(data))
    except DataError as error:
        raise DataError(
            f"{source}: not a plain data pickle: it holds {error}. The file is damaged or was made to do harm; "
            "get it again from the official address."
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        # Whatever the disassembler or the machine trips over in a damaged program.
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
            raise DataError("an array that was never filled")
        return value.array
    if isinstance(value, _Name | _Dtype) or value is _MARK:
        raise DataError("a bare constructor where a value was expected")
    return value


class _Machine:
    """The stack machine: a stack of values, marks on it, and a memo of values to use again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = 0

    def run(self, data: bytes) -> Any:
        self.budget = 4 * len(data)  # a few instructions could otherwise copy one long text until memory is full
        argument: Any
        for opcode, argument, position in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                (value,) = self.stack
                return value
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
                self.stack.append(argument)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            else:
                step = getattr(self, f"do_{name.lower()}", None)
                if step is None:
                    raise DataError(f"the instruction {name} at byte {position}, which plain data does not need")
                step(argument)
        raise ValueError("no STOP at the end")

    def latin1(self, text: str) -> bytes:
        """The bytes that Python 2 wrote, within the budget of copies."""
        self.budget -= len(text)
        if self.budget < 0:
            raise DataError("one text copied again and again")
        return text.encode("latin-1")

    def pop_mark(self) -> list[Any]:
        """Everything above the topmost mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            if at == 0:
                raise ValueError("no mark on the stack")
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def name(self, name: str) -> None:
        if name not in _NAMES:
            raise DataError(f"a call of {name[:80].replace(' ', '.')!r}")
        self.stack.append(_Name(_NAMES[name]))

    def do_proto(self, argument: int) -> None:
        if argument > 5:
            raise ValueError(f"protocol {argument}, newer than 5")

    def do_frame(self, argument: int) -> None:
        """A frame only groups instructions for faster reading."""

    def do_memoize(self, argument: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_mark(self, argument: None) -> None:
        self.stack.append(_MARK)

    def do_none(self, argument: None) -> None:
        self.stack.append(None)

    def do_newtrue(self, argument: None) -> None:
        self.stack.append(True)

    def do_newfalse(self, argument: None) -> None:
        self.stack.append(False)

    def do_empty_list(self, argument: None) -> None:
        self.stack.append([])

    def do_empty_dict(self, argument: None) -> None:
        self.stack.append({})

    def do_empty_tuple(self, argument: None) -> None:
        self.stack.append(())

    def do_list(self, argument: None) -> None:
        self.stack.append(self.pop_mark())

    def do_tuple(self, argument: None) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def do_tuple1(self, argument: None) -> None:
        self.stack.append((self.stack.pop(),))

    def do_tuple2(self, argument: None) -> None:
        last = self.stack.pop()
        self.stack.append((self.stack.pop(), last))

    def do_tuple3(self, argument: None) -> None:
        last, middle = self.stack.pop(), self.stack.pop()
        self.stack.append((self.stack.pop(), middle, last))

    def do_append(self, argument: None) -> None:
        item = self.stack.pop()
        self.extend([item])

    def do_appends(self, argument: None) -> None:
        self.extend(self.pop_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items appended to something that is not a list")
        self.stack[-1].extend(items)

    def do_setitem(self, argument: None) -> None:
        value = self.stack.pop()
        self.update([self.stack.pop(), value])

    def do_setitems(self, argument: None) -> None:
        self.update(self.pop_mark())

    def do_dict(self, argument: None) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.update(items)

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise ValueError("keys and values that do not make a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only keys that hash in constant time: nested tuples can be made to hash for ever.
            if type(key) not in (str, bytes, int):
                raise DataError(f"a dictionary key of type {type(key).__name__}")
            self.stack[-1][key.decode("latin-1") if isinstance(key, bytes) else key] = value

    def do_global(self, argument: str) -> None:
        self.name(argument)

    def do_stack_global(self, argument: None) -> None:
        attribute = self.stack.pop()
        self.name(f"{self.stack.pop()} {attribute}")

    def do_reduce(self, argument: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        match getattr(function, "kind", None), arguments:
            case "reconstruct", (_Name(kind="ndarray"), _, _):
                self.stack.append(_Array())
            case "dtype", (code, _, _):
                self.stack.append(_Dtype(code))
            case "encode", (str(text), "latin1" | "latin-1"):
                self.stack.append(self.latin1(text))
            case _:
                raise DataError("a call of something other than an array's constructor")

    def do_build(self, argument: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            target.build(state, self.latin1)
        elif not isinstance(target, _Dtype):  # a one-byte dtype's state says nothing that matters
            raise DataError(f"a state for a {type(target).__name__}")
