"""Whole training steps as CUDA graphs: captured once, then repeated with one launch."""
from __future__ import annotations

import contextlib
import linecache
import os
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from minidl.autograd.autocast import Casting
from minidl.backend.rng import get_rng_state, set_rng_state
from minidl.config import autocast
from minidl.errors import ConfigError, DeviceError, DTypeError, ShapeError
from minidl.kernels.cuda.capture import Capture, noting
from minidl.tensor import Tensor

# The graphs' memory pools.  An array whose pool is gone has lost its memory, so they stay while anything lies in them.
_pools: list[tuple[weakref.ReferenceType[Graph], Any]] = []


def graph(step: Callable[..., Any], warmup: int = 3) -> Graph:
    """``step`` as a CUDA graph: the same arguments and results, but for each call one launch instead of hundreds.

    ::

        @minidl.cuda.graph
        def step(images, labels):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        for images, labels in batches:
            loss = step(images, labels)
            scheduler.step()                         # here, not in the step: a graph repeats what the device does

    The first ``warmup`` calls run as they are; the next captures what they launch, and from then on each call copies its
    arguments to where the graph reads them and launches it.  Learning rates and the other numbers of SGD, Adam and AdamW, their
    counters and the masks of dropout are new in each call: the results are those of the step itself, to the bit.

    Args:
        step: takes tensors on one GPU and returns a tensor, or tuples, lists and dicts of them.  Everything else that it
            reads (parameters, buffers) keeps its memory from call to call; it looks at no value on the host (``item()``,
            ``if loss > 2``), takes random numbers by dropout only, and calls ``optimizer.zero_grad()``.
        warmup: calls before the capture, in which memory is found, kernels are compiled and optimisers make their state.

    Returns:
        A callable.  Its ``reason`` is None, or why the step cannot be captured: then a warning says so once, and every call
        runs the step itself.

    Raises (when it is called):
        DeviceError: a tensor that is not on a GPU, or on another one than the first.
        ShapeError, DTypeError: the tensors of a call differ from those of the first; a graph has one shape.

    Source: torch.cuda.CUDAGraph and torch.cuda.make_graphed_callables.
    """
    if warmup < 1:
        raise ConfigError(f"graph: warmup must be at least 1, found {warmup}; the first step makes the optimiser's state")
    return Graph(step, warmup)


