"""The table of a net, layer by layer: sizes, receptive field, memory, parameters, operations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from minidl import nn
from minidl.inspect.field import Field, fields
from minidl.inspect.trace import Call, Operation, Shape, Trace, trace
from minidl.nn import Module

#: Kinds of layers that a table leaves out unless it is asked for all: they keep the size of what they are given.
QUIET = ("activation", "dropout", "norm", "same")
#: Kinds that have weights, which make a net deep and whose outputs are its units.
WEIGHTED = ("conv", "fc", "attention")

_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("conv", (nn.Conv2d, nn.ConvTranspose2d)),
    ("pool", (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)),
    ("fc", (nn.Linear,)),
    ("norm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)),
    ("flatten", (nn.Flatten,)),
    ("dropout", (nn.Dropout,)),
    ("attention", (nn.MultiheadAttention,)),
)
_VERBS = {
    "conv2d": "conv", "conv2d_input_grad": "conv", "linear": "fc", "max_pool2d": "pool", "avg_pool2d": "pool",
    "adaptive_avg_pool2d": "pool", "adaptive_max_pool2d": "pool", "matmul": "matmul", "attention": "matmul",
}  # fmt: skip


@dataclasses.dataclass
class Row:
    """One layer.  Sizes are without the batch; a field of None cannot be said of this layer.

    Args:
        name: as the lectures call it (conv1, pool1, fc6), or the module's path in nets with branches.
        path: the module's path in the net, ``model.get_submodule(path)``.
        kind: conv, pool, fc, norm, activation, dropout, flatten, attention, parameter, same (nothing changes) or other.
        kernel, stride, padding, dilation: (height, width); ``padding`` is that of the top and the left.
        filters: channels or features of the output, of layers with weights.
        field: the receptive field of its units in pixels of the input, with effective stride and padding.
        seen: height and width of what a unit sees in the layer's own input.
        weights: numbers in weights, biases not counted; ``biases``: in biases.
        macs: multiply-accumulate operations for one image: convolutions, linear maps and matrix products, without biases,
            pooling, activations and normalisation.
        units: output numbers of layers with weights.
    """

    name: str
    path: str
    kind: str
    input: Shape
    output: Shape
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] | None = None
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    filters: int | None = None
    field: Field | None = None
    seen: tuple[float, float] | None = None
    weights: int = 0
    biases: int = 0
    macs: int = 0
    units: int = 0

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases

    @property
    def memory(self) -> int:
        """Bytes of the output for one image, in float32."""
        return 0 if self.kind == "parameter" or not self.output else 4 * math.prod(self.output)

    @property
    def quiet(self) -> bool:
        """Whether the lectures' tables leave such a layer out."""
        return self.kind in QUIET


