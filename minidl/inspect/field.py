"""Receptive fields: which pixels of the input a unit can see.

Per axis, unit i of a map sees the ``size`` pixels from ``start + i * jump`` on.  An operation with kernel k, stride s and
padding p that reads a map with (size r, jump j, start t) gives

    r' = r + (k - 1) j        j' = j s        t' = t - p j

so after a chain of layers the *effective* stride is j and the *effective* padding is -t: the net steps over the image as
one layer with kernel r, stride j and padding -t would (with dilation d, k is d (k - 1) + 1).  Where branches meet, a unit
sees what either sees.  A fully connected layer reads a map through one window as large as the map, stride 1.

Normalisation counts as elementwise: what its statistics read is not part of the field.  Attention sees everything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from minidl.errors import ConfigError
from minidl.inspect.trace import Operation, Shape, Trace

Box = tuple[int, int, int, int]


class Axis(NamedTuple):
    """One axis of a field: unit i of ``units`` sees ``size`` pixels from ``start + i * jump`` on."""

    size: float
    jump: float
    start: float
    units: int


@dataclasses.dataclass(frozen=True)
class Field:
    """The receptive field of the units of a tensor.

    Args:
        axes: height and width.
        where: the tensor's axes that run over height and width; one axis that runs over both (the tokens of a
            Transformer), or none (a vector, whose elements see all).
    """

    axes: tuple[Axis, Axis]
    where: tuple[int, ...]

    @property
    def size(self) -> tuple[float, float]:
        """Height and width, in pixels of the input; what hangs over its edge is counted."""
        return self.axes[0].size, self.axes[1].size

    @property
    def stride(self) -> tuple[float, float]:
        """The effective stride: how far the fields of neighbours lie apart."""
        return self.axes[0].jump, self.axes[1].jump

    @property
    def padding(self) -> tuple[float, float]:
        """The effective padding: how far the first field reaches beyond the image."""
        return -self.axes[0].start, -self.axes[1].start

    def whole(self) -> Field:
        """The field of something that reads the whole map."""
        height, width = (compose(axis, Whole(axis.units), 1) for axis in self.axes)
        return Field((height, width), ())


class Window(NamedTuple):
    """Output i reads the inputs from ``i * stride - before``, ``span`` of them."""

    span: int = 1
    stride: int = 1
    before: int = 0

    def back(self, low: int, high: int) -> tuple[int, int]:
        """The inputs that the outputs ``low`` to ``high`` read, both included."""
        return low * self.stride - self.before, high * self.stride - self.before + self.span - 1


class Whole(NamedTuple):
    """Every output reads all inputs."""

    inputs: int
    stride: int = 1
    before: int = 0

    @property
    def span(self) -> int:
        return self.inputs

    def back(self, low: int, high: int) -> tuple[int, int]:
        return 0, self.inputs - 1


class Shares(NamedTuple):
    """Output i of n reads the inputs floor(i m / n) to ceil((i + 1) m / n) - 1 of m: adaptive pooling."""

    inputs: int
    outputs: int
    before: int = 0

    @property
    def span(self) -> int:
        return max(b - a + 1 for a, b in (self.back(i, i) for i in range(self.outputs)))

    @property
    def stride(self) -> float:
        return self.inputs / self.outputs if self.outputs > 1 else 1

    def back(self, low: int, high: int) -> tuple[int, int]:
        return low * self.inputs // self.outputs, -(-(high + 1) * self.inputs // self.outputs) - 1


class Spread(NamedTuple):
    """A transposed convolution: input i writes to the outputs from ``i * step - cut``, ``reach`` of them."""

    reach: int
    step: int
    cut: int

    @property
    def span(self) -> int:
        return (self.reach - 1) // self.step + 1

    @property
    def stride(self) -> float:
        return 1 / self.step

    @property
    def before(self) -> float:
        return -self.back(0, 0)[0]

    def back(self, low: int, high: int) -> tuple[int, int]:
        return -(-(low + self.cut - self.reach + 1) // self.step), (high + self.cut) // self.step


class Picked(NamedTuple):
    """Output i reads the input ``places[i]`` of ``inputs``: resizing by indices."""

    places: tuple[int, ...]
    inputs: int
    span: int = 1

    @property
    def stride(self) -> float:
        return self.inputs / len(self.places)

    @property
    def before(self) -> int:
        return -self.places[0]

    def back(self, low: int, high: int) -> tuple[int, int]:
        part = self.places[low : high + 1]
        return min(part), max(part)


class Mirror(NamedTuple):
    """The axis the other way round."""

    inputs: int
    span: int = 1
    stride: int = 1
    before: int = 0

    def back(self, low: int, high: int) -> tuple[int, int]:
        return self.inputs - 1 - high, self.inputs - 1 - low


def compose(axis: Axis, rule: Any, units: int) -> Axis:
    """The field after an operation with ``rule`` whose result has so many ``units``."""
    return Axis(axis.size + (rule.span - 1) * axis.jump, axis.jump * rule.stride, axis.start - rule.before * axis.jump, units)


def union(axes: list[Axis]) -> Axis:
    """The field where branches meet; a branch with one unit (it was broadcast) sees the same everywhere."""
    many = [axis for axis in axes if axis.units > 1] or axes
    start = min(axis.start for axis in axes)
    end = max(axis.start + axis.size for axis in axes)
    return Axis(end - start, max(axis.jump for axis in many), start, max(axis.units for axis in axes))


# ------------------------------------------------------------------------------------------- what each operation reads

Rules = tuple[Any, Any]  # for height and width
SAME: Rules = (Window(), Window())


def _geometry(operation: Operation, field: Field, k: int) -> Rules:
    node = operation.node
    g = node.geom if hasattr(node, "geom") else node.options["geom"]
    spans = (g.kh - 1) * g.dilation[0] + 1, (g.kw - 1) * g.dilation[1] + 1
    kind = Spread if operation.verb == "conv2d_input_grad" else Window
    return kind(spans[0], g.stride[0], g.padding[0]), kind(spans[1], g.stride[1], g.padding[2])


def _adaptive(operation: Operation, field: Field, k: int) -> Rules:
    (h, w), (out_h, out_w) = operation.in_shapes[k][2:], operation.out_shape[2:]
    return Shares(h, out_h), Shares(w, out_w)


def _pad(operation: Operation, field: Field, k: int) -> Rules:
    before = [low for low, _ in operation.node.widths]
    return Window(before=before[field.where[0]]), Window(before=before[field.where[1]])


def _concatenate(operation: Operation, field: Field, k: int) -> Rules:
    node = operation.node
    offset = sum(node.sizes[:k])
    axis = node.axis % len(operation.out_shape)
    return Window(before=offset * (axis == field.where[0])), Window(before=offset * (axis == field.where[1]))


def _flip(operation: Operation, field: Field, k: int) -> Rules:
    flipped = operation.node.axes
    flipped = {a % len(operation.out_shape) for a in ((flipped,) if isinstance(flipped, int) else flipped)}
    rules = [Mirror(axis.units) if at in flipped else Window() for at, axis in zip(field.where, field.axes, strict=True)]
    return rules[0], rules[1]


#: verb -> the windows through which a result on a grid reads its k-th operand.
GRID_RULES: dict[str, Callable[[Operation, Field, int], Rules]] = {
    "conv2d": _geometry, "conv2d_input_grad": _geometry, "max_pool2d": _geometry, "avg_pool2d": _geometry,
    "adaptive_avg_pool2d": _adaptive, "adaptive_max_pool2d": _adaptive, "pad": _pad, "concatenate": _concatenate,
    "flip": _flip,
}  # fmt: skip
REDUCTIONS = {"sum", "mean", "amax", "amin", "prod", "cumsum", "einsum", "im2col", "col2im"}


def _read(operation: Operation, k: int, field: Field) -> tuple[Rules, tuple[int, ...]] | None:
    """How a result reads its k-th operand, and where its spatial axes are then; None: each element reads everything."""
    verb, before, after = operation.verb, operation.in_shapes.get(k, ()), operation.out_shape
    where = field.where
    if not where:
        return SAME, ()
    if verb == "getitem":
        return _index(operation.node.index, field, before, after)
    if verb == "transpose":
        axes = operation.node.axes
        order = list(reversed(range(len(before)))) if axes is None else [a % len(before) for a in axes]
        return SAME, tuple(order.index(at) for at in where)
    if verb == "reshape":
        moved = _reshaped(where, before, after)
        return None if moved is None else (SAME, moved)
    if verb == "linear" and where[-1] == len(before) - 1:
        return None
    if verb == "attention":
        return None
    if verb == "matmul" and (len(operation.in_shapes) > 1 or where[-1] >= len(before) - 2 and len(where) > 1):
        return None  # the product of two maps is attention: everything sees everything
    if verb in REDUCTIONS:
        kept = getattr(operation.node, "kept_shape", None)
        if kept is None or any(kept[at] != before[at] for at in where):
            return None
        lost = 0 if len(after) == len(before) else sum(1 for i in range(where[0]) if kept[i] != before[i])
        return SAME, tuple(at - lost for at in where)
    shift = max(0, len(after) - len(before)) if verb != "stack" else int(operation.node.axis <= where[0])
    where = tuple(at + shift for at in where)
    if len(field.where) == 2 and verb in GRID_RULES:
        return GRID_RULES[verb](operation, field, k), where
    if verb in GRID_RULES and verb != "concatenate":
        return None
    return SAME, where


def _index(index: Any, field: Field, before: Shape, after: Shape) -> tuple[Rules, tuple[int, ...]] | None:
    """Indexing: slices step over the map, lists of places (interpolation) scale it, a single place sees what it saw."""
    parts = list(index) if isinstance(index, tuple) else [index]
    kinds = [type(part) for part in parts]
    if type(None) in kinds:
        return None
    if type(Ellipsis) in kinds:
        at = kinds.index(type(Ellipsis))
        parts[at : at + 1] = [slice(None)] * (len(before) - len(parts) + 1)
    parts += [slice(None)] * (len(before) - len(parts))
    gone = [i for i, part in enumerate(parts) if isinstance(part, int)]
    if len(field.where) == 1:  # tokens: some of them
        at = field.where[0]
        return (SAME, ()) if at in gone else (SAME, (at - sum(g < at for g in gone),))
    rules: list[Any] = []
    for at in field.where:
        part, n = parts[at], before[at]
        if isinstance(part, slice):
            start, _, step = part.indices(n)
            rules.append(Window(1, step, -start) if step > 0 else Whole(n))
        elif getattr(part, "ndim", 1) == 1 and len(part):
            rules.append(Picked(tuple(int(i) % n for i in part), n))
        else:
            return None
    return (rules[0], rules[1]), tuple(at - sum(g < at for g in gone) for at in field.where)


def _reshaped(where: tuple[int, ...], before: Shape, after: Shape) -> tuple[int, ...] | None:
    """The spatial axes after a reshape: kept, or joined into one of tokens; None where they are mixed with others."""

    def left_of(shape: Shape, at: int) -> int:
        return math.prod(shape[1:at])  # axis 0 is the batch, which may be empty

    size = math.prod(before[at] for at in where)
    if len(where) == 2 and where[1] == where[0] + 1:
        for at in range(1, len(after) - 1):
            same = after[at] == before[where[0]] and after[at + 1] == before[where[1]]
            if same and left_of(after, at) == left_of(before, where[0]):
                return at, at + 1
    if len(where) == 2 and where[1] != where[0] + 1:
        return None
    for at in range(1, len(after)):
        if after[at] == size and left_of(after, at) == left_of(before, where[0]):
            return (at,)
    return None


# ---------------------------------------------------------------------------------------------------- fields of a trace


def fields(trace: Trace, sources: dict[Any, Shape] | None = None) -> dict[Any, Field]:
    """The field of every operation's result, by its node, in pixels of the images (N, C, H, W) that the net was given.

    Args:
        sources: measure in units of these tensors, {edge: shape}, instead.
    """
    sources = {trace.input: trace.input_shape} if sources is None else sources
    found: dict[Any, Field] = {
        edge: Field((Axis(1, 1, 0, shape[2]), Axis(1, 1, 0, shape[3])), (2, 3))
        for edge, shape in sources.items()
        if len(shape) == 4
    }
    for node, operation in trace.operations.items():
        if node not in found:
            read = [(k, found[edge]) for k, edge in enumerate(operation.inputs) if edge in found]
            if read:
                found[node] = _merged([_after(operation, k, field) for k, field in read])
    return found


def _after(operation: Operation, k: int, field: Field) -> Field:
    how = _read(operation, k, field)
    if how is None:
        return field.whole()
    rules, where = how
    if not where and field.where:  # one place of the map alone
        return Field(field.axes, ())
    axes = []
    for i, (axis, rule) in enumerate(zip(field.axes, rules, strict=True)):
        on_grid = len(where) == 2 and len(operation.out_shape) > where[i]
        axes.append(compose(axis, rule, operation.out_shape[where[i]] if on_grid else axis.units))
    return Field((axes[0], axes[1]), where)


def _merged(parts: list[Field]) -> Field:
    if len(parts) == 1:
        return parts[0]
    # What is joined with something that saw everything has seen everything.
    where = min((part.where for part in parts), key=len)
    axes = [union([part.axes[i] for part in parts]) for i in range(2)]
    return Field((axes[0], axes[1]) if where else (axes[0]._replace(units=1), axes[1]._replace(units=1)), where)


def box(trace: Trace, node: Any, place: tuple[int, int] | None = None) -> Box:
    """The pixels that one unit of a result can see: (top, left, bottom, right), the last two excluded.

    Unlike ``Field``, it takes the edges of all maps on the way into account, so it is exact at the image's border.

    Args:
        node: the result's edge in the trace.
        place: (row, column) of the unit in its map; the centre by default.

    Raises:
        ConfigError: the result has no maps, or no such unit.
    """
    where = fields(trace)
    if node not in where:
        raise ConfigError("inspect.box: the input's pixels cannot be followed to this result")
    field = where[node]
    counts = [axis.units for axis in field.axes] if len(field.where) == 2 else [1, 1]
    row, column = place if place is not None else (counts[0] // 2, counts[1] // 2)
    if not (0 <= row < counts[0] and 0 <= column < counts[1]):
        raise ConfigError(f"inspect.box: there is no unit {place} in a map of {counts[0]}x{counts[1]}")
    reads: dict[Any, list[tuple[int, int] | None]] = {node: [(row, row), (column, column)]}
    for current, operation in reversed(trace.operations.items()):
        if current not in reads:
            continue
        wanted = reads[current]
        for k, edge in enumerate(operation.inputs):
            if edge not in where:
                continue
            source = where[edge]
            how = _read(operation, k, source)
            flat = how is None or (len(how[1]) < 2 and len(source.where) == 2)
            rules = (Whole(source.axes[0].units), Whole(source.axes[1].units)) if flat else how[0]  # type: ignore[index]
            spans = [_clipped(rules[i], wanted[i], source.axes[i].units) for i in range(2)]
            known = reads.get(edge)
            reads[edge] = spans if known is None else [_joined(known[i], spans[i]) for i in range(2)]
    height, width = reads.get(trace.input, [None, None])
    if height is None or width is None:
        return 0, 0, 0, 0
    return height[0], width[0], height[1] + 1, width[1] + 1


def _clipped(rule: Any, wanted: tuple[int, int] | None, count: int) -> tuple[int, int] | None:
    if wanted is None:
        return None
    low, high = rule.back(*wanted)
    low, high = max(low, 0), min(high, count - 1)
    return (low, high) if low <= high else None


def _joined(a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int] | None:
    spans: Iterable[tuple[int, int]] = [span for span in (a, b) if span is not None]
    return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
