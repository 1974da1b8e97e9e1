"""What a model computes, as a list of verbs: it is run once on a backend that computes and takes notes.

The :class:`Recorder` is the CPU's backend with every verb wrapped.  Arrays are told apart by identity: an array that no
recorded verb returned is a constant (a weight, a mask, a number), and a verb of constants alone is not recorded, since
its result is one too.  Two traces with different batch sizes are then laid over each other (:func:`merge`), and every
number in which they differ is a multiple of the batch size, plus something: a :class:`Dim`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from minidl.backend.cpu import CPU
from minidl.backend.select import register_backend
from minidl.config import grad_mode
from minidl.errors import DeviceError, GraphError

Array = np.ndarray[Any, Any]
# 1 would be broadcast by accident; 3 apart, so that halves and thirds of the batch are not taken for multiples of it.
BATCHES = (2, 5)

# Not computations: creation, transfer, questions.  What they return is a constant.
_NOT_VERBS = {
    "array", "arange", "asarray", "describe", "empty", "eye", "first_nonfinite", "full", "linspace", "ones", "own",
    "promote_types", "scalar", "storage", "synchronize", "to_device", "to_host", "to_numpy", "zeros",
}  # fmt: skip
_WRITES = {"copyto", "assign", "add_into"}


@dataclasses.dataclass(frozen=True)
class Dim:
    """``scale * N + offset``, N the batch size."""

    scale: int
    offset: int


@dataclasses.dataclass(frozen=True)
class Ref:
    """The result of an earlier call, or (the first ones) an input."""

    index: int


@dataclasses.dataclass(eq=False)
class Constant:
    """An array that does not depend on the input; ``other`` is its value in the second trace, if it differs."""

    array: Array
    other: Array | None = None


@dataclasses.dataclass
class Call:
    """``verb(*arguments, **options)``: results get the numbers ``first``, ``first + 1``, ..."""

    verb: str
    arguments: list[Any]
    options: dict[str, Any]
    first: int
    shapes: list[Any]
    dtypes: list[Any]


@dataclasses.dataclass
class Trace:
    """A run: ``calls`` in order, ``outputs`` the numbers of what the model returned."""

    input: tuple[Any, ...]
    calls: list[Call]
    outputs: list[Any]


class Recorder(CPU):
    """The CPU's verbs, written down while they run."""

    def __init__(self) -> None:
        super().__init__()
        self.device = "onnx"
        self._busy = False
        self._clear()
        names = [
            name for name in {*dir(type(self)), *vars(self)} if not name.startswith("_") and name not in _NOT_VERBS
        ]
        for name in names:
            verb = getattr(self, name)
            if callable(verb) and not isinstance(verb, type):
                setattr(self, name, self._writing(name, verb) if name in _WRITES else self._recording(name, verb))

    def _clear(self) -> None:
        self.calls: list[Call] = []
        self.numbers: dict[int, int | None] = {}  # id of a living array -> its number; None: overwritten since
        self.alive: list[Array] = []
        self.constants: dict[int, Constant] = {}
        self.count = 0

    def input(self, array: Array) -> None:
        """Start a new trace, of what is computed from ``array``."""
        self._clear()
        self._number([array])

    def number_of(self, array: Any) -> Ref | Constant:
        """The result of a verb, or a constant."""
        number = self.numbers.get(id(array), -1)
        if number is None:
            raise GraphError(
                "ONNX export: the model reads an array that shares memory with one it has overwritten; work out of place"
            )
        if number >= 0:
            return Ref(number)
        return self.constants.setdefault(id(array), Constant(array))

    def _number(self, arrays: list[Array]) -> None:
        for array in arrays:
            self.numbers[id(array)] = self.count
            self.alive.append(array)  # so that no other array gets its id
            self.count += 1

    def _recording(self, name: str, verb: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            if self._busy:  # verbs that are made of verbs
                return verb(*arguments, **options)
            with self._working():
                results = verb(*arguments, **options)
            self._note(name, arguments, options, results if isinstance(results, tuple) else (results,))
            return results

        return run

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _note(self, verb: str, arguments: Any, options: dict[str, Any], results: Any) -> None:
        traced = [a for a in arguments if isinstance(a, np.ndarray) and id(a) in self.numbers]
        for array in _arrays_in(options):
            if id(array) in self.numbers:
                raise GraphError(
                    f"ONNX export: {verb} is given an option computed from the input; this cannot be exported"
                )
        arrays = [a for a in results if isinstance(a, np.ndarray)]
        if not traced or not arrays:
            self.alive += arrays
            return
        noted = [self.number_of(a) if isinstance(a, np.ndarray) else a for a in arguments]
        self.calls.append(Call(verb, noted, options, self.count, [a.shape for a in arrays], [a.dtype for a in arrays]))
        self._number(arrays)

    def _writing(self, name: str, verb: Any) -> Any:
        def run(x: Any, *rest: Any) -> Any:
            traced = any(isinstance(a, np.ndarray) and id(a) in self.numbers for a in (x, *rest))
            if self._busy or not traced and not self.constants:
                return verb(x, *rest)
            if traced and name == "assign":
                raise GraphError(
                    "ONNX export: the model assigns to a part of a tensor in place; use where() or cat() instead"
                )
            for key, constant in list(self.constants.items()):
                if np.may_share_memory(constant.array, x):
                    constant.array = constant.array.copy()  # what it was when it was used
                    del self.constants[key]
            for array in self.alive:
                if id(array) in self.numbers and array is not x and np.may_share_memory(array, x):
                    self.numbers[id(array)] = None
            if traced:
                value = [
                    self.number_of(a) if isinstance(a, np.ndarray) else Constant(np.asarray(a)) for a in (x, *rest)
                ]
                self.calls.append(Call(name, value, {}, self.count, [x.shape], [x.dtype]))
            with self._working():
                result = verb(x, *rest)
            if traced:
                self._number([x])
            return result

        return run


def _arrays_in(value: Any) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _arrays_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _arrays_in(item)
    elif isinstance(value, slice):
        yield from _arrays_in((value.start, value.stop, value.step))


# One recorder serves the process: its device has a name, which code such as zeros(..., device=x.device) looks up.
_recorder: Recorder | None = None
_lock = threading.Lock()


@contextmanager
def recorder() -> Iterator[Recorder]:
    """The recorder, for one thread at a time."""
    global _recorder
    with _lock:
        if _recorder is None:
            _recorder = Recorder()
            register_backend(_recorder)
        try:
            yield _recorder
        finally:
            _recorder._clear()


def trace(model: Any, shape: tuple[int, ...], dtype: Any, F: Recorder) -> Trace:
    """Run ``model`` in evaluation mode on numbers of ``shape``; the model is afterwards as it was before.

    Raises:
        DeviceError: the model is on another device than the CPU, or mixes in tensors that are not part of it.
        GraphError: it does something that cannot be told from outside, or returns no tensor.
    """
    state = [*model.parameters(), *model.buffers()]
    if not state:
        raise GraphError(
            f"ONNX export: {type(model).__name__} has no parameters and no buffers; export a net of layers"
        )
    if away := {tensor.device for tensor in state} - {"cpu"}:
        raise DeviceError(f"ONNX export: the model is on {', '.join(sorted(away))}; move it with model.to('cpu')")
    modules = [(module, module.training) for module in model.modules()]
    homes = [(tensor, tensor.F) for tensor in state]
    values = np.random.default_rng(0).standard_normal(shape) if np.dtype(dtype).kind == "f" else np.zeros(shape)
    array = values.astype(dtype)
    tensor_class = type(state[0].detach())
    F.input(array)
    with ExitStack() as stack:
        stack.callback(_restore, homes, modules)
        stack.enter_context(grad_mode(False))
        model.eval()
        for tensor, _ in homes:
            tensor.F = F
        try:
            y = model(tensor_class(array, F))
        except DeviceError as error:
            raise DeviceError(
                f"ONNX export: {type(model).__name__} uses a tensor that is neither a parameter nor a buffer ({error}); "
                "make it an nn.Buffer, or create it with device=x.device"
            ) from error
    outputs = [t for t in (y if isinstance(y, tuple | list) else (y,)) if t is not None]
    if not outputs or not all(isinstance(t, tensor_class) for t in outputs):
        kinds = ", ".join(type(t).__name__ for t in outputs) or "nothing"
        raise GraphError(f"ONNX export: the model returned {kinds}; expected a Tensor or a tuple of Tensors")
    return Trace(shape, F.calls, [F.number_of(t.data) for t in outputs])


def _restore(homes: list[tuple[Any, Any]], modules: list[tuple[Any, bool]]) -> None:
    for tensor, home in homes:
        tensor.F = home
    for module, training in modules:
        module.training = training


# ----------------------------------------------------------------------------------------------------- two traces in one
def merge(a: Trace, b: Trace) -> Trace:
    """``a`` with a :class:`Dim` in place of every number that is another one in ``b``.

    Raises:
        GraphError: the traces are not the same computation.
    """
    if [call.verb for call in a.calls] != [call.verb for call in b.calls]:
        raise GraphError(
            "ONNX export: the model does different things for different batch sizes; export it for one, with dynamic_batch=False"
        )
    calls = [
        dataclasses.replace(
            x,
            arguments=_merge(x.arguments, y.arguments, x.verb),
            options=_merge(x.options, y.options, x.verb),
            shapes=_merge(x.shapes, y.shapes, x.verb),
        )
        for x, y in zip(a.calls, b.calls, strict=True)
    ]
    return Trace(_merge(a.input, b.input, "input"), calls, _merge(a.outputs, b.outputs, "output"))


def _merge(a: Any, b: Any, verb: str) -> Any:
    if type(a) is int and type(b) is int and a != b:
        return formula(a, b, verb)
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: _merge(a[key], b[key], verb) for key in a}
    if isinstance(a, slice) and isinstance(b, slice):
        return slice(*(_merge(x, y, verb) for x, y in ((a.start, b.start), (a.stop, b.stop), (a.step, b.step))))
    if isinstance(a, tuple | list) and type(a) is type(b) and len(a) == len(b):
        items = [_merge(x, y, verb) for x, y in zip(a, b, strict=True)]
        return _rebuilt(a, items)
    if isinstance(a, Constant) and isinstance(b, Constant):
        same = a.array is b.array or a.array.shape == b.array.shape and a.array.tobytes() == b.array.tobytes()
        if not same and (a.array.ndim != b.array.ndim or a.array.shape == b.array.shape):
            raise GraphError(
                f"ONNX export: {verb} uses numbers that depend on the batch size; export with dynamic_batch=False"
            )
        a.other = None if same else b.array
        return a
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if np.array_equal(a, b):
            return a
    elif a is b or a == b or a != a and b != b:
        return a
    raise GraphError(
        f"ONNX export: {verb} depends on the batch size in a way that has no formula; export with dynamic_batch=False"
    )


def formula(a: int, b: int, verb: str) -> Dim:
    """The number that is ``a`` for the smaller batch and ``b`` for the larger, as a multiple of the batch plus something.

    It must be a size for a batch of 1, too: the square of the batch is not mistaken for a multiple.
    """
    scale, rest = divmod(b - a, BATCHES[1] - BATCHES[0])
    offset = a - scale * BATCHES[0]
    if rest or (a >= 0 and scale + offset < 0):
        raise GraphError(
            f"ONNX export: {verb} uses {a} for a batch of {BATCHES[0]} and {b} for {BATCHES[1]}, which is no multiple of the "
            "batch; export with dynamic_batch=False"
        )
    return Dim(scale, offset)


def _rebuilt(like: Any, items: list[Any]) -> Any:
    """``items`` as the kind of sequence that ``like`` is, a geometry included."""
    return (
        like._replace(**dict(zip(like._fields, items, strict=True))) if hasattr(like, "_fields") else type(like)(items)
    )
