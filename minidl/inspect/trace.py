"""What a net does with an input of a given shape: which modules are called, and which operations they record.

The net runs once on a batch of *no* images, so that nothing is computed and nothing is allocated: VGG-16 and ViT-H take
milliseconds.  What it did is read from the graph that autograd recorded.  A graph does not know the shapes of its
intermediate results; a backward pass over the same empty batch tells them, since gradients have the shapes of values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

from minidl.autograd import engine
from minidl.autograd.grad_mode import enable_grad, no_grad
from minidl.autograd.node import Leaf, tick
from minidl.errors import ConfigError, MinidlError
from minidl.nn import Module
from minidl.ops.creation import zeros
from minidl.tensor import Tensor

Shape = tuple[int, ...]
_watching = threading.Lock()  # the engine has one pair of eyes


@dataclasses.dataclass(eq=False)
class Operation:
    """A recorded operation that the input reaches.

    Args:
        node: of the graph; ``node.verb`` names the operation and its attributes hold the options, such as ``geom``.
        inputs: the edges of its operands, None for those that do not depend on the net's input.
        in_shapes: of the operands that do, by position.
        out_shape: of the result (of the first one, if there are several).
    """

    node: Any
    inputs: tuple[Any, ...]
    in_shapes: dict[int, Shape]
    out_shape: Shape

    @property
    def verb(self) -> str:
        return getattr(self.node, "verb", "")

    @property
    def in_shape(self) -> Shape:
        return next(iter(self.in_shapes.values()), ())


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a module.  ``begin`` and ``end`` are readings of autograd's clock, which runs downwards.

    Args:
        children: how many calls of other modules it made.
        out_edge: where its (first) output is in the graph; None if the net's input does not reach it.
    """

    path: str
    module: Module
    begin: int
    end: int = 0
    children: int = 0
    in_shape: Shape = ()
    out_shape: Shape = ()
    in_edges: tuple[Any, ...] = ()
    out_edge: Any = None


@dataclasses.dataclass(eq=False)
class Trace:
    """A run: ``calls`` as they began, ``operations`` by node from the oldest to the newest; shapes with the batch's axis 0."""

    input: Any
    input_shape: Shape
    calls: list[Call]
    operations: dict[Any, Operation]

    def own(self, call: Call) -> list[Operation]:
        """The operations that ``call`` did itself, not those of the modules it called."""
        inside = [c for c in self.calls if c is not call and call.begin > c.begin and c.end > call.end]
        return [
            operation
            for operation in self.operations.values()
            if call.begin > operation.node.seq > call.end
            and not any(c.begin > operation.node.seq > c.end for c in inside)
        ]


def trace(model: Module, input_shape: Shape) -> Trace:
    """Run ``model`` on no images of ``input_shape`` (C, H, W) and say what happened.

    A net that cannot take an empty batch (``x.view(x.size(0), -1)`` cannot) gets one image of zeros.  The net is left as it
    was: its mode, its gradients and its statistics.

    Raises:
        ConfigError: an impossible ``input_shape``.
        MinidlError: what the net itself raises on inputs of that shape.
    """
    if not input_shape or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise ConfigError(f"inspect: input_shape must be positive sizes without the batch, (C, H, W), got {input_shape!r}")
    try:
        return _run(model, (0, *input_shape))
    except (MinidlError, ValueError, ZeroDivisionError):
        return _run(model, (1, *input_shape))


def _run(model: Module, shape: Shape) -> Trace:
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    options = {} if like is None else {"dtype": like.dtype, "device": like.device}
    x = zeros(shape, **options).requires_grad_()
    calls: list[Call] = []
    with _evaluation_mode(model), _watched_calls(model, calls), enable_grad():
        y = model(x)
    return Trace(x.edge, shape, calls, _operations(_tensors(y), x))


@contextlib.contextmanager
def _evaluation_mode(model: Module) -> Iterator[None]:
    """Evaluation mode, and then each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _watched_calls(model: Module, calls: list[Call]) -> Iterator[None]:
    """Add to ``calls`` whatever module below ``model`` is called."""
    open_calls: list[Call] = []
    handles = []

    def before(path: str) -> Any:
        def hook(module: Module, args: Any, kwargs: Any) -> None:
            given = _tensors((args, kwargs))
            call = Call(path, module, tick())
            call.in_shape = given[0].shape if given else ()
            call.in_edges = tuple(t.edge for t in given if t.edge is not None)
            if open_calls:
                open_calls[-1].children += 1
            open_calls.append(call)
            calls.append(call)

        return hook

    def after(module: Module, args: Any, output: Any) -> None:
        call = open_calls.pop()
        call.end = tick()
        results = _tensors(output)
        if results:
            call.out_shape, call.out_edge = results[0].shape, results[0].edge

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(before(path), prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in what a module takes or returns."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in _tensors(part)] if isinstance(value, (tuple, list)) else []


def _operations(outputs: list[Tensor], x: Tensor) -> dict[Any, Operation]:
    """The operations between ``x`` and ``outputs``, oldest first, with their shapes."""
    roots = [t for t in outputs if t.edge is not None]
    order = _leading_to(x.edge, roots)
    found = {
        node: Operation(node, tuple(e if e is x.edge or e in order else None for e in node.needs), {}, ())
        for node in order
    }
    for node, operation in found.items():
        # Or the pass would make the gradients of all parameters, which are as large as the net.
        node.needs = operation.inputs

    def watch(node: Any, gy: Any, grads: Any) -> None:
        operation = found.get(node)
        if operation is not None:  # else another thread's
            first = next(iter(gy.values())) if isinstance(gy, dict) else gy
            operation.out_shape = tuple(first.shape)
            pairs = enumerate(zip(operation.inputs, grads, strict=False))
            operation.in_shapes = {
                i: tuple(g.shape) for i, (edge, g) in pairs if edge is not None and g is not None and hasattr(g, "shape")
            }

    if found:
        with _watching, no_grad():
            previous, engine.watch = engine.watch, watch
            try:
                starts = [(t.edge, t.F.ones_like(t.data)) for t in roots if t.edge in found]
                engine.run(starts, False, False, [x.edge])
            finally:
                engine.watch = previous
    return found


def _leading_to(edge: Any, roots: list[Tensor]) -> dict[Any, None]:
    """The nodes below ``roots`` that depend on ``edge``, oldest first."""
    seen: set[Any] = {t.edge for t in roots}
    stack = list(seen)
    while stack:
        node = stack.pop()
        for source in node.needs if type(node) is not Leaf else ():
            if source is not None and source not in seen:
                seen.add(source)
                stack.append(source)
    order: dict[Any, None] = {}
    for node in sorted((n for n in seen if type(n) is not Leaf), key=lambda n: -n.seq):
        if any(source is edge or source in order for source in node.needs if source is not None):
            order[node] = None
    return order