class Graph:
    """What :func:`graph` returns."""

    def __init__(self, step: Callable[..., Any], warmup: int) -> None:
        self.reason: str | None = None
        self._step, self._warmup = step, warmup
        self._name = getattr(step, "__name__", type(step).__name__)
        self._like: list[Tensor] = []                # the first call's arguments; later the graph's own
        self._owners: list[Any] = []                 # whose updates are part of the step
        self._captured: Any = None
        self._drawn = 0                              # keys that the generator gives out in a step

    def __repr__(self) -> str:
        state = "eager" if self.reason else "captured" if self._captured is not None else "warming up"
        return f"<minidl.cuda.graph of {self._name}, {state}>"

    def __call__(self, *inputs: Tensor) -> Any:
        F = self._check(inputs)
        if self.reason is not None:
            return self._step(*inputs)
        with F.xp.cuda.Device(F.index):
            if self._captured is None:
                if not self._like:
                    self._like = [Tensor(F.copy(t.data), F) for t in inputs]
                    self._stream = F.xp.cuda.Stream(non_blocking=True)
                if self._warmup:
                    self._warmup -= 1
                    return self._run_aside(F, inputs)
                self._capture(F)
                if self.reason is not None:
                    return self._step(*inputs)
            return self._replay(F, inputs)

    def _check(self, inputs: tuple[Any, ...]) -> Any:
        """The backend of all inputs, which are like those of the first call."""
        if not inputs:
            raise TypeError(f"graph: {self._name} was called without a tensor; pass it what changes from call to call")
        for number, t in enumerate(inputs):
            if not isinstance(t, Tensor):
                raise TypeError(f"graph: argument {number} of {self._name} is a {type(t).__name__}; a graph would repeat the "
                                "first call's, pass tensors")  # fmt: skip
            device = self._like[0].device if self._like else inputs[0].device if inputs[0].is_cuda else "cuda"
            if t.F.kind != "cuda" or t.device != device:
                raise DeviceError(f"graph: argument {number} of {self._name} is on {t.device}; move it with .to({device!r}), or "
                                  "call the step itself")  # fmt: skip
        for number, (t, like) in enumerate(zip(inputs, self._like, strict=False)):
            if t.shape != like.shape:
                raise ShapeError(f"graph: argument {number} of {self._name} has shape {t.shape}, in the first call {like.shape}; "
                                 "a graph has one shape (drop_last=True leaves out a smaller last batch)")  # fmt: skip
            if t.dtype != like.dtype:
                raise DTypeError(f"graph: argument {number} of {self._name} has dtype {t.dtype}, in the first call {like.dtype}; "
                                 "a graph has one dtype")  # fmt: skip
        if self._like and len(inputs) != len(self._like):
            raise TypeError(f"graph: {self._name} got {len(inputs)} tensors, in the first call {len(self._like)}")
        return inputs[0].F

    def _run_aside(self, F: Any, inputs: tuple[Tensor, ...]) -> Any:
        """The step as it is, on the stream that will be captured."""
        current = F.xp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream, noting(self._owners):
            result = self._step(*inputs)
        current.wait_event(self._stream.record())
        return result

    # ---- capture

    def _capture(self, F: Any) -> None:
        """Sets ``_captured``, or ``reason``; the host's state is then as before."""
        cuda, key = F.xp.cuda, get_rng_state()
        undo = [owner.host_state() for owner in self._owners]
        kinds = [_kinds(owner) for owner in self._owners]
        capture = Capture(F.xp, key, cuda.Stream(non_blocking=True))
        capture.refused.update(_gradients(self._owners))
        _forget_pools()
        # What is freed in the capture may be used again in it, and nowhere else: replays will write there.
        pool = cuda.MemoryPool(cuda.get_allocator())
        self._stream.wait_event(cuda.get_current_stream().record())
        try:
            with self._stream:
                self._stream.begin_capture()
                try:
                    with cuda.using_allocator(pool.malloc), capture.active(), noting(self._owners), _own_casts():
                        self._outputs = self._step(*self._like)
                except BaseException:
                    with contextlib.suppress(Exception):
                        self._stream.end_capture()   # the stream must leave the mode; what it says is not the cause
                    raise
                captured = self._stream.end_capture()
            self._drawn = get_rng_state()[1] - key[1]
            self._expect_complete(capture, kinds)
        except Exception as error:
            self.reason = f"{_place(error)}{type(error).__name__}: {error}"
        gradients = [(p, p.grad) for p in _parameters(self._owners)]
        for restore in undo:
            restore()
        set_rng_state(key)
        if self.reason is not None:
            self._outputs = None
            # Three frames up is the call of the step.
            warnings.warn(f"minidl.cuda.graph: {self._name} cannot be captured, it runs eagerly from now on. {self.reason}",
                          RuntimeWarning, stacklevel=3)  # fmt: skip
            return
        for p, grad in gradients:
            p.grad = grad                            # the graph writes them there
        self._captured, self._numbers = captured, capture
        _pools.append((weakref.ref(self), pool))

    def _expect_complete(self, capture: Capture, kinds: list[Any]) -> None:
        """Nothing happened that a replay would not repeat."""
        if self._drawn != capture.live_keys:
            raise DeviceError(f"the step draws {self._drawn - capture.live_keys} times from the random generator other than by "
                              "dropout, and a graph would repeat the numbers; pass them to the step")  # fmt: skip
        for owner, before in zip(self._owners, kinds, strict=True):
            if _kinds(owner) != before:
                raise DeviceError(f"{type(owner).__name__}: a parameter got its first state in the capture, which a graph would "
                                  "make anew each time; let each call reach the same parameters")  # fmt: skip
        _map(self._outputs, lambda t: t)

    # ---- replay

    def _replay(self, F: Any, inputs: tuple[Tensor, ...]) -> Any:
        for own, given in zip(self._like, inputs, strict=True):
            F.copyto(own.data, given.data)
        seed, offset = key = get_rng_state()
        self._numbers.refresh()
        self._numbers.send(key)
        self._captured.launch()
        set_rng_state((seed, (offset + self._drawn) % 2**64))
        # Copies: the next replay writes where the graph's own results lie.
        return _map(self._outputs, lambda t: Tensor(F.copy(t.data), F))


@contextlib.contextmanager
def _own_casts() -> Iterator[None]:
    """Parameters that autocast converted before the capture are converted again in it, and in every replay."""
    state = autocast.get()
    with autocast(state and Casting(state.dtype, {})):
        yield


def _forget_pools() -> None:
    """Gives back the memory of graphs that are gone."""
    for entry in [entry for entry in _pools if entry[0]() is None]:
        entry[1].free_all_blocks()
        if not entry[1].used_bytes():
            _pools.remove(entry)


def _map(outputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``function`` of every tensor in nested tuples, lists and dicts."""
    if isinstance(outputs, Tensor):
        return function(outputs)
    if type(outputs) in (tuple, list):
        return type(outputs)(_map(part, function) for part in outputs)
    if type(outputs) is dict:
        return {key: _map(part, function) for key, part in outputs.items()}
    if outputs is None:
        return None
    raise DeviceError(f"the step returns a {type(outputs).__name__}, which a graph would repeat; return tensors")


def _parameters(owners: list[Any]) -> list[Tensor]:
    return [p for owner in owners for group in owner.param_groups for p in group["params"]]


def _gradients(owners: list[Any]) -> list[int]:
    """Where the gradients of the call before lie."""
    return [p.grad.data.data.ptr for p in _parameters(owners) if p.grad is not None]


def _kinds(owner: Any) -> dict[Tensor, set[str]]:
    """Which kinds of state each parameter has."""
    return {p: set(state) for p, state in owner.state.items()}


def _place(error: BaseException) -> str:
    """The last line on the way to an error that called minidl: "train.py, line 12, `if loss.item() > 2:`: "."""
    lines = [(str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename, number)
             for frame, number in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    own = [name.partition(".")[0] == "minidl" for name, _, _ in lines]
    callers = [line for line, here, below in zip(lines, own, own[1:], strict=False) if not here and below]
    others = callers or [line for line, here in zip(lines, own, strict=True) if not here]
    if not others:
        return ""
    _, file, number = others[-1]
    return f"{os.path.basename(file)}, line {number}, `{linecache.getline(file, number).strip()}`: "
