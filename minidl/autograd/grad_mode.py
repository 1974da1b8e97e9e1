"""Turning the recording of operations on and off; each works as a ``with`` block and as a decorator."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextvars import Token
from typing import Any

from minidl.config import grad_mode, inference
from minidl.errors import GraphError

is_grad_enabled = grad_mode.get
is_inference_mode_enabled = inference.get


class _Mode:
    """A block during which recording is on or off.  Re-entrant: one object may be entered many times, as a decorator is."""

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        if self.enabled and inference.get():
            raise GraphError("enable_grad() inside inference_mode(): nothing there can be differentiated; use no_grad() "
                             "outside instead")
        self._tokens.append(grad_mode.set(self.enabled))

    def __exit__(self, *exc: object) -> None:
        grad_mode.reset(self._tokens.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        make = self._again
        if inspect.isclass(function):
            raise TypeError(f"{type(self).__name__}: decorate the methods of {function.__name__}, not the class")
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                return _generate(make, function(*args, **kwargs))
        elif inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with make():                         # a task has a context of its own
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with make():                         # a block of its own: safe in threads and recursion
                    return function(*args, **kwargs)

        return wrapped

    def _again(self) -> _Mode:
        return _Mode(self.enabled)


def _generate(make: Callable[[], _Mode], generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a generator with the mode set while it works, and not while its consumer does."""
    resume, value = generator.send, None
    while True:
        with make():
            try:
                item = resume(value)
            except StopIteration as stop:
                return stop.value
        try:
            value = yield item
            resume = generator.send
        except GeneratorExit:
            with make():
                generator.close()
            raise
        except BaseException as e:
            resume, value = generator.throw, e       # type: ignore[assignment]


class _Bare(_Mode):
    """A mode that decorates without brackets too: ``@no_grad`` and ``@no_grad()``."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)


class no_grad(_Bare):
    """Operations in this block are not recorded; their results need no gradient."""

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__(False)


class enable_grad(_Bare):
    """Operations in this block are recorded again, inside a ``no_grad`` block."""

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__(True)


class set_grad_enabled(_Mode):
    """Switch recording at once, for the rest of this thread; as a ``with`` block, switch back at its end."""

    def __init__(self, mode: bool):
        super().__init__(bool(mode))
        if mode and inference.get():
            raise GraphError("set_grad_enabled(True) inside inference_mode(): nothing there can be differentiated")
        self._tokens.append(grad_mode.set(self.enabled))

    def __enter__(self) -> None:
        pass                                         # already switched by the constructor

    def _again(self) -> _Mode:
        return _Mode(self.enabled)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        grad_mode.reset(self._tokens.pop())          # a decorator must leave the mode of its surroundings alone
        return super().__call__(function)


class inference_mode(_Bare):
    """As :class:`no_grad`, and ``enable_grad`` inside is an error: for code that must never record.

    ``inference_mode(False)`` changes nothing, so that one line serves both ways.
    """

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls, mode if callable(mode) else None)

    def __init__(self, mode: Any = True) -> None:
        self.mode = bool(mode)
        super().__init__(False)
        self._inference: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(grad_mode.set(not self.mode and grad_mode.get()))
        self._inference.append(inference.set(self.mode or inference.get()))

    def __exit__(self, *exc: object) -> None:
        inference.reset(self._inference.pop())
        super().__exit__(*exc)

    def _again(self) -> _Mode:
        return inference_mode(self.mode)
