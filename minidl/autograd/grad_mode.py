"""Turning the recording of operations on and off; each works as a ``with`` block and as a decorator."""
from __future__ import annotations

import functools
from collections.abc import Callable
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
            raise GraphError("enable_grad() inside inference_mode(): nothing there can be differentiated; use no_grad() outside instead")
        self._tokens.append(grad_mode.set(self.enabled))

    def __exit__(self, *exc: object) -> None:
        grad_mode.reset(self._tokens.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        make = self._again

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with make():                             # a block of its own: safe in threads and recursion
                return function(*args, **kwargs)
        return wrapped

    def _again(self) -> _Mode:
        return _Mode(self.enabled)


class no_grad(_Mode):
    """Operations in this block are not recorded; their results need no gradient."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_Mode):
    """Operations in this block are recorded again, inside a ``no_grad`` block."""

    def __init__(self) -> None:
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


class inference_mode(_Mode):
    """As :class:`no_grad`, and ``enable_grad`` inside is an error: for code that must never record."""

    def __init__(self) -> None:
        super().__init__(False)
        self._inference: list[Token[bool]] = []

    def __enter__(self) -> None:
        super().__enter__()
        self._inference.append(inference.set(True))

    def __exit__(self, *exc: object) -> None:
        inference.reset(self._inference.pop())
        super().__exit__(*exc)

    def _again(self) -> _Mode:
        return inference_mode()
