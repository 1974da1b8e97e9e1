"""A small language for kernels: Python that writes LLVM IR.

A :class:`Kernel` is one machine-code function under construction.  Python runs once, when the kernel is built; what it does
to *values* (integers, pointers, vectors) becomes instructions.  So a Python ``for`` unrolls, a Python ``if`` chooses between
two kernels, and loops and branches of the kernel itself are spelled with the methods below::

    k = Kernel("axpy", width=16)                  # y = a * x + y for n floats, n a multiple of 16
    a, x, y = k.pointer("a", 1), *k.pointers("x", "y", size=["n"])
    n = k.integer("n")
    factor = k.broadcast(a)
    with k.parallel(n // 16) as i:                # this thread's share of 0 .. n/16-1
        at = 64 * i                               # pointers count bytes
        k.store(k.fma(factor, k.load(x + at), k.load(y + at)), y + at)

**Values.**  :class:`Int` is a 64-bit integer, :class:`Pointer` an address that counts bytes, :class:`Vector` holds ``width``
numbers of one element type (float unless said otherwise), :class:`Bool` and :class:`Mask` are the results of comparing
integers and vectors.  A Python int may stand wherever an Int may, and arithmetic on Python ints is done in Python.  ``//`` and
``%`` are for numbers that are not negative.

**Loops.**  ``with k.loop(low, high, step) as i`` is a ``for``.  :meth:`Kernel.carry` is a loop whose state lives in registers:
that is where accumulators belong.  ``with k.when(condition)`` is an ``if``.

**Mistakes** are found here, in Python, at the line that makes them: operands of the wrong kind are a TypeError, a value used
outside the loop or branch that computed it, or in another kernel, is a ValueError.  LLVM would report the line of IR.

**Calling.**  Every kernel is compiled to ``void name(i64 *arguments, i64 thread, i64 threads)``: the parameters, pointers and
integers alike, are the slots of one array, in the order in which they were declared.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

ELEMENTS = {"float": 4, "double": 8, "i32": 4, "i64": 8}   # element types of vectors and their sizes in bytes


class Value:
    """Something the kernel computes; made by a Kernel, never directly."""

    __slots__ = ("kernel", "name", "type", "scope")

    def __init__(self, kernel: Kernel, name: str, type: str):
        self.kernel, self.name, self.type, self.scope = kernel, name, type, kernel._scopes[-1]

    def __bool__(self) -> bool:
        raise TypeError(f"a {type(self).__name__} is only known when the kernel runs; use when(), select() or loop()")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type} {self.name}>"


class Bool(Value):
    """A truth value: the result of comparing integers."""

    __slots__ = ()

    def __and__(self, other: Bool) -> Bool:
        return self.kernel._binary("and", self, _of(Bool, other, "&"), Bool)

    def __or__(self, other: Bool) -> Bool:
        return self.kernel._binary("or", self, _of(Bool, other, "|"), Bool)


class Mask(Value):
    """A truth value per lane of a vector."""

    __slots__ = ()

    def __and__(self, other: Mask) -> Mask:
        return self.kernel._binary("and", self, _of(Mask, other, "&"), Mask)

    def __or__(self, other: Mask) -> Mask:
        return self.kernel._binary("or", self, _of(Mask, other, "|"), Mask)


class Int(Value):
    """A signed 64-bit integer."""

    __slots__ = ()

    def __add__(self, other: Number) -> Int:
        return self if _is(other, 0) else self.kernel._integers("add nsw", self, other, "+")

    def __sub__(self, other: Number) -> Int:
        return self if _is(other, 0) else self.kernel._integers("sub nsw", self, other, "-")

    def __rsub__(self, other: Number) -> Int:
        return self.kernel._integers("sub nsw", other, self, "-")

    def __mul__(self, other: Number) -> Int:
        return self if _is(other, 1) else self.kernel._integers("mul nsw", self, other, "*")

    def __floordiv__(self, other: Number) -> Int:
        return self if _is(other, 1) else self.kernel._integers("udiv", self, other, "//")

    def __mod__(self, other: Number) -> Int:
        return self.kernel._integers("urem", self, other, "%")

    __radd__ = __add__
    __rmul__ = __mul__

    def __lt__(self, other: Number) -> Bool:
        return self.kernel._compare("slt", self, other)

    def __le__(self, other: Number) -> Bool:
        return self.kernel._compare("sle", self, other)

    def __gt__(self, other: Number) -> Bool:
        return self.kernel._compare("sgt", self, other)

    def __ge__(self, other: Number) -> Bool:
        return self.kernel._compare("sge", self, other)

    def equals(self, other: Number) -> Bool:
        """``==``, which Python needs for itself."""
        return self.kernel._compare("eq", self, other)


class Pointer(Value):
    """An address.  Adding an integer moves it by so many bytes."""

    __slots__ = ()

    def __add__(self, offset: Number) -> Pointer:
        if _is(offset, 0):
            return self
        distance = self.kernel._operand(offset, "pointer +")
        return self.kernel._make(Pointer, "ptr", f"getelementptr i8, ptr {self.kernel._use(self)}, i64 {distance}")

    __radd__ = __add__


class Vector(Value):
    """``width`` numbers of one element type; arithmetic is lane by lane."""

    __slots__ = ("element",)

    def __init__(self, kernel: Kernel, name: str, element: str):
        super().__init__(kernel, name, f"<{kernel.width} x {element}>")
        self.element = element

    def __add__(self, other: Vector) -> Vector:
        return self.kernel._arithmetic("add", self, other)

    def __sub__(self, other: Vector) -> Vector:
        return self.kernel._arithmetic("sub", self, other)

    def __mul__(self, other: Vector) -> Vector:
        return self.kernel._arithmetic("mul", self, other)

    def __truediv__(self, other: Vector) -> Vector:
        return self.kernel._arithmetic("div", self, other)

    def __and__(self, other: Vector) -> Vector:
        return self.kernel._arithmetic("and", self, other)

    def __xor__(self, other: Vector) -> Vector:
        return self.kernel._arithmetic("xor", self, other)

    def __rshift__(self, bits: int) -> Vector:
        """Of integers: divided by 2^bits and rounded down."""
        return self.kernel._arithmetic("ashr", self, self.kernel.constant(bits, self.element))

    def __gt__(self, other: Vector) -> Mask:
        return self.kernel._lanes("ogt", "sgt", self, other)

    def unordered(self) -> Mask:
        """Where a lane is NaN."""
        return self.kernel._lanes("uno", "", self, self)

    def equals(self, other: Vector) -> Mask:
        """Where two lanes are equal; NaN equals nothing."""
        return self.kernel._lanes("oeq", "eq", self, other)


Number = Int | int
Size = str | int | Callable[[dict[str, int]], int]
V = TypeVar("V", bound=Value)
State = TypeVar("State", bound=Sequence[Any])


def _is(value: Number, number: int) -> bool:
    return type(value) is int and value == number


def _of(kind: type[V], value: Any, operation: str) -> V:
    if not isinstance(value, kind):
        raise TypeError(f"{operation}: expected a {kind.__name__}, found {value!r}")
    return value


class Kernel:
    """A function being written.

    Args:
        name: its symbol.
        width: lanes of a vector: 16 floats for AVX-512, 8 for AVX2, 4 for 128-bit registers.
    """

    def __init__(self, name: str, width: int):
        if width < 1:
            raise ValueError(f"kernel {name}: width must be at least 1, got {width}")
        self.name, self.width = name, width
        self.bytes = 4 * width                       # of a vector of floats
        self.parameters: list[str] = []
        self.sizes: dict[str, tuple[Sequence[Size], str]] = {}   # of the pointers: factors of the size, and the element type
        self._count = 0
        self._lines: list[str] = []
        self._stack: list[str] = []                  # allocas belong in the entry block
        self._declarations: dict[str, str] = {}
        self._scopes = [0]                           # the open loops and branches, outermost first
        self._block = "start"                        # the label that instructions now land under
        self.thread, self.threads = Int(self, "%thread", "i64"), Int(self, "%threads", "i64")

    # ------------------------------------------------------------------------------------------------------- parameters
    def pointer(self, name: str, *size: Size, element: str = "float") -> Pointer:
        """Declare a parameter that is the address of at least ``size`` elements.

        ``size`` are factors: names of integer parameters, numbers, or functions of the dict of all integer parameters.
        Whoever launches the kernel checks it (launch.py); no size, no check.
        """
        self.sizes[name] = (size, self._element(element))
        return self._parameter(Pointer, "ptr", name)

    def pointers(self, *names: str, size: Sequence[Size] = (), element: str = "float") -> list[Pointer]:
        """Declare several of one size."""
        return [self.pointer(name, *size, element=element) for name in names]

    def integer(self, name: str) -> Int:
        """Declare a parameter that is an integer."""
        return self._parameter(Int, "i64", name)

    def integers(self, *names: str) -> list[Int]:
        """Declare several."""
        return [self.integer(name) for name in names]

    def _parameter(self, kind: type[V], type: str, name: str) -> V:
        if name in self.parameters:
            raise ValueError(f"kernel {self.name}: two parameters are called {name!r}")
        if len(self._scopes) > 1:
            raise ValueError(f"kernel {self.name}: declare parameter {name!r} before any loop or branch")
        slot = self._temporary()
        self._line(f"{slot} = getelementptr i64, ptr %arguments, i64 {len(self.parameters)}")
        self.parameters.append(name)
        return self._make(kind, type, f"load {type}, ptr {slot}")

    # --------------------------------------------------------------------------------------------------------- integers
    def same(self, number: int) -> Int:
        """A Python int as an Int, where only that will do."""
        return Int(self, str(int(number)), "i64")

    def minimum(self, a: Number, b: Number) -> Int:
        """The smaller of two integers."""
        return self.select(self._compare("slt", a, b), a, b)

    def maximum(self, a: Number, b: Number) -> Int:
        """The larger of two integers."""
        return self.select(self._compare("sgt", a, b), a, b)

    def ceil_div(self, a: Any, b: Any) -> Any:
        """a / b rounded up, for numbers that are not negative; a Python int if both are."""
        return (a + (b - 1)) // b

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        """a where ``condition`` (a Bool, or for vectors a Mask) holds, else b."""
        if isinstance(condition, Mask):
            a, b = _of(Vector, a, "select"), _of(Vector, b, "select")
            self._same(a, b, "select")
            return self._vector(a.element, f"select {self._typed(condition)}, {self._typed(a)}, {self._typed(b)}")
        condition = _of(Bool, condition, "select")
        if isinstance(a, (Int, int)) and isinstance(b, (Int, int)):
            a, b = self._operand(a, "select"), self._operand(b, "select")
            return self._make(Int, "i64", f"select {self._typed(condition)}, i64 {a}, i64 {b}")
        if type(a) is not type(b) or not isinstance(a, Value) or a.type != b.type:
            raise TypeError(f"select: expected two values of one kind, found {a!r} and {b!r}")
        if isinstance(a, Vector):
            return self._vector(a.element, f"select {self._typed(condition)}, {self._typed(a)}, {self._typed(b)}")
        return self._make(type(a), a.type, f"select {self._typed(condition)}, {self._typed(a)}, {self._typed(b)}")

    # ----------------------------------------------------------------------------------------------------------- memory
    def load(self, address: Pointer, mask: Mask | None = None, element: str = "float") -> Vector:
        """The vector at ``address``; lanes that ``mask`` leaves out are 0 and their memory is not touched."""
        address = _of(Pointer, address, "load")
        vector = self._vector_type(element)
        if mask is None:
            return self._vector(element, f"load {vector}, ptr {self._use(address)}, align {ELEMENTS[element]}")
        name = f"llvm.masked.load.v{self.width}{_SUFFIX[element]}.p0"
        self._declarations[name] = f"declare {vector} @{name}(ptr, i32, <{self.width} x i1>, {vector})"
        where = f"{self._typed(address)}, i32 {ELEMENTS[element]}, {self._typed(_of(Mask, mask, 'load'))}"
        return self._vector(element, f"call {vector} @{name}({where}, {vector} zeroinitializer)")

    def store(self, value: Vector, address: Pointer, mask: Mask | None = None) -> None:
        """Write a vector to ``address``; lanes that ``mask`` leaves out are not touched."""
        value, address = _of(Vector, value, "store"), _of(Pointer, address, "store")
        size = ELEMENTS[value.element]
        if mask is None:
            self._line(f"store {self._typed(value)}, {self._typed(address)}, align {size}")
            return
        name = f"llvm.masked.store.v{self.width}{_SUFFIX[value.element]}.p0"
        self._declarations[name] = f"declare void @{name}({value.type}, ptr, i32, <{self.width} x i1>)"
        mask = _of(Mask, mask, "store")
        self._line(f"call void @{name}({self._typed(value)}, {self._typed(address)}, i32 {size}, {self._typed(mask)})")

    def broadcast(self, address: Pointer) -> Vector:
        """The one float at ``address`` in every lane."""
        one = self._make(Value, "float", f"load float, ptr {self._use(_of(Pointer, address, 'broadcast'))}, align 4")
        return self._spread("float", one.name)

    def load_integer(self, address: Pointer) -> Int:
        """The 64-bit integer at ``address``."""
        return self._make(Int, "i64", f"load i64, ptr {self._use(_of(Pointer, address, 'load_integer'))}")

    def load_pointer(self, address: Pointer) -> Pointer:
        """The address stored at ``address``."""
        return self._make(Pointer, "ptr", f"load ptr, ptr {self._use(_of(Pointer, address, 'load_pointer'))}")

    def prefetch(self, address: Pointer) -> None:
        """Ask for the cache line at ``address``, which will be read soon; any address will do."""
        self._declarations["prefetch"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
        self._line(f"call void @llvm.prefetch.p0({self._typed(_of(Pointer, address, 'prefetch'))}, i32 0, i32 3, i32 1)")

    def copy_float(self, source: Pointer, target: Pointer) -> None:
        """Copy one float."""
        one = self._make(Value, "float", f"load float, ptr {self._use(_of(Pointer, source, 'copy_float'))}, align 4")
        self._line(f"store float {one.name}, ptr {self._use(_of(Pointer, target, 'copy_float'))}, align 4")

    # ---------------------------------------------------------------------------------------------------------- vectors
    def constant(self, number: float, element: str = "float") -> Vector:
        """The same number in every lane."""
        text = _literal(number, element)
        return Vector(self, "<" + ", ".join([f"{element} {text}"] * self.width) + ">", self._element(element))

    def spread(self, number: Int, element: str = "i32") -> Vector:
        """An integer in every lane."""
        name = self._use(_of(Int, number, "spread"))
        if element == "i32":
            name = self._make(Value, "i32", f"trunc i64 {name} to i32").name
        elif element != "i64":
            raise TypeError(f"spread: integers go into lanes of i32 or i64, not {element}")
        return self._spread(element, name)

    def fma(self, a: Vector, b: Vector, c: Vector) -> Vector:
        """a * b + c, rounded once where the machine can."""
        self._same(a, b, "fma")
        self._same(b, c, "fma")
        if a.element not in _FLOATS:
            raise TypeError(f"fma: needs lanes of float or double, found {a.element}")
        name = f"llvm.fmuladd.v{self.width}{_SUFFIX[a.element]}"
        self._declarations[name] = f"declare {a.type} @{name}({a.type}, {a.type}, {a.type})"
        return self._vector(a.element, f"call {a.type} @{name}({self._typed(a)}, {self._typed(b)}, {self._typed(c)})")

    def square_root(self, a: Vector) -> Vector:
        """The square root of every lane."""
        name = f"llvm.sqrt.v{self.width}{_SUFFIX[_of(Vector, a, 'square_root').element]}"
        self._declarations[name] = f"declare {a.type} @{name}({a.type})"
        return self._vector(a.element, f"call {a.type} @{name}({self._typed(a)})")

    def convert(self, a: Vector, element: str) -> Vector:
        """The lanes in another element type: float to double, i32 to i64 or float, the lower halves of i64 as i32."""
        operations = {("float", "double"): "fpext", ("i32", "i64"): "sext", ("i32", "float"): "sitofp", ("i64", "i32"): "trunc"}
        operation = operations.get((_of(Vector, a, "convert").element, element))
        if operation is None:
            raise TypeError(f"convert: cannot turn lanes of {a.element} into {element}")
        return self._vector(element, f"{operation} {self._typed(a)} to {self._vector_type(element)}")

    def shuffle(self, a: Vector, b: Vector, lanes: Sequence[int]) -> Vector:
        """Lane ``lanes[0]`` of a, lane ``lanes[1]``, and so on; from ``width`` on they are the lanes of b."""
        self._same(a, b, "shuffle")
        if len(lanes) != self.width or not all(0 <= lane < 2 * self.width for lane in lanes):
            raise ValueError(f"shuffle: expected {self.width} lanes between 0 and {2 * self.width - 1}, found {list(lanes)}")
        order = f"<{self.width} x i32> <{', '.join(f'i32 {lane}' for lane in lanes)}>"
        return self._vector(a.element, f"shufflevector {self._typed(a)}, {self._typed(b)}, {order}")

    def bits(self, a: Vector, element: str) -> Vector:
        """The same bits as lanes of another element type of the same size: float as i32, i32 as float."""
        if ELEMENTS[self._element(element)] != ELEMENTS[_of(Vector, a, "bits").element]:
            raise TypeError(f"bits: lanes of {a.element} and of {element} are not of one size")
        return self._vector(element, f"bitcast {self._typed(a)} to {self._vector_type(element)}")

    def rotated(self, a: Vector, by: int) -> Vector:
        """Lane i holds what was in lane i + ``by``, around the end."""
        return self.shuffle(a, a, [(lane + by) % self.width for lane in range(self.width)])

    def lane_numbers(self, element: str = "i32") -> Vector:
        """0, 1, ... ``width`` - 1."""
        lanes = ", ".join(f"{element} {lane}" for lane in range(self.width))
        return Vector(self, f"<{lanes}>", self._element(element))

    def first_lanes(self, count: Number) -> Mask:
        """The mask of the first ``count`` lanes: none for 0 or less, all for ``width`` or more."""
        if type(count) is int:
            bits = ", ".join(f"i1 {'true' if lane < count else 'false'}" for lane in range(self.width))
            return Mask(self, f"<{bits}>", f"<{self.width} x i1>")
        return self.spread(self.minimum(count, self.width)) > self.lane_numbers()

    # ---------------------------------------------------------------------------------------------------------- control
    @contextmanager
    def loop(self, low: Number, high: Number | None = None, step: Number = 1) -> Iterator[Int]:
        """``for i in range(low, high, step)``; with one bound, from 0."""
        if high is None:
            low, high = 0, low
        before, body, after = self._label("before"), self._label("loop"), self._label("after")
        i, following = Int(self, self._temporary(), "i64"), self._temporary()
        start, stop, stride = (self._operand(n, "loop") for n in (low, high, step))
        self._branch(before)
        self._line(f"{(some := self._temporary())} = icmp slt i64 {start}, {stop}")
        self._line(f"br i1 {some}, label %{body}, label %{after}")
        self._enter(body)
        i.scope = self._open()
        head = len(self._lines)
        self._lines.append("")                       # the phi, once it is known which block the loop ends in
        yield i
        self._lines[head] = f"{i.name} = phi i64 [ {start}, %{before} ], [ {following}, %{self._block} ]"
        self._line(f"{following} = add nsw i64 {i.name}, {stride}")
        self._line(f"{(more := self._temporary())} = icmp slt i64 {following}, {stop}")
        self._line(f"br i1 {more}, label %{body}, label %{after}")
        self._scopes.pop()
        self._enter(after)

    def carry(self, count: Number, state: Sequence[Value], body: Callable[[list[Any]], Sequence[Value]]) -> list[Any]:
        """Run ``body`` ``count`` times on a state held in registers; returns the last state.

        ``body`` is given the state's values and returns the next ones, of the same kinds, in the same order.
        """
        before, inside, after = self._label("before"), self._label("carry"), self._label("after")
        i, following, stop = self._temporary(), self._temporary(), self._operand(count, "carry")
        initial = [self._use(value) for value in state]
        self._branch(before)
        self._line(f"{(some := self._temporary())} = icmp slt i64 0, {stop}")
        self._line(f"br i1 {some}, label %{inside}, label %{after}")
        self._enter(inside)
        self._open()
        head = len(self._lines)
        current = [self._like(value, self._temporary()) for value in state]
        self._lines += [""] * (1 + len(current))
        produced = list(body(list(current)))
        if [v.type for v in produced] != [v.type for v in state]:
            raise TypeError(f"carry: the body must return {[v.type for v in state]}, it returned {[v.type for v in produced]}")
        final = [self._use(value) for value in produced]
        ended = self._block
        self._lines[head] = f"{i} = phi i64 [ 0, %{before} ], [ {following}, %{ended} ]"
        for k, value in enumerate(current, 1):
            origins = f"[ {initial[k - 1]}, %{before} ], [ {final[k - 1]}, %{ended} ]"
            self._lines[head + k] = f"{value.name} = phi {value.type} {origins}"
        self._line(f"{following} = add nsw i64 {i}, 1")
        self._line(f"{(more := self._temporary())} = icmp slt i64 {following}, {stop}")
        self._line(f"br i1 {more}, label %{inside}, label %{after}")
        self._scopes.pop()
        self._enter(after)
        results = [self._like(value, self._temporary()) for value in state]
        for value, first, last in zip(results, initial, final, strict=True):
            self._line(f"{value.name} = phi {value.type} [ {first}, %{before} ], [ {last}, %{ended} ]")
        return results

    @contextmanager
    def when(self, condition: Bool) -> Iterator[None]:
        """Run the block if ``condition`` holds."""
        then, after = self._label("then"), self._label("after")
        self._line(f"br i1 {self._use(_of(Bool, condition, 'when'))}, label %{then}, label %{after}")
        self._enter(then)
        self._open()
        yield
        self._scopes.pop()
        self._branch(after)

    def either(self, condition: Bool, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Run ``yes`` if ``condition`` holds, else ``no``."""
        then, otherwise, after = self._label("then"), self._label("otherwise"), self._label("after")
        self._line(f"br i1 {self._use(_of(Bool, condition, 'either'))}, label %{then}, label %{otherwise}")
        for label, branch in ((then, yes), (otherwise, no)):
            self._enter(label)
            self._open()
            branch()
            self._scopes.pop()
            self._line(f"br label %{after}")
        self._enter(after)

    @contextmanager
    def parallel(self, tasks: Number) -> Iterator[Int]:
        """This thread's share of the tasks 0 .. tasks-1, a contiguous run of them."""
        total = tasks if isinstance(tasks, Int) else self._integers("add", tasks, 0, "parallel")
        with self.loop(self.thread * total // self.threads, (self.thread + 1) * total // self.threads) as task:
            yield task

    # ------------------------------------------------------------------------------------------------------------- text
    def text(self) -> str:
        """The kernel as LLVM IR."""
        if len(self._scopes) > 1:
            raise ValueError(f"kernel {self.name}: a loop or branch is still open")
        return "\n".join([
            f"define void @{self.name}(ptr noalias %arguments, i64 %thread, i64 %threads) nounwind {{",
            "start:", *(f"  {line}" if not line.endswith(":") else line for line in self._lines), "  ret void", "}",
            *self._declarations.values(), ""])

    # -------------------------------------------------------------------------------------------------------- internals
    def _temporary(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _label(self, name: str) -> str:
        self._count += 1
        return f"{name}{self._count}"

    def _line(self, text: str) -> None:
        self._lines.append(text)

    def _enter(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    def _branch(self, label: str) -> None:
        self._line(f"br label %{label}")
        self._enter(label)

    def _open(self) -> int:
        self._count += 1
        self._scopes.append(self._count)
        return self._count

    def _use(self, value: Value) -> str:
        """The name of a value, after checking that it may be used here."""
        if value.kernel is not self:
            raise ValueError(f"kernel {self.name}: {value!r} belongs to kernel {value.kernel.name}")
        if value.scope not in self._scopes:
            raise ValueError(f"kernel {self.name}: {value!r} was computed inside a loop or branch that has ended; carry() it out")
        return value.name

    def _typed(self, value: Value) -> str:
        return f"{value.type} {self._use(value)}"

    def _operand(self, value: Number, operation: str) -> str:
        if type(value) is int:
            return str(value)
        return self._use(_of(Int, value, operation))

    def _make(self, kind: type[V], type: str, instruction: str) -> V:
        name = self._temporary()
        self._line(f"{name} = {instruction}")
        return kind(self, name, type)

    def _like(self, value: Value, name: str) -> Any:
        return Vector(self, name, value.element) if isinstance(value, Vector) else type(value)(self, name, value.type)

    def _binary(self, operation: str, a: V, b: V, kind: type[V]) -> V:
        return self._make(kind, a.type, f"{operation} {self._typed(a)}, {self._use(b)}")

    def _integers(self, operation: str, a: Number, b: Number, symbol: str) -> Int:
        return self._make(Int, "i64", f"{operation} i64 {self._operand(a, symbol)}, {self._operand(b, symbol)}")

    def _compare(self, how: str, a: Number, b: Number) -> Bool:
        return self._make(Bool, "i1", f"icmp {how} i64 {self._operand(a, 'comparison')}, {self._operand(b, 'comparison')}")

    def _element(self, element: str) -> str:
        if element not in ELEMENTS:
            raise TypeError(f"no vectors of {element!r}; elements: {', '.join(ELEMENTS)}")
        return element

    def _vector_type(self, element: str) -> str:
        return f"<{self.width} x {self._element(element)}>"

    def _vector(self, element: str, instruction: str) -> Vector:
        name = self._temporary()
        self._line(f"{name} = {instruction}")
        return Vector(self, name, element)

    def _spread(self, element: str, scalar: str) -> Vector:
        vector = self._vector_type(element)
        one = self._temporary()
        self._line(f"{one} = insertelement {vector} poison, {element} {scalar}, i32 0")
        return self._vector(element, f"shufflevector {vector} {one}, {vector} poison, <{self.width} x i32> zeroinitializer")

    def _same(self, a: Any, b: Any, operation: str) -> None:
        if _of(Vector, a, operation).element != _of(Vector, b, operation).element:
            raise TypeError(f"{operation}: vectors of {a.element} and of {b.element}; convert() one of them")

    def _arithmetic(self, operation: str, a: Vector, b: Vector) -> Vector:
        self._same(a, b, operation)
        floats = a.element in _FLOATS
        if operation in (("and", "xor", "ashr") if floats else ("div",)):
            raise TypeError(f"{operation}: needs lanes of {'integers' if floats else 'float or double'}, found {a.element}")
        return self._vector(a.element, f"{f'f{operation} contract' if floats else operation} {self._typed(a)}, {self._use(b)}")

    def _lanes(self, floats: str, integers: str, a: Vector, b: Vector) -> Mask:
        self._same(a, b, "comparison")
        compare = f"fcmp {floats}" if a.element in _FLOATS else f"icmp {integers}"
        return self._make(Mask, f"<{self.width} x i1>", f"{compare} {self._typed(a)}, {self._use(b)}")


_FLOATS = ("float", "double")
_SUFFIX = {"float": "f32", "double": "f64", "i32": "i32", "i64": "i64"}


def _literal(number: float, element: str) -> str:
    """A number as LLVM reads it: floats by the bits of the double of the same value."""
    if element not in _FLOATS:
        return str(int(number))
    exact = struct.unpack("<f", struct.pack("<f", number))[0] if element == "float" else number
    return f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"
