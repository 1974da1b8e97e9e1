"""Activation checkpointing: trade memory for a second forward pass (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from minidl.autograd import node as clock
from minidl.autograd.autocast import get_autocast_dtype, restored
from minidl.autograd.engine import Recomputed
from minidl.autograd.grad_mode import enable_grad
from minidl.autograd.node import Node, written_since
from minidl.backend.rng import default_generator
from minidl.config import grad_mode
from minidl.errors import GraphError, InplaceError
from minidl.tensor import Tensor


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool = False, preserve_rng_state: bool = True, **kwargs: Any
) -> Any:
    """``function(*args, **kwargs)``, keeping none of the arrays inside it; the backward pass computes them again.

    The graph is recorded as usual, so parameters used inside get their gradients, and ``grad`` and ``create_graph`` work.
    Then the arrays that its nodes keep are dropped.  When the backward pass reaches one of them, the function runs once
    more, from the same random state and under the same autocast, and all of them are filled in.

    The function must do the same both times; running statistics in it (batch norm) are updated twice.

    Args:
        function: returns a tensor, or a tuple, list or dict of tensors.
        use_reentrant: PyTorch's name, for code written for it; only False means anything here.
        preserve_rng_state: draw the same random numbers (dropout) the second time, and leave the generator as it was.

    Raises:
        GraphError: the second run recorded other operations, or shapes, than the first.
        InplaceError: something that the function used was changed in place before the backward pass.
    """
    if use_reentrant:
        raise ValueError("checkpoint: use_reentrant=True is not supported; leave it out, gradients are the same without it")
    if not grad_mode.get():
        return function(*args, **kwargs)
    state, casting = default_generator.get_state(), get_autocast_dtype()
    start = clock.tick()
    with restored(casting):
        out = function(*args, **kwargs)
    nodes = _recorded_since(start, out)
    segment = _Segment(function, args, kwargs, state if preserve_rng_state else None, casting, nodes, out)
    for i, node in enumerate(nodes):
        if len(node.saved):
            node.saved = Recomputed(lambda i=i: segment.restore(i))  # type: ignore[misc]
    return out


def _tensors_in(values: Any) -> Iterable[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors_in(value)


def _recorded_since(start: int, out: Any) -> list[Node]:
    """The nodes younger than ``start`` that lead to ``out``, oldest first."""
    stack = list({t.edge for t in _tensors_in(out) if t.edge is not None})
    seen = set(stack)
    nodes = []
    while stack:
        node = stack.pop()
        if not node.seq or node.seq >= start:
            continue
        nodes.append(node)
        for edge in node.needs:
            if edge is not None and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(nodes, key=lambda n: -n.seq)


def _owner(array: Any, F: Any) -> Any:
    """The array that owns the memory of ``array``."""
    while type(array.base) is F.xp.ndarray:
        array = array.base
    return array


def _signature(nodes: list[Node]) -> list[Any]:
    """What two runs must have in common: each operation, and the shapes of what it keeps."""
    return [
        (n.name, "checkpointed" if type(n.saved) is Recomputed else [None if a is None else tuple(a.shape) for a in n.saved])
        for n in nodes
    ]


class _Segment:
    """One checkpointed call: what it takes to run it again."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, state: Any, casting: Any, nodes: list[Node],
                 out: Any):
        self.function, self.args, self.kwargs, self.state, self.casting = function, args, kwargs, state, casting
        self.signature = _signature(nodes)
        self.arrays: dict[int, Any] = {}
        # What the function read from outside outlives the drop, so writes into it can be noticed; what it returned is
        # the caller's to change, since the second run makes it anew.
        returned = {id(_owner(t.data, t.F)) for t in _tensors_in(out)}
        kept = [(a, n.F) for n in nodes if type(n.saved) is tuple for a in n.saved if a is not None]
        owners = {id(o): (o, F) for o, F in [(_owner(a, F), F) for a, F in kept]}
        self.outside = [(weakref.ref(o), F) for key, (o, F) in owners.items() if key not in returned]
        self.end = clock.tick()

    def restore(self, i: int) -> Any:
        """The arrays that node i kept; the first request runs the function."""
        if i not in self.arrays:
            self._run_again()
        return self.arrays.pop(i)

    def _run_again(self) -> None:
        given = [(t.data, t.F) for t in _tensors_in([self.args, self.kwargs])]
        for array, F in given + [(o, F) for reference, F in self.outside if (o := reference()) is not None]:
            if written_since(array, F, self.end):
                raise InplaceError(
                    f"checkpoint: an array of shape {tuple(array.shape)} that the function used was changed in place before the "
                    "backward pass runs it again; use the out-of-place form, or clone() the tensor before changing it"
                )
        now = default_generator.get_state()
        if self.state is not None:
            default_generator.set_state(self.state)
        try:
            with enable_grad(), restored(self.casting):
                start = clock.tick()
                nodes = _recorded_since(start, self.function(*self.args, **self.kwargs))
        finally:
            if self.state is not None:
                default_generator.set_state(now)
        signature = _signature(nodes)
        if signature != self.signature:
            pairs = zip(self.signature, signature, strict=False)
            first, second = next(((a, b) for a, b in pairs if a != b), (len(self.signature), len(signature)))
            what = "operations" if isinstance(first, int) else "as one of its operations and the shapes it keeps"
            raise GraphError(
                f"checkpoint: the first run recorded {first} {what}, the second {second}; the function must do the same both "
                "times (no branches on things that change)"
            )
        for node in nodes:
            node.check_writes()
        self.arrays = {k: node.saved for k, node in enumerate(nodes)}
