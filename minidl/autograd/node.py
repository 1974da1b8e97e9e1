"""What a graph is made of: nodes, leaves, and the clock that tells whether a kept array was overwritten.

An edge of the graph is a :class:`Node` (a recorded operation) or a :class:`Leaf` (where a gradient lands).  A Tensor has
an edge, and an edge never has a Tensor: no reference cycles, so memory is freed the moment the last user lets go.

**The clock.**  Every recorded operation takes the next number, and so does every write into an array.  Numbers run
downwards (-1, -2, ...), so that the newest node is the smallest, which is what a heap hands out first.  An in-place write
notes its number for the *storage*, which views share; a backward pass asks, for each node that is older than the newest
write of all, whether one of its kept arrays was written after it was kept.  Nothing is recorded per kept array.
"""
from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from minidl.errors import GraphError, InplaceError

tick: Callable[[], int] = itertools.count(-1, -1).__next__
last_write = 0
_stamping = threading.Lock()                         # or a thread could put an older number in last_write
_writes: dict[int, int] = {}                         # storage -> number of its newest write (a stale one is too old to matter)


def stamp(array: Any, F: Any) -> None:
    """Note an in-place write into the storage of ``array``."""
    global last_write
    storage = F.storage(array)
    with _stamping:
        last_write = _writes[storage] = tick()


def written_since(array: Any, F: Any, seq: int) -> bool:
    """Whether the storage of ``array`` was written to after the clock stood at ``seq``."""
    return _writes.get(F.storage(array), 0) < seq


class Leaf:
    """Where the gradient of a tensor that the user made lands; shared by the tensor and the nodes that use it."""

    __slots__ = ("grad", "hooks", "F", "shape", "__weakref__")
    seq = 0                                          # falsy: a leaf is never scheduled
    name = "leaf"

    def __init__(self, F: Any, shape: tuple[int, ...]):
        self.grad: Any = None
        self.hooks: list[Callable[[Any], Any]] | None = None
        self.F, self.shape = F, shape


class Node:
    """One recorded operation.

    ``needs[i]`` is the edge of input i, or None when that input needs no gradient.  ``saved`` holds the arrays that
    ``backward`` asked for; ``keeps`` says, class by class, which they are: an input's index, -1 for the output, or the
    name of an attribute that ``forward`` set.
    """

    __slots__ = ("seq", "F", "needs", "saved", "hooks", "__weakref__")
    keeps: tuple[Any, ...] = ()                      # each an int or a str
    keeps_all = False                                # all inputs, in order

    def __init__(self, F: Any, needs: Sequence[Any], saved: Any):
        self.seq = tick()
        self.F = F
        self.needs: Any = needs
        self.saved = saved
        self.hooks: list[Callable[[Any], Any]] | None = None

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def next_functions(self) -> tuple[Any, ...]:
        """The edges of the inputs, None where no gradient is needed (PyTorch's name, without its output numbers)."""
        return tuple(self.needs or ())

    @property
    def grad(self) -> Any:
        """What ``retain_grad`` kept, else None."""
        return next((h.grad for h in self.hooks or () if type(h) is Retain), None)

    @grad.setter
    def grad(self, value: Any) -> None:
        retain = next((h for h in self.hooks or () if type(h) is Retain), None)
        if retain is not None:
            retain.grad = value
        elif value is not None:
            raise GraphError(f"grad: this tensor was computed (by {self.name}); only leaves, and "
                             "tensors after retain_grad(), have a .grad")

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def saved_edges(self) -> list[Any]:
        """The edge of each kept array, for a backward pass that is itself recorded."""
        if self.keeps_all:
            return list(self.needs)
        return [None if type(k) is str else self if k < 0 else self.needs[k] for k in self.keeps]

    def check_writes(self) -> None:
        """Raise InplaceError when a kept array was written to after this operation ran."""
        if type(self.saved) is not tuple:            # checkpointed: the arrays are made again when they are needed
            return
        for array in self.saved:
            if array is not None and written_since(array, self.F, self.seq):
                raise InplaceError(
                    f"{self.name}: its backward needs an array of shape {tuple(array.shape)} that was changed in place after "
                    "the operation ran; use the out-of-place form, or clone() the tensor before changing it")


class Pick(Node):
    """Output k of an operation with several outputs: the engine itself knows only operations with one."""

    __slots__ = ("k",)

    def __init__(self, F: Any, node: Node, k: int):
        super().__init__(F, (node,), ())
        self.k = k

    @property
    def name(self) -> str:
        return f"{self.needs[0].name}[{self.k}]" if self.needs else f"Pick[{self.k}]"

    def backward(self, F: Any, gy: Any) -> tuple[Parts]:
        return (Parts({self.k: gy}),)


class Parts(dict):
    """What the backward of an operation with several outputs gets: {k: gradient}; outputs that were not used are absent."""

    __slots__ = ()


class Retain:
    """The hook behind ``retain_grad``: adds up what arrives, as a leaf does."""

    __slots__ = ("grad",)

    def __init__(self) -> None:
        self.grad: Any = None

    def __call__(self, gradient: Any) -> None:
        # A copy: the array may be on its way to other tensors too.
        self.grad = gradient.clone() if self.grad is None else self.grad + gradient
