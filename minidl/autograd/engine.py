"""The backward pass: a walk over the graph from the newest operation to the oldest.

An operation is younger than everything it used, so by the time a node comes up, all its consumers have been there: no
sorting, no counting.  A chain never touches the heap; gradients wait in a dict local to the pass, so threads and nested
passes do not meet; nothing recurses.
"""
from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minidl.autograd import autocast
from minidl.autograd import node as clock
from minidl.autograd.function import tensors
from minidl.autograd.grad_mode import set_grad_enabled
from minidl.autograd.node import Leaf, Node, Parts, Retain
from minidl.errors import DTypeError, GraphError, ShapeError
from minidl.tensor import Tensor

Watch = Callable[[Node, Any, Sequence[Any]], None]
_accumulating = threading.Lock()                     # two threads may add to the .grad of one leaf
watch: Watch | None = None                           # anomaly mode and explain() look at each step through this

_FREED = ("{}: backward a second time through a graph that was freed after the first; pass retain_graph=True the first time, "
          "or compute the loss again")


def backward(tensors_: Tensor | Iterable[Tensor], gradients: Any = None, retain_graph: bool | None = None,
             create_graph: bool = False, inputs: Iterable[Tensor] | None = None) -> None:
    """Add the gradients of one or several tensors to ``.grad`` of their leaves.  See :meth:`Tensor.backward`."""
    roots = _roots(tensors_, gradients, create_graph, "backward")
    only = None
    if inputs is not None:
        only = [_edge_of(x, "backward") for x in _listed(inputs, "backward", "inputs")]
        if not only:
            raise GraphError("backward: inputs is empty; name at least one leaf, or leave it out to reach them all")
        if any(type(e) is not Leaf for e in only):
            raise GraphError("backward: inputs must be leaves; use minidl.autograd.grad() for computed tensors")
    with set_grad_enabled(create_graph), autocast.paused(create_graph):
        pending = run(roots, retain_graph, create_graph, only)
        while pending:                               # popping, so that a gradient that nobody else holds can be taken
            leaf, g = pending.popitem()
            F = leaf.F
            if leaf.hooks:
                g = _call_hooks(leaf, g, create_graph, F)
            if g.shape != leaf.shape:
                raise ShapeError(f"backward: a gradient of shape {tuple(g.shape)} arrived at a leaf of shape {leaf.shape}; "
                                 "the backward of one of its operations is wrong (gradcheck finds it), or .data was replaced")
            with _accumulating:
                if create_graph:
                    leaf.grad = g if leaf.grad is None else leaf.grad + g
                elif leaf.grad is None:
                    leaf.grad = Tensor(F.own(g), F)
                else:
                    leaf.grad = Tensor(F.add(leaf.grad.data, g), F)   # out of place: the user may hold the earlier one


def grad(outputs: Tensor | Iterable[Tensor], inputs: Tensor | Iterable[Tensor], grad_outputs: Any = None,
         retain_graph: bool | None = None, create_graph: bool = False, allow_unused: bool = False) -> tuple[Any, ...]:
    """d outputs / d inputs as tensors, leaving every ``.grad`` alone.

    Args:
        outputs, inputs: tensors; inputs may be leaves or computed tensors.
        grad_outputs: the gradient of each output; may be left out for outputs of one element.
        create_graph: make the results differentiable themselves.
        allow_unused: give None, instead of an error, for an input that the outputs do not depend on.
    """
    xs = _listed(inputs, "grad", "inputs")
    edges = [_edge_of(x, "grad") for x in xs]
    results = []
    with set_grad_enabled(create_graph), autocast.paused(create_graph):
        found = run(_roots(outputs, grad_outputs, create_graph, "grad"), retain_graph, create_graph, edges)
        for i, (x, edge) in enumerate(zip(xs, edges, strict=True)):
            g = found.get(edge)
            if g is None and not allow_unused:
                raise GraphError(f"grad: input {i} of shape {x.shape} was not used to compute the outputs; pass "
                                 "allow_unused=True for None")
            if g is not None and type(edge) is Leaf and edge.hooks:
                g = _call_hooks(edge, g, create_graph, x.F)
            results.append(g if g is None or create_graph else Tensor(g, x.F))
    return tuple(results)


