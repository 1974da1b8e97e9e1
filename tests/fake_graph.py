"""Stream capture for the stand-in for CuPy: what a step asks of the device is recorded, and a graph does it again.

As on a GPU, nothing is done while it is recorded: kernels do not run, writes do not happen, and what an operation returns has
a shape but no numbers (NaN or -1) until the graph was launched.  A replay repeats the recorded operations on the same memory:
what was not recorded - a number that the host put in, an array that NumPy computed - stays as it was, and is seen to be old.

Names and refusals are those of CuPy 14.2 and CUDA: reading an array or waiting spoils the capture, cuBLAS through CuPy raises
NotImplementedError, and the null stream cannot be captured.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests import fake_cuda
from tests.fake_cupy import tree

fake_cuda.ERRORS |= {
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
}
PRODUCTS = ("matmul", "dot", "vdot", "inner", "tensordot", "einsum")  # these call cuBLAS
WRITERS = ("copyto", "put", "place", "putmask", "fill_diagonal")  # functions that write their first argument
METHODS = "astype copy reshape ravel flatten take argsort cumsum clip round repeat sum prod mean max min argmax argmin all any"
WRITING = ("fill", "sort", "put", "scatter_add", "__setitem__")  # methods that write the array


class Graph:
    """What ``end_capture`` returns."""

    def __init__(self, world: Any, tasks: list[Callable[[], Any]]) -> None:
        self.world, self.tasks = world, tasks

    def launch(self, stream: Any = None) -> None:
        stream = stream or self.world.stream
        self.world.log.append(("graph", stream, len(self.tasks)))
        stream.run()
        for task in self.tasks:
            task()

    def upload(self, stream: Any = None) -> None:
        pass


class Recorder:
    """The captures of one stand-in."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.busy = False  # inside of an operation, whose parts are not recorded for themselves
        self.tasks: dict[int, list[Callable[[], Any]]] = {}  # of the streams that are being captured
        self.fresh: dict[int, list[np.ndarray]] = {}  # what was returned meanwhile, and has no numbers yet
        self.spoilt: set[int] = set()

    @property
    def recording(self) -> bool:
        return not self.busy and self.world.stream.ptr in self.tasks

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        before, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = before

    def operation(self, f: Callable[..., Any], writes: Any = None) -> Callable[..., Any]:
        """``f``, recorded in a capture.  ``writes(args, kwargs)`` is the array that f writes; None: it returns new ones."""

        @functools.wraps(f, updated=())
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.recording:
                return f(*args, **kwargs)
            stream = self.world.stream

            def again() -> Any:
                with self.inside():
                    return f(*args, **kwargs)

            target = writes(args, kwargs) if writes is not None else None
            if target is not None:
                self.tasks[stream.ptr].append(again)
                return target
            result = again()
            given = [plain(x) for x in leaves((args, kwargs))]
            made = [plain(x) for x in leaves(result) if not any(np.may_share_memory(plain(x), g) for g in given)]
            if made:
                self.tasks[stream.ptr].append(lambda: self.repeat(again, result))
                self.fresh[stream.ptr] += made
            return result

        return run

    @staticmethod
    def repeat(again: Callable[[], Any], result: Any) -> None:
        for old, new in zip(leaves(result), leaves(again()), strict=True):
            plain(old)[...] = plain(new)

    def forbidden(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """``f``, for which the host waits: in a capture an error, which spoils it."""

        @functools.wraps(f, updated=())
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.recording:
                self.spoilt.add(self.world.stream.ptr)
                raise fake_cuda.CUDARuntimeError(900)
            return f(*args, **kwargs)

        return run

    # ---- streams

    def begin(self, stream: Any, mode: Any = None) -> None:
        if not stream.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.world.log.append(("begin capture", stream))
        stream.run()
        self.tasks[stream.ptr], self.fresh[stream.ptr] = [], []

    def end(self, stream: Any) -> Graph:
        self.world.log.append(("end capture", stream))
        tasks = self.tasks.pop(stream.ptr)
        for array in self.fresh.pop(stream.ptr):
            if array.size and array.flags.writeable:
                array[...] = np.frombuffer(b"\xff" * array.itemsize, array.dtype)[0]
        if stream.ptr in self.spoilt:
            self.spoilt.remove(stream.ptr)
            raise fake_cuda.CUDARuntimeError(901)
        return Graph(self.world, tasks)

    def submit(self, stream: Any, task: Any, submit: Any) -> None:
        if stream.ptr in self.tasks and not self.busy:
            self.tasks[stream.ptr].append(task)
        else:
            submit(stream, task)
            stream.run()  # at once: a table of pointers does not keep arrays alive, as the pool of a stream would


def plain(x: Any) -> np.ndarray:
    return x.view(np.ndarray)


def leaves(value: Any) -> list[np.ndarray]:
    """The arrays in nested tuples, lists and dictionaries."""
    found: list[np.ndarray] = []
    tree(lambda x: found.append(x) if isinstance(x, np.ndarray) else None, value)
    return found


def with_capture(module: Any, monkeypatch: Any) -> Any:
    """The stand-in ``module`` with graphs; kernels and products of cuBLAS are recorded like all that a stream is given."""
    world, ndarray = module.world, module.ndarray
    recorder = module.recorder = Recorder(world)

    def first(args: Any, kwargs: Any) -> Any:
        return args[0]

    def out(args: Any, kwargs: Any) -> Any:
        if len(args) > 2 and isinstance(args[2], str) and args[2] == "at":
            return args[3]
        given = kwargs.get("out")
        return (given[0] if given else None) if isinstance(given, tuple) else given

    ndarray.__array_ufunc__ = recorder.operation(ndarray.__array_ufunc__, out)
    ndarray.__array_function__ = recorder.operation(ndarray.__array_function__)
    ndarray.__getitem__ = recorder.operation(ndarray.__getitem__)
    for name in METHODS.split():
        setattr(ndarray, name, recorder.operation(getattr(ndarray, name), out))
    for name in WRITING:
        setattr(ndarray, name, recorder.operation(getattr(ndarray, name), first))
    for name in ("get", "set"):
        setattr(ndarray, name, recorder.forbidden(getattr(ndarray, name)))

    make = module.__getattr__

    def __getattr__(name: str) -> Any:
        made = make(name)
        if not callable(made) or isinstance(made, type):
            return made

        operation = recorder.operation(made, first if name in WRITERS else out)

        @functools.wraps(made, updated=())
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if recorder.recording and name in PRODUCTS:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            if recorder.recording and any(type(x) is np.ndarray and x.ndim for x in leaves((args, kwargs))):
                recorder.spoilt.add(world.stream.ptr)
                raise RuntimeError("the current stream is capturing, so synchronous API calls are disallowed")
            return operation(*args, **kwargs)

        for method in ("reduce", "accumulate", "outer", "at", "reduceat"):
            if hasattr(made, method):
                setattr(wrapped, method, recorder.operation(getattr(made, method), first if method == "at" else out))
        setattr(module, name, wrapped)
        return wrapped

    module.__getattr__ = __getattr__
    for name in [name for name in vars(module) if isinstance(getattr(np, name, None), np.ufunc)]:
        delattr(module, name)  # made before, without a recorder

    stream_type = fake_cuda.Stream
    submit, synchronize = stream_type.submit, stream_type.synchronize
    monkeypatch.setattr(stream_type, "submit", lambda self, task: recorder.submit(self, task, submit))
    monkeypatch.setattr(stream_type, "begin_capture", lambda self, mode=None: recorder.begin(self, mode), raising=False)
    monkeypatch.setattr(stream_type, "end_capture", lambda self: recorder.end(self), raising=False)
    monkeypatch.setattr(stream_type, "is_capturing", lambda self: self.ptr in recorder.tasks, raising=False)

    def waits(self: Any) -> None:
        if self.ptr in recorder.tasks:
            recorder.spoilt.add(self.ptr)
            raise fake_cuda.CUDARuntimeError(900)
        synchronize(self)

    monkeypatch.setattr(stream_type, "synchronize", waits)

    @contextlib.contextmanager
    def using_allocator(allocator: Any = None) -> Iterator[None]:
        before, world.allocator = world.allocator, allocator or world.pool_malloc
        try:
            yield
        finally:
            world.allocator = before

    module.cuda.using_allocator = using_allocator
    return module