@dataclasses.dataclass
class Table:
    """The layers of a net and their totals.  Iterating gives the rows that the lectures show; ``rows`` holds all.

    Args:
        parameters: of the net, each counted once, biases and normalisation included.
        depth: layers with weights on the longest way through the net; the "16" of VGG-16.
    """

    model: str
    input: Shape
    rows: list[Row]
    parameters: int
    depth: int

    @property
    def shown(self) -> list[Row]:
        """The rows without activations, dropout and normalisation."""
        return [row for row in self.rows if not row.quiet]

    def __iter__(self) -> Any:
        return iter(self.shown)

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, name: str) -> Row:
        """The row called ``name``, or whose path it is."""
        for row in self.rows:
            if name in (row.name, row.path):
                return row
        raise KeyError(f"no layer {name!r}; the layers: {', '.join(row.name for row in self.rows)}")

    @property
    def hidden_layers(self) -> int:
        """Layers with weights, the last one (the output) not counted: AlexNet's 7."""
        return max(0, self.depth - 1)

    @property
    def units(self) -> int:
        """Outputs of all layers with weights, the "neurons": the 650K of AlexNet."""
        return sum(row.units for row in self.rows)

    @property
    def weights(self) -> int:
        """Parameters without biases."""
        return sum(row.weights for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def memory(self) -> int:
        """Bytes of the outputs of the shown layers for one image, in float32."""
        return sum(row.memory for row in self.shown)

    def share(self, kind: str, of: str) -> float:
        """The fraction of ``of`` ("memory", "parameters", "weights" or "macs") that layers of ``kind`` have."""
        rows = self.shown if of == "memory" else self.rows
        total = sum(getattr(row, of) for row in rows)
        return sum(getattr(row, of) for row in rows if row.kind == kind) / total if total else 0.0

    def summary(self) -> str:
        """A sentence with the depth, the units, the parameters and the operations."""
        return (
            f"{self.hidden_layers} hidden layers, {self.units:,} units, {self.parameters:,} parameters, "
            f"{self.macs / 1e6:,.1f} million multiply-accumulates per image"
        )


def table(model: Module, input_shape: Shape, name: str = "") -> Table:
    """The layers of ``model`` for images of ``input_shape`` (C, H, W).

    The net runs once, on no images: a net built under ``nn.init.shape_only()`` takes no memory, however large it is.

    Args:
        name: what the table calls the net; its class by default.

    Raises:
        MinidlError: what the net raises when images of that shape do not fit it.
    """
    seen = trace(model, tuple(input_shape))
    where = fields(seen)
    rows: list[tuple[int, Row]] = []
    parameters = _Parameters(model, seen)
    for call in seen.calls:
        own = seen.own(call)
        direct = any(True for _ in call.module.parameters(recurse=False))
        macs = sum(_macs(operation) for operation in own)
        if call.children == 0 or (direct and macs):
            row = _row(call.path, kind_of(call, own), call.in_shape[1:], call.out_shape[1:], own, where.get(call.out_edge))
            row.seen = _seen(seen, own, call)
            row.weights, row.biases = parameters.take(call.path)
            rows.append((call.begin, row))
            continue
        for operation in own:
            kind = _functional_kind(operation)
            if kind:
                path = f"{call.path}.{operation.verb}".lstrip(".")
                row = _row(path, kind, operation.in_shape[1:], operation.out_shape[1:], [operation], where.get(operation.node))
                row.seen = _seen(seen, [operation], None)
                rows.append((operation.node.seq, row))
    for name_, parameter, begin in parameters.rest():
        row = Row(name_, name_, "parameter", (), tuple(parameter.shape))
        row.weights, row.biases = (0, parameter.numel()) if _is_bias(name_) else (parameter.numel(), 0)
        rows.append((begin, row))
    ordered = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
    _drop_needless(ordered)
    if _is_chain(seen):
        _number(ordered)
    total = sum(p.numel() for p in model.parameters())
    return Table(name or type(model).__name__, tuple(input_shape), ordered, total, _depth(seen))


def _row(path: str, kind: str, given: Shape, result: Shape, own: list[Operation], field: Field | None) -> Row:
    """A row from the operations that belong to it."""
    row = Row(path or "(net)", path, kind, tuple(given), tuple(result), field=field)
    for operation in own:
        row.macs += _macs(operation)
        if operation.verb in ("conv2d", "conv2d_input_grad", "linear"):
            row.units += math.prod(operation.out_shape[1:])
    geometry = next((g for operation in own if (g := _geometry(operation.node)) is not None), None)
    if geometry is not None:
        row.kernel, row.stride = (geometry.kh, geometry.kw), tuple(geometry.stride)
        row.padding, row.dilation = (geometry.padding[0], geometry.padding[2]), tuple(geometry.dilation)
        row.groups = getattr(geometry, "groups", 1)
    elif kind == "pool" and len(given) == 3:
        size = result[1:] if len(result) == 3 else (1, 1)
        if all(n % m == 0 for n, m in zip(given[1:], size, strict=True)):
            row.kernel = row.stride = (given[1] // size[0], given[2] // size[1])
            row.padding = (0, 0)
    if kind in WEIGHTED and result:
        row.filters = result[0] if len(result) == 3 else result[-1]
    return row


def _geometry(node: Any) -> Any:
    return getattr(node, "geom", None) or (getattr(node, "options", None) or {}).get("geom")


def kind_of(call: Call, own: list[Operation]) -> str:
    """What kind of layer a call is; ``own`` are the operations that it did itself."""
    kind = next((kind for kind, types in _KINDS if isinstance(call.module, types)), "")
    if not kind:
        kind = next((_VERBS[operation.verb] for operation in own if operation.verb in ("conv2d", "linear")), "")
        kind = kind or next((_VERBS[operation.verb] for operation in own if operation.verb in _VERBS), "")
    if not kind and type(call.module).__module__ == nn.ReLU.__module__:
        kind = "activation"
    if call.in_shape == call.out_shape and kind in ("", "pool", "flatten"):
        return "same"
    return kind or "other"


def _functional_kind(operation: Operation) -> str:
    """The kind of an operation that stands for a layer although no module made it; "" for one that does not."""
    if operation.verb in _VERBS:
        return _VERBS[operation.verb]
    if len(operation.in_shape) == 4 and len(operation.out_shape) == 2:
        if operation.verb == "reshape":
            return "flatten"
        if operation.verb in ("mean", "amax"):
            return "pool"
    return ""


def _macs(operation: Operation) -> int:
    """Multiply-accumulates for one image."""
    node, result = operation.node, math.prod(operation.out_shape[1:])
    if operation.verb in ("conv2d", "conv2d_input_grad"):
        g = node.geom
        return g.O * g.out_h * g.out_w * (g.C // g.groups) * g.kh * g.kw
    if operation.verb == "linear":
        return result * operation.in_shape[-1]
    if operation.verb == "matmul":
        left, right = node.shapes
        return result * left[-1] if len(left) > 1 else math.prod(right)
    if operation.verb == "attention":
        (*_, width), (*_, keys, _), (*_, wide) = node.shapes
        return math.prod(operation.out_shape[1:-1]) * keys * (width + wide)
    return 0


def _seen(seen: Trace, own: list[Operation], call: Call | None) -> tuple[float, float] | None:
    """Height and width of what a unit sees in the input of its layer."""
    if not own:
        return None
    edges = own[0].inputs if call is None else call.in_edges
    shape = own[0].in_shape if call is None else call.in_shape
    if len(shape) != 4:
        return None
    inside = Trace(None, shape, [], {operation.node: operation for operation in own})
    field = fields(inside, {edge: shape for edge in edges if edge is not None}).get(own[-1].node)
    return None if field is None else field.size


class _Parameters:
    """Who has which parameters: each belongs to the called module that is nearest above it, and is counted once."""

    def __init__(self, model: Module, seen: Trace) -> None:
        self.left = dict(model.named_parameters())
        self.begins = {call.path: call.begin for call in reversed(seen.calls)}
        self.owners = {name: self._owner(name) for name in self.left}

    def _owner(self, name: str) -> str:
        path = name.rpartition(".")[0]
        while path not in self.begins and path:
            path = path.rpartition(".")[0]
        return path

    def take(self, path: str) -> tuple[int, int]:
        """The (weights, biases) of the module at ``path``; none the second time."""
        names = [name for name, owner in self.owners.items() if owner == path and name in self.left]
        counts = [0, 0]
        for name in names:
            counts[_is_bias(name)] += self.left.pop(name).numel()
        return counts[0], counts[1]

    def rest(self) -> list[tuple[str, Any, int]]:
        """Parameters that no row took, with the time when their module was called."""
        return [(name, p, self.begins.get(self.owners[name], 0)) for name, p in self.left.items()]


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2].endswith("bias")


def _drop_needless(rows: list[Row]) -> None:
    """Mark a flatten of maps of one pixel, which does nothing to see."""
    for row in rows:
        if row.kind == "flatten" and len(row.input) == 3 and row.input[1:] == (1, 1):
            row.kind = "same"


def _is_chain(seen: Trace) -> bool:
    """Whether the net is one layer after another, without branches."""
    used: dict[Any, int] = {}
    for operation in seen.operations.values():
        for edge in operation.inputs:
            if edge is not None:
                used[edge] = used.get(edge, 0) + 1
    return all(count == 1 for count in used.values())


def _number(rows: list[Row]) -> None:
    """Name the layers of a chain as the lectures do: conv1, pool1, conv2, ..., fc6; a pool has its convolution's number."""
    number = 0
    taken: dict[str, int] = {}
    for row in rows:
        number += row.kind in WEIGHTED
        kind = {"activation": "act", "same": row.path.rpartition(".")[2] or "same"}.get(row.kind, row.kind)
        name = kind if kind == "flatten" else f"{kind}{number}"
        taken[name] = taken.get(name, 0) + 1
        row.name = name if taken[name] == 1 else f"{name}{chr(96 + taken[name])}"


def _depth(seen: Trace) -> int:
    """The most layers with weights that a way from the input to an output passes."""
    depth: dict[Any, int] = {}
    for node, operation in seen.operations.items():
        below = max((depth.get(edge, 0) for edge in operation.inputs if edge is not None), default=0)
        depth[node] = below + (operation.verb in ("conv2d", "conv2d_input_grad", "linear"))
    return max(depth.values(), default=0)
