"""Checks around a user's own Function: what its author returned, against what the engine counts on.

A class with a ``verb`` is one of minidl's own: its tests check the same once, and it runs unchecked at full speed.  Every
other subclass of :class:`~minidl.autograd.Function` gets its ``forward`` and ``backward`` wrapped when it is defined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from minidl.autograd.node import Parts
from minidl.errors import DTypeError, GraphError, ShapeError
from minidl.tensor import Tensor


def check_definition(cls: Any) -> None:
    """Raise TypeError for a class written in the style of PyTorch: static methods with a context."""
    for name in ("forward", "backward"):
        if isinstance(vars(cls).get(name), staticmethod):
            raise TypeError(
                f"{cls.__name__}.{name}: a static method; here forward(self, F, x, ...) and backward(self, F, gy, x, ...) are "
                "ordinary methods, what backward needs is named in its signature, and there is no ctx"
            )


def checked_forward(cls: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` with its results as arrays of their own, and with a word about a kept attribute that is missing."""

    @functools.wraps(forward)
    def wrapped(self: Any, F: Any, *arrays: Any, **options: Any) -> Any:
        y = forward(self, F, *arrays, **options)
        for name in cls.keeps:
            if type(name) is str and not hasattr(self, name):
                raise TypeError(
                    f"{cls.__name__}.backward: {name!r} is neither an input of forward nor y nor an attribute that forward set; "
                    f"the inputs are {', '.join(cls.inputs) or 'variadic'}"
                )
        if hasattr(self, "__dict__"):
            self._found = [None if a is None else (tuple(a.shape), a.dtype) for a in arrays]
        if type(y) in (tuple, list):
            return tuple(_result(cls, a, F, arrays) for a in y)
        return _result(cls, y, F, arrays)

    return wrapped


def _result(cls: Any, y: Any, F: Any, arrays: Sequence[Any]) -> Any:
    if isinstance(y, Tensor):
        raise TypeError(f"{cls.__name__}.forward: returned a Tensor; it works on arrays, through the verbs of F")
    if y is None:
        raise TypeError(f"{cls.__name__}.forward: returned None; return the result, or a tuple of results")
    y = F.asarray(y)
    home = F.storage(y)
    # The engine knows of shared memory only where an operation says that it is a view.
    return F.copy(y) if any(a is not None and F.storage(a) == home for a in arrays) else y


def checked_backward(cls: Any, backward: Callable[..., Any]) -> Callable[..., Any]:
    """``backward`` with its gradients counted, and their shapes and dtypes compared with the inputs'."""

    @functools.wraps(backward)
    def wrapped(self: Any, F: Any, gy: Any, *kept: Any) -> list[Any]:
        grads = backward(self, F, gy, *kept)
        if type(grads) not in (tuple, list):
            grads = (grads,)
        needs = self.needs
        if len(grads) != len(needs):
            raise GraphError(
                f"{cls.__name__}.backward: returned {len(grads)} gradients, but forward took {len(needs)} tensors; return one "
                "for each, None where none is needed"
            )
        found = getattr(self, "_found", None) or [None] * len(needs)
        recorded = isinstance(next(iter(gy.values())) if type(gy) is Parts else gy, Tensor)
        return [
            None if need is None or g is None else _gradient(cls, i, g, F, recorded, found[i])
            for i, (need, g) in enumerate(zip(needs, grads, strict=True))
        ]

    return wrapped


def _gradient(cls: Any, i: int, g: Any, F: Any, recorded: bool, found: Any) -> Any:
    where = f"{cls.__name__}.backward: the gradient of input {i}"
    if isinstance(g, Tensor) != recorded:
        level = "Tensors, since the backward pass is recorded" if recorded else "arrays"
        raise TypeError(f"{where} is of type {type(g).__name__}, but this pass works on {level}; compute it with the verbs of F")
    if not recorded:
        g = F.asarray(g)
    if found is not None:
        shape, dtype = found
        if tuple(g.shape) != shape:
            raise ShapeError(f"{where} has shape {tuple(g.shape)}, the input {shape}; they must be equal")
        if g.dtype != dtype:
            raise DTypeError(f"{where} is {g.dtype}, the input {dtype}; they must be equal")
    return g
