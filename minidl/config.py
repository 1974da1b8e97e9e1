"""Switches that belong to a thread (or an asyncio task), not to the process.

Each is a :class:`Switch`: call it as a context manager to change it for a block, ``get()`` it to read it::

    with minidl.config.strict_shapes(True):
        conv(x)                       # raises when the window does not fit evenly
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Switch(Generic[V]):
    """A named value with a default, changed for a block: ``with switch(value): ...``."""

    def __init__(self, name: str, default: V, doc: str):
        self.name, self.default, self.__doc__ = name, default, doc
        self._var: ContextVar[V] = ContextVar(f"minidl.{name}", default=default)
        self.get = self._var.get                     # bound once: reading a switch costs a dozen nanoseconds
        self.set = self._var.set
        self.reset = self._var.reset

    @contextmanager
    def __call__(self, value: V) -> Iterator[None]:
        token = self._var.set(value)
        try:
            yield
        finally:
            self._var.reset(token)

    def __repr__(self) -> str:
        return f"<switch {self.name}: {self.get()!r}>"


grad_mode: Switch[bool] = Switch("grad_mode", True, "Whether operations are recorded for the backward pass.")
inference: Switch[bool] = Switch("inference", False, "Whether an inference_mode() block is active.")
strict_shapes: Switch[bool] = Switch(
    "strict_shapes", False, "Raise, instead of flooring, when a convolution or pooling window does not fit evenly.")
initialisation: Switch[str] = Switch(
    "initialisation", "draw",
    'Initial values of parameters: "draw" them, "skip" drawing, or keep "shapes" only (see minidl.nn.init).')
conv_precision: Switch[str] = Switch(
    "conv_precision", "fast",
    "How convolutions may be computed: \"fast\" lets kernels use Winograd's transforms, whose float32 rounding errors are a few "
    "times larger; \"direct\" keeps to sums of products.")
autocast: Switch[Any] = Switch(
    "autocast", None, "The dtype of products in an autocast block; None outside of one (see minidl.autograd.autocast).")
allow_tf32: Switch[bool] = Switch(
    "allow_tf32", False,
    "Whether matrix products and convolutions of float32 on a GPU may round their factors to 10 bits (TF32), which tensor cores "
    "multiply; sums stay float32.  torch.backends.cuda.matmul.allow_tf32 and cudnn.allow_tf32 for a block.  Convolutions also "
    "want conv_precision \"fast\".")