def _edge_of(x: Any, name: str) -> Any:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a Tensor, found {type(x).__name__}")
    if x.edge is None:
        raise GraphError(f"{name}: an input of shape {x.shape} needs no gradient; call requires_grad_() before computing with it")
    return x.edge


def _listed(value: Any, name: str, what: str) -> list[Any]:
    """One tensor, or several, as a list."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "dtype") or not isinstance(value, Iterable):
        raise TypeError(f"{name}: {what} must be a Tensor or a list of Tensors, found {type(value).__name__}")
    return list(value)


def _roots(outputs: Any, gradients: Any, create_graph: bool, name: str) -> list[tuple[Any, Any]]:
    """[(edge, gradient)], with the gradients checked, made, and as arrays unless they are to be recorded."""
    ys = _listed(outputs, name, "outputs")
    gs = [None] * len(ys) if gradients is None else _listed(gradients, name, "the gradient")
    if len(gs) != len(ys):
        raise GraphError(f"{name}: {len(ys)} outputs but {len(gs)} gradients; give one for each")
    roots = []
    for y, g in zip(ys, gs, strict=True):
        if not isinstance(y, Tensor):
            raise TypeError(f"{name}: expected a Tensor, found {type(y).__name__}")
        if y.edge is None:
            raise GraphError(f"{name}: this tensor of shape {y.shape} was not computed from anything that needs a gradient; call "
                             "requires_grad_() on the inputs, and check that it was not made under no_grad() or by detach()")
        if g is None:
            if y.numel() != 1:
                raise GraphError(f"{name}: a tensor of shape {y.shape} needs an explicit gradient of that shape; or reduce "
                                 "it first, as in .sum()")
            g = Tensor(y.F.ones_like(y.data), y.F)
        else:
            if not isinstance(g, Tensor):
                raise TypeError(f"{name}: the gradient must be a Tensor, found {type(g).__name__}")
            if g.shape != y.shape:
                raise ShapeError(f"{name}: the gradient has shape {g.shape}, the tensor {y.shape}; they must be equal")
            if g.dtype != y.dtype:
                raise DTypeError(f"{name}: the gradient is {g.dtype}, the tensor {y.dtype}; they must be equal")
        roots.append((y.edge, g if create_graph else g.data))
    return roots


def _call_hooks(edge: Any, g: Any, create_graph: bool, F: Any) -> Any:
    t = g if create_graph else Tensor(g, F)
    for hook in sorted(edge.hooks, key=_is_retain):  # retain_grad keeps what the other hooks made of it
        result = hook(t)
        if result is not None:
            if not isinstance(result, Tensor):
                raise TypeError(f"{edge.name}: a hook must return a Tensor or None, found {type(result).__name__}")
            if result.shape != t.shape or result.dtype != t.dtype:
                raise ShapeError(f"{edge.name}: a hook returned {result.dtype} of shape {result.shape} for a gradient of "
                                 f"{t.dtype} of shape {t.shape}; they must be equal")
            t = result
    return t if create_graph else t.data


def _is_retain(hook: Any) -> bool:
    return type(hook) is Retain


def _leading_to(roots: list[tuple[Any, Any]], inputs: set[Any]) -> set[Any]:
    """The nodes from which one of ``inputs`` is reached."""
    seen = {edge for edge, _ in roots}
    stack = list(seen)
    nodes = []
    while stack:
        node = stack.pop()
        if not node.seq:
            continue
        if node.needs is None:
            if node in inputs:                       # freed, but the walk ends here
                continue
            raise GraphError(_FREED.format(node.name))
        nodes.append(node)
        for edge in node.needs:
            if edge is not None and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    nodes.sort(key=lambda n: -n.seq)                 # oldest first: inputs before their consumers
    useful: set[Any] = set()
    for node in nodes:
        if any(edge in useful or edge in inputs for edge in node.needs):
            useful.add(node)
    return useful


def run(roots: list[tuple[Any, Any]], retain_graph: bool | None, create_graph: bool,
        inputs: list[Any] | None = None) -> dict[Any, Any]:
    """Walk the graph below ``roots``; return {edge: gradient} for the leaves, or for ``inputs`` alone.

    The caller sets the grad mode: on when the pass is to be recorded, else off.
    """
    keep = create_graph if retain_graph is None else retain_graph
    pending: dict[Any, Any] = {}
    heap: list[tuple[int, Any]] = []
    owned: set[Any] = set()                          # edges whose waiting gradient was made here, and may be added to
    found: dict[Any, Any] = {}
    wanted = useful = None
    if inputs is not None:
        wanted = set(inputs)
        useful = _leading_to(roots, wanted)
    for edge, g in roots:
        if edge in pending:
            pending[edge] = edge.F.add(pending[edge], g) if not create_graph else pending[edge] + g
        else:
            pending[edge] = g
            if edge.seq:
                heap.append((edge.seq, edge))
    heapq.heapify(heap)
    push, pop = heapq.heappush, heapq.heappop
    node = pop(heap)[1] if heap else None
    while node is not None:
        gy = pending.pop(node)
        F = node.F
        if node.hooks:
            gy = _call_hooks(node, gy, create_graph, F)
        if wanted is not None and node in wanted:
            found[node] = gy
        if useful is not None and node not in useful:
            node = pop(heap)[1] if heap else None
            continue
        needs = node.needs
        if needs is None:
            raise GraphError(_FREED.format(node.name))
        if node.seq > clock.last_write:
            node.check_writes()
        saved = node.saved
        if create_graph:
            saved = [None if a is None else Tensor(a, F, e) for a, e in zip(saved, node.saved_edges(), strict=True)]
            F = tensors
        n = len(saved)                               # f(*saved) costs 100 ns more than spelling the usual cases out
        if n == 0:
            grads = node.backward(F, gy)
        elif n == 1:
            grads = node.backward(F, gy, saved[0])
        elif n == 2:
            grads = node.backward(F, gy, saved[0], saved[1])
        else:
            grads = node.backward(F, gy, *saved)
        if watch is not None:
            watch(node, gy, grads)
        if not keep:
            node.needs = node.saved = None
        following = None                             # a chain never touches the heap
        for edge, g in zip(needs, grads):            # noqa: B905 (strict costs time in the innermost loop; gradcheck looks)
            if edge is None or g is None:
                continue
            if edge in pending:
                if type(g) is Parts:
                    pending[edge].update(g)          # each output has one Pick: none comes twice
                elif create_graph:
                    pending[edge] = pending[edge] + g
                elif edge in owned:
                    pending[edge] = edge.F.add_into(pending[edge], g)
                else:
                    pending[edge] = edge.F.add(pending[edge], g)
                    owned.add(edge)
            else:
                pending[edge] = g
                if edge.seq:
                    if following is None:
                        following = edge
                    else:
                        push(heap, (edge.seq, edge))
        if heap:
            if following is None:
                following = pop(heap)[1]
            elif heap[0][0] < following.seq:
                following = heapq.heapreplace(heap, (following.seq, following))[1]
        node = following
    if wanted is None:
        return pending
    return found | {edge: g for edge, g in pending.items() if edge in wanted}


class Recomputed:
    """Kept arrays that were dropped and are computed again when the backward pass asks for them (checkpointing)."""

    __slots__ = ("restore",)

    def __init__(self, restore: Callable[[], Sequence[Any]]):
        self.restore = restore

    def __len__(self) -> int:
        return 3                                     # "several": the engine then unpacks, which computes them

    def __iter__(self) -> Any:
        return iter(self.restore())
