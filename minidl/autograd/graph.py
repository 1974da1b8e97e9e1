"""Looking at a graph: in words (``explain``) and as a drawing (``to_dot``)."""
from __future__ import annotations

from typing import Any

from minidl.autograd import engine
from minidl.autograd.grad_mode import no_grad
from minidl.autograd.node import Leaf, Node, Parts
from minidl.errors import GraphError
from minidl.tensor import Tensor


def _collect(root: Any) -> list[Any]:
    """All edges below ``root``, newest first, leaves last."""
    seen = {root: None}                              # a dict, for its order: leaves come as they were found
    stack = [root]
    while stack:
        node = stack.pop()
        if node.seq and node.needs is None:
            raise GraphError(f"{node.name}: this graph was freed by a backward pass; look at it before, or pass "
                             "retain_graph=True")
        for edge in node.needs if node.seq else ():
            if edge is not None and edge not in seen:
                seen[edge] = None
                stack.append(edge)
    return sorted(seen, key=lambda e: e.seq or 1)


def _shape(g: Any) -> str:
    if type(g) is Parts:
        return " and ".join(f"{tuple(a.shape)} for output {k}" for k, a in sorted(g.items()))
    return str(tuple(g.shape))


def _kept(node: Node) -> list[str]:
    """What a node keeps, as shapes; arrays that a checkpoint dropped are not computed for this."""
    if type(node.saved) is not tuple:
        return ["nothing, it is inside a checkpoint"]
    return [str(tuple(a.shape)) for a in node.saved if a is not None]


def explain(tensor: Tensor) -> str:
    """The backward pass from ``tensor`` in words: which gradient arrives at each operation, and where it goes on to.

    It really walks (keeping the graph, and leaving every ``.grad`` alone), so the shapes are those of the real pass.
    """
    if tensor.edge is None:
        return f"A tensor of shape {tensor.shape} that needs no gradient: nothing to explain."
    order = _collect(tensor.edge)
    names = {}
    for number, edge in enumerate(order):
        names[edge] = f"leaf {number + 1} {edge.shape}" if type(edge) is Leaf else f"step {number + 1} ({edge.name})"
    steps: dict[Node, str] = {}

    def watch(node: Node, gy: Any, grads: Any) -> None:
        if node not in names:                        # another thread's pass
            return
        sent = [f"{_shape(g)} to {names[e]}" for e, g in zip(node.needs, grads, strict=True) if e is not None and g is not None]
        kept = _kept(node)
        steps[node] = (f"{node.name}: a gradient of shape {_shape(gy)} arrives; it sends {', '.join(sent) or 'nothing on'}."
                       + (f" It used what it had kept: {', '.join(kept)}." if kept else ""))

    F, before = tensor.F, engine.watch
    hooks = {edge: edge.hooks for edge in order}
    engine.watch = watch
    try:
        for edge in order:
            edge.hooks = None                        # looking must not call them, nor fill a retained .grad
        with no_grad():
            engine.run([(tensor.edge, F.ones_like(tensor.data))], True, False)
    finally:
        engine.watch = before
        for edge, its in hooks.items():
            edge.hooks = its
    lines = [f"Backward from a tensor of shape {tensor.shape}, {len(steps)} operations, newest first:"]
    for number, edge in enumerate(order, 1):
        if type(edge) is Leaf:
            lines.append(f"{number:4}. leaf of shape {edge.shape}: the sum of what arrived is added to its .grad.")
        else:
            lines.append(f"{number:4}. {steps.get(edge, edge.name + ': no gradient arrives.')}")
    return "\n".join(lines)


def to_dot(tensor: Tensor) -> str:
    """The graph below ``tensor`` in Graphviz's language: ``dot -Tsvg`` draws it.

    Boxes are operations with the shapes they keep, ellipses are leaves; arrows run the way the data ran.
    """
    if tensor.edge is None:
        raise GraphError("to_dot: this tensor needs no gradient, so it has no graph; call requires_grad_() on the inputs")
    order = _collect(tensor.edge)
    ids = {edge: f"n{i}" for i, edge in enumerate(order)}
    lines = ["digraph minidl {", "  rankdir=BT; node [fontname=Helvetica, fontsize=10];"]
    for edge, key in ids.items():
        if type(edge) is Leaf:
            lines.append(f'  {key} [shape=ellipse, label="leaf\\n{edge.shape}"];')
            continue
        kept = "".join(f"\\nkeeps {shape}" for shape in _kept(edge))
        lines.append(f'  {key} [shape=box, label="{edge.name}{kept}"];')
        lines += [f"  {ids[source]} -> {key};" for source in edge.needs if source is not None]
    lines.append(f'  out [shape=plaintext, label="{tensor.shape}"]; {ids[tensor.edge]} -> out;')
    return "\n".join(lines + ["}"])
