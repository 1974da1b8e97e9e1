"""The stack machine of pickles, reduced to what cannot run code.

A pickle is a program for a small stack machine; two of its instructions import any object by name and call it, which
is how a hostile file runs commands.  Instead of restricting Python's machine, this module *is* a smaller one: it takes
the instructions one by one from the standard library's disassembler and itself builds numbers, strings, bytes, lists,
tuples and dictionaries only.  What a name, a call or a state means is left to a subclass (:mod:`minidl.data.pickles`,
:mod:`minidl.io.torch_pickle`), which looks names up in a table of its own and never imports anything.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING SHORT_BINBYTES BINBYTES "
    "BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MARK = object()

# What the disassembler or the machine trips over in a damaged program; callers turn them into their own error.
DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError, RecursionError)


class Refused(Exception):
    """The pickle asks for something that plain data never needs; the message completes "it holds ..."."""


class Machine:
    """A stack of values, marks on it, and a memo of values to use again.

    A subclass overrides :meth:`name`, :meth:`call`, :meth:`build`, ...; as they stand they refuse everything.
    """

    #: Instructions that only some formats use; the others are refused.
    extra: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, budget: int) -> None:
        """``budget``: how much :meth:`charge` allows in all, lest a few instructions copy one long value again and again."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = budget

    # ---- what a subclass decides

    def name(self, module: str, name: str) -> Any:
        """The stand-in of the object ``module.name``."""
        raise Refused(f"a call of {f'{module}.{name}'[:80]!r}")

    def call(self, function: Any, arguments: Any) -> Any:
        """What calling the stand-in ``function`` gives."""
        raise Refused("a call")

    def instance(self, cls: Any, arguments: Any) -> Any:
        """A new object of the stand-in ``cls``."""
        raise Refused("an object")

    def build(self, target: Any, state: Any) -> None:
        """Give ``target`` its state."""
        raise Refused(f"a state for a {type(target).__name__}")

    def persistent(self, identity: Any) -> Any:
        """The object that is stored outside of the pickle under ``identity``."""
        raise Refused("a reference to something outside of it")

    def key(self, key: Any) -> Any:
        """A dictionary's key.  Only what hashes in constant time may pass: nested tuples can be made to hash for ever."""
        if type(key) not in (str, bytes, int):
            raise Refused(f"a dictionary key of type {type(key).__name__}")
        return key.decode("latin-1") if isinstance(key, bytes) else key

    # ---- the machine

    def run(self, program: Any) -> Any:
        """The value that ``program`` (bytes, or an open file, left behind the end of the pickle) describes.

        Raises:
            Refused: an instruction, name or call that is not for data.
            DAMAGE: one of these exceptions, for a program that makes no sense.
        """
        self.stack, self.memo = [], {}
        stack, memo, steps = self.stack, self.memo, self._steps()
        argument: Any
        for opcode, argument, position in pickletools.genops(program):
            name = opcode.name
            if name in _CONSTANTS:
                stack.append(argument)
            elif name in _PUT:
                memo[argument] = stack[-1]
            elif name in _GET:
                stack.append(memo[argument])
            elif name in steps:
                steps[name](argument)
            elif name == "STOP":
                (value,) = stack
                if value is _MARK:
                    raise ValueError("a mark where a value was expected")
                return value
            else:
                raise Refused(f"the instruction {name} at byte {position}, which plain data does not need")
        raise ValueError("no STOP at the end")

    def _steps(self) -> Mapping[str, Callable[[Any], None]]:
        steps: dict[str, Callable[[Any], None]] = {
            "PROTO": self._proto,
            "FRAME": lambda _: None,  # only groups instructions for faster reading
            "MARK": lambda _: self.stack.append(_MARK),
            "POP": lambda _: self.stack.pop(),
            "MEMOIZE": self._memoize,
            "NONE": lambda _: self.stack.append(None),
            "NEWTRUE": lambda _: self.stack.append(True),
            "NEWFALSE": lambda _: self.stack.append(False),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "LIST": lambda _: self.stack.append(self._pop_mark()),
            "TUPLE": lambda _: self.stack.append(tuple(self._pop_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "APPEND": lambda _: self._extend([self.stack.pop()]),
            "APPENDS": lambda _: self._extend(self._pop_mark()),
            "DICT": self._dict,
            "SETITEM": self._setitem,
            "SETITEMS": lambda _: self._update(self._pop_mark()),
            "GLOBAL": lambda argument: self._global(*argument.split(" ", 1)),
            "STACK_GLOBAL": self._stack_global,
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "NEWOBJ": self._newobj,
            "BINPERSID": lambda _: self.stack.append(self.persistent(self.stack.pop())),
            # Sets become lists: their elements must not be hashed.
            "EMPTY_SET": lambda _: self.stack.append([]),
            "ADDITEMS": lambda _: self._extend(self._pop_mark()),
            "FROZENSET": lambda _: self.stack.append(self._pop_mark()),
        }
        optional = {"POP", "NEWOBJ", "BINPERSID", "EMPTY_SET", "ADDITEMS", "FROZENSET"}
        return {name: step for name, step in steps.items() if name not in optional or name in self.extra}

    def latin1(self, text: str) -> bytes:
        """The bytes that Python 2 wrote, within the budget of copies."""
        self.charge(len(text))
        return text.encode("latin-1")

    def charge(self, size: int) -> None:
        """Note that a call copies ``size`` bytes or elements."""
        self.budget -= size
        if self.budget < 0:
            raise Refused("one value copied again and again")

    def _pop_mark(self) -> list[Any]:
        """Everything above the topmost mark."""
        stack = self.stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            if at <= 0:
                raise ValueError("no mark on the stack")
            at -= 1
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"protocol {version}, newer than 5")

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) < size:
            raise IndexError("a tuple of more values than there are")
        del self.stack[-size:]
        self.stack.append(items)

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items appended to something that is not a list")
        self.stack[-1].extend(items)

    def _setitem(self, _: None) -> None:
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def _dict(self, _: None) -> None:
        items = self._pop_mark()
        self.stack.append({})
        self._update(items)

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise ValueError("keys and values that do not make a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][self.key(key)] = value

    def _global(self, module: str, name: str) -> None:
        self.stack.append(self.name(module, name))

    def _stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name that is not a text")
        self._global(module, name)

    def _reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments))

    def _newobj(self, _: None) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.stack.append(self.instance(cls, arguments))

    def _build(self, _: None) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)
