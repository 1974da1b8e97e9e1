"""Activation checkpointing: trade memory for a second forward pass (Chen et al. 2016, arXiv:1604.06174)."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.autograd import node as clock
from minidl.autograd.engine import Recomputed
from minidl.autograd.grad_mode import enable_grad
from minidl.autograd.node import Node
from minidl.backend.rng import default_generator
from minidl.config import grad_mode
from minidl.errors import GraphError
from minidl.tensor import Tensor


def checkpoint(function: Callable[..., Any], *args: Any, preserve_rng_state: bool = True, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, keeping none of the arrays inside it; the backward pass computes them again.

    The graph is recorded as usual, so parameters used inside get their gradients, and ``grad`` and ``create_graph`` work.
    Then the arrays that its nodes keep are dropped.  When the backward pass reaches one of them, the function runs once
    more, from the same random state, and all of them are filled in.

    The function must do the same both times; running statistics in it (batch norm) are updated twice.

    Raises:
        GraphError: the second run recorded other operations than the first.
    """
    if not grad_mode.get():
        return function(*args, **kwargs)
    state = default_generator.get_state()
    start = clock.tick()
    out = function(*args, **kwargs)
    nodes = _recorded_since(start, out)
    segment = _Segment(function, args, kwargs, state if preserve_rng_state else None, nodes)
    for i, node in enumerate(nodes):
        if node.saved:
            node.saved = Recomputed(lambda i=i: segment.restore(i))      # type: ignore[misc]
    return out


def _recorded_since(start: int, out: Any) -> list[Node]:
    """The nodes younger than ``start`` that lead to ``out``, oldest first."""
    outs = [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]
    stack = [t.edge for t in outs if t.edge is not None]
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


class _Segment:
    """One checkpointed call: what it takes to run it again."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, state: Any, nodes: list[Node]):
        self.function, self.args, self.kwargs, self.state = function, args, kwargs, state
        self.names = [type(n).__name__ for n in nodes]
        self.arrays: dict[int, Any] = {}

    def restore(self, i: int) -> Any:
        """The arrays that node i kept; the first request runs the function."""
        if i not in self.arrays:
            now = default_generator.get_state()
            if self.state is not None:
                default_generator.set_state(self.state)
            try:
                with enable_grad():
                    start = clock.tick()
                    nodes = _recorded_since(start, self.function(*self.args, **self.kwargs))
            finally:
                default_generator.set_state(now)
            names = [type(n).__name__ for n in nodes]
            if names != self.names:
                raise GraphError(f"checkpoint: the second run recorded {names}, the first {self.names}; the function must do the same "
                                 "both times (no data-dependent branches on outside state)")
            self.arrays = {k: n.saved for k, n in enumerate(nodes)}
        return self.arrays.pop(i)
