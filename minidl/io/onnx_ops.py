"""How each verb is said in ONNX: one small function per verb, and the :class:`Graph` that they write to.

A function takes the graph, the call's arguments as :class:`Value` (None where one is absent) and its options, adds nodes
and returns the name of the result (or a list of names, None for a result that ONNX does not give).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.errors import GraphError
from minidl.io.onnx_trace import Constant, Dim, formula

OPSET = 18
_LAST = np.iinfo(np.int64).max
Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


class Value:
    """An argument: its name in the graph, shape (ints and :class:`Dim`), dtype, and the array if it is a constant."""

    def __init__(self, name: str, shape: tuple[Any, ...], dtype: Any, array: Any = None) -> None:
        self.name, self.shape, self.dtype, self.array = name, shape, np.dtype(dtype), array

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Graph:
    """Nodes and constants in the order in which they are added."""

    def __init__(self, names: dict[int, str]) -> None:
        """``names``: id of an array -> what to call it (the state dict's names); names made here begin with a slash."""
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._names, self._values, self._kept = names, dict[int, Value](), list[Any]()
        self._batch = ""

    def op(self, kind: str, *inputs: str | Value | None, count: int = 1, **attributes: Any) -> Any:
        """Add a node; the name of its result, or a list of ``count`` names."""
        from onnx import helper

        names = ["" if x is None else x.name if isinstance(x, Value) else x for x in inputs]
        while names and not names[-1]:
            names.pop()
        outputs = [f"/{kind.lower()}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(count)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, names, outputs, name=outputs[0], **attributes))
        return outputs[0] if count == 1 else outputs

    def array(self, array: Any) -> str:
        """A constant that is not part of the model's state."""
        array = np.asarray(array)
        name = f"/constant_{len(self.initializers)}"
        self.initializers[name] = array
        return name

    def scalar(self, value: float, like: Value) -> str:
        """A number in the dtype of ``like``."""
        return self.array(np.asarray(value, like.dtype))

    def constant(self, constant: Constant) -> Value:
        """A constant of the trace; one whose shape follows the batch is stretched to it."""
        key = id(constant)
        if key not in self._values:
            array = constant.array
            if constant.other is None:
                name = self._names.get(id(array)) or f"/constant_{len(self.initializers)}"
                self.initializers.setdefault(name, array)
                self._values[key] = Value(name, array.shape, array.dtype, array)
            else:
                self._values[key] = self._stretched(array, constant.other)
            self._kept.append(constant)
        return self._values[key]

    def _stretched(self, a: Any, b: Any) -> Value:
        shape: list[Any] = []
        for axis, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)):
            if n != m:
                a, b = (x if (x == x.take([0], axis)).all() else None for x in (a, b))
                if a is None or b is None:
                    raise GraphError("ONNX export: a constant differs along the batch; export with dynamic_batch=False")
                a, b = a.take([0], axis), b.take([0], axis)
                shape.append(formula(n, m, "a constant"))
            else:
                shape.append(n)
        if a.tobytes() != b.tobytes():
            raise GraphError("ONNX export: a constant depends on the batch size; export with dynamic_batch=False")
        return Value(self.op("Expand", self.array(a), self.ints(shape)), tuple(shape), a.dtype)

    def ints(self, values: Sequence[Any]) -> str:
        """A vector of int64; one that holds a :class:`Dim` is computed from the input's shape."""
        if not any(isinstance(value, Dim) for value in values):
            return self.array(np.array(values, np.int64))
        if not self._batch:
            self._batch = self.op("Shape", "input", start=0, end=1)
        parts = []
        for value in values:
            if isinstance(value, Dim):
                part = self._batch
                if value.scale != 1:
                    part = self.op("Mul", part, self.array(np.array([value.scale], np.int64)))
                if value.offset:
                    part = self.op("Add", part, self.array(np.array([value.offset], np.int64)))
                parts.append(part)
            else:
                parts.append(self.array(np.array([value], np.int64)))
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def reshape(self, x: str | Value, shape: Sequence[Any]) -> str:
        """Reshape; the one axis that follows the batch is left to ONNX to compute."""
        if sum(isinstance(n, Dim) for n in shape) == 1 and 0 not in shape:
            shape = [-1 if isinstance(n, Dim) else n for n in shape]
        return self.op("Reshape", x, self.ints(shape), allowzero=1 if 0 in shape else None)

    def cast(self, x: str | Value, dtype: Any) -> str:
        from onnx import helper

        return self.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def rule(*verbs: str) -> Callable[[Rule], Rule]:
    """Register how ``verbs`` are said."""

    def register(function: Rule) -> Rule:
        for verb in verbs:
            RULES[verb] = function
        return function

    return register


# ----------------------------------------------------------------------------------------------------------- elementwise
_SAME = {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "sin": "Sin", "cos": "Cos",
    "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "isnan": "IsNaN", "isinf": "IsInf", "logical_not": "Not",
    "reciprocal": "Reciprocal", "sigmoid": "Sigmoid", "erf": "Erf", "relu": "Relu", "copy": "Identity", "contiguous": "Identity",
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min", "eq": "Equal",
    "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "logical_and": "And", "logical_or": "Or",
    "logical_xor": "Xor", "where": "Where", "matmul": "MatMul",
}  # fmt: skip


def _same(kind: str) -> Rule:
    return lambda g, *arguments: g.op(kind, *arguments)


for _verb, _kind in _SAME.items():
    RULES[_verb] = _same(_kind)


@rule("ne")
def _ne(g: Graph, a: Value, b: Value) -> str:
    return g.op("Not", g.op("Equal", a, b))


def _bitwise(of_bool: str, of_integers: str) -> Rule:
    return lambda g, x, *rest: g.op(of_bool if x.dtype.kind == "b" else of_integers, x, *rest)


RULES["bitwise_and"], RULES["bitwise_or"] = _bitwise("And", "BitwiseAnd"), _bitwise("Or", "BitwiseOr")
RULES["bitwise_xor"], RULES["bitwise_not"] = _bitwise("Xor", "BitwiseXor"), _bitwise("Not", "BitwiseNot")


@rule("log1p")
def _log1p(g: Graph, x: Value) -> str:
    return g.op("Log", g.op("Add", x, g.scalar(1, x)))


@rule("expm1")
def _expm1(g: Graph, x: Value) -> str:
    return g.op("Sub", g.op("Exp", x), g.scalar(1, x))


@rule("log2")
def _log2(g: Graph, x: Value) -> str:
    return g.op("Mul", g.op("Log", x), g.scalar(1 / math.log(2), x))


@rule("log10")
def _log10(g: Graph, x: Value) -> str:
    return g.op("Mul", g.op("Log", x), g.scalar(1 / math.log(10), x))


@rule("square")
def _square(g: Graph, x: Value) -> str:
    return g.op("Mul", x, x)


@rule("rsqrt")
def _rsqrt(g: Graph, x: Value) -> str:
    return g.op("Reciprocal", g.op("Sqrt", x))


@rule("trunc")
def _trunc(g: Graph, x: Value) -> str:
    return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))


@rule("isfinite")
def _isfinite(g: Graph, x: Value) -> str:
    return g.op("Not", g.op("Or", g.op("IsNaN", x), g.op("IsInf", x)))


@rule("fmod")
def _fmod(g: Graph, a: Value, b: Value) -> str:
    return g.op("Mod", a, b, fmod=1)


@rule("floor_divide")
def _floor_divide(g: Graph, a: Value, b: Value) -> str:
    if a.dtype.kind != "f":  # Div of integers rounds towards zero, so the remainder goes first
        return g.op("Div", g.op("Sub", a, g.op("Mod", a, b)), b)
    return g.op("Floor", g.op("Div", a, b))


@rule("remainder")
def _remainder(g: Graph, a: Value, b: Value) -> str:
    """The sign of the divisor, as Python's %."""
    if a.dtype.kind != "f":
        return g.op("Mod", a, b)
    return g.op("Sub", a, g.op("Mul", b, g.op("Floor", g.op("Div", a, b))))


@rule("pow_scalar")
def _pow_scalar(g: Graph, x: Value, *, exponent: float) -> str:
    if exponent == 2:
        return g.op("Mul", x, x)
    if exponent == 0.5:
        return g.op("Sqrt", x)
    return g.op("Pow", x, g.scalar(exponent, x))


@rule("masked_fill")
def _masked_fill(g: Graph, x: Value, mask: Value, *, value: float) -> str:
    return g.op("Where", mask, g.scalar(value, x), x)


@rule("clip")
def _clip(g: Graph, x: Value, *, low: float | None, high: float | None) -> str:
    return g.op("Clip", x, *(None if limit is None else g.scalar(limit, x) for limit in (low, high)))


@rule("leaky_relu")
def _leaky_relu(g: Graph, x: Value, *, slope: float) -> str:
    return g.op("LeakyRelu", x, alpha=float(slope))


@rule("elu")
def _elu(g: Graph, x: Value, *, alpha: float) -> str:
    return g.op("Elu", x, alpha=float(alpha))


@rule("softplus")
def _softplus(g: Graph, x: Value, *, beta: float, threshold: float) -> str:
    """Beyond the threshold x itself, from which softplus differs by less than exp(-threshold) / beta."""
    if beta == 1:
        return g.op("Softplus", x)
    return g.op("Div", g.op("Softplus", g.op("Mul", x, g.scalar(beta, x))), g.scalar(beta, x))


@rule("gelu")
def _gelu(g: Graph, x: Value, *, approximate: str) -> str:
    """From Erf or Tanh: Gelu itself came with opset 20, which many runtimes do not have."""
    half = g.op("Mul", x, g.scalar(0.5, x))
    if approximate == "tanh":
        cube = g.op("Mul", g.op("Mul", g.op("Mul", x, x), x), g.scalar(0.044715, x))
        curve = g.op("Tanh", g.op("Mul", g.op("Add", x, cube), g.scalar(math.sqrt(2 / math.pi), x)))
    else:
        curve = g.op("Erf", g.op("Mul", x, g.scalar(math.sqrt(0.5), x)))
    return g.op("Mul", half, g.op("Add", curve, g.scalar(1, x)))


@rule("silu")
def _silu(g: Graph, x: Value) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


@rule("softmax")
def _softmax(g: Graph, x: Value, *, axis: int) -> str:
    return g.op("Softmax", x, axis=axis)


@rule("attention")
def _attention(g: Graph, q: Value, k: Value, v: Value, *, scale: float) -> list[str | None]:
    turned = g.op("Transpose", k, perm=[*range(k.ndim - 2), k.ndim - 1, k.ndim - 2])
    scores = g.op("Mul", g.op("MatMul", q, turned), g.scalar(scale, q))
    return [g.op("MatMul", g.op("Softmax", scores, axis=-1), v), None]


@rule("log_softmax")
def _log_softmax(g: Graph, x: Value, *, axis: int) -> str:
    return g.op("LogSoftmax", x, axis=axis)


@rule("astype")
def _astype(g: Graph, x: Value, *, dtype: Any) -> str:
    return g.cast(x, dtype)


def _constant_like(value: int) -> Rule:
    return lambda g, x: g.op("Expand", g.scalar(value, x), g.op("Shape", x))


RULES["zeros_like"], RULES["ones_like"] = _constant_like(0), _constant_like(1)


@rule("copyto")
def _copyto(g: Graph, x: Value, value: Value) -> str:
    """x[...] = value: what x is from then on."""
    name: str = value.name if value.dtype == x.dtype else g.cast(value, x.dtype)
    return name if value.shape == x.shape else g.op("Expand", name, g.ints(x.shape))


@rule("add_into")
def _add_into(g: Graph, x: Value, value: Value) -> str:
    return g.op("Add", x, value)


# ------------------------------------------------------------------------------------------------------------ reductions
def _reduction(kind: str) -> Rule:
    def reduce(g: Graph, x: Value, *, axis: Any = None, keepdims: bool = False) -> str:
        name: str | Value = g.cast(x, np.int64) if kind in ("ReduceSum", "ReduceProd") and x.dtype.kind == "b" else x
        axes = None if axis is None else [axis] if isinstance(axis, int) else list(axis)
        if axes == []:
            return g.op("Identity", name)
        return g.op(kind, name, None if axes is None else g.ints(axes), keepdims=int(keepdims))

    return reduce


for _verb, _kind in {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "prod": "ReduceProd",
}.items():
    RULES[_verb] = _reduction(_kind)


def _truth(kind: str) -> Rule:
    def reduce(g: Graph, x: Value, *, axis: Any = None, keepdims: bool = False) -> str:
        numbers = Value(g.cast(g.cast(x, np.bool_), np.int32), x.shape, np.int32)
        return g.cast(_reduction(kind)(g, numbers, axis=axis, keepdims=keepdims), np.bool_)

    return reduce


RULES["any"], RULES["all"] = _truth("ReduceMax"), _truth("ReduceMin")


def _arg(kind: str) -> Rule:
    def reduce(g: Graph, x: Value, *, axis: int | None = None, keepdims: bool = False) -> str:
        if axis is None:
            return g.op(kind, g.op("Reshape", x, g.ints([-1])), axis=0, keepdims=0)
        return g.op(kind, x, axis=axis, keepdims=int(keepdims))

    return reduce


RULES["argmax"], RULES["argmin"] = _arg("ArgMax"), _arg("ArgMin")


@rule("cumsum")
def _cumsum(g: Graph, x: Value, *, axis: int) -> str:
    return g.op("CumSum", x, g.array(np.int64(axis)))


# -------------------------------------------------------------------------------------------------------- linear algebra
@rule("linear")
def _linear(g: Graph, x: Value, w: Value, b: Value | None) -> str:
    if x.ndim == 2:
        return g.op("Gemm", x, w, b, transB=1)
    y = g.op("MatMul", x, g.op("Transpose", w, perm=[1, 0]))
    return y if b is None else g.op("Add", y, b)


@rule("einsum")
def _einsum(g: Graph, *xs: Value, equation: str) -> str:
    return g.op("Einsum", *xs, equation=equation)


# ----------------------------------------------------------------------------------------------------------------- shape
@rule("reshape")
def _reshape(g: Graph, x: Value, *, shape: Any) -> str:
    return g.reshape(x, shape)


@rule("transpose")
def _transpose(g: Graph, x: Value, *, axes: Any) -> str:
    return g.op("Transpose", x, perm=list(axes))


@rule("broadcast_to")
def _broadcast_to(g: Graph, x: Value, *, shape: Any) -> str:
    return g.op("Expand", x, g.ints(shape))


@rule("concatenate")
def _concatenate(g: Graph, *xs: Value, axis: int) -> str:
    return g.op("Concat", *xs, axis=axis)


@rule("stack")
def _stack(g: Graph, *xs: Value, axis: int) -> str:
    return g.op("Concat", *(g.op("Unsqueeze", x, g.ints([axis])) for x in xs), axis=axis)


@rule("flip")
def _flip(g: Graph, x: Value, *, axes: Any) -> str:
    n = len(axes)
    return g.op("Slice", x, g.ints([_LAST] * n), g.ints([-_LAST] * n), g.ints(list(axes)), g.ints([-1] * n))


@rule("roll")
def _roll(g: Graph, x: Value, *, shift: Any, axis: Any) -> str:
    if axis is None:
        flat = Value(g.op("Reshape", x, g.ints([-1])), (math.prod(x.shape),), x.dtype)
        return g.reshape(_roll(g, flat, shift=shift, axis=0), x.shape)
    name = x.name
    for step, at in zip(
        [shift] if isinstance(axis, int) else shift, [axis] if isinstance(axis, int) else axis, strict=True
    ):
        cut = g.ints([-step % x.shape[at]])
        tail = g.op("Slice", name, cut, g.ints([_LAST]), g.ints([at]))
        name = g.op("Concat", tail, g.op("Slice", name, g.ints([0]), cut, g.ints([at])), axis=at)
    return name


@rule("pad")
def _pad(g: Graph, x: Value, *, widths: Any, value: float) -> str:
    pads = [low for low, _ in widths] + [high for _, high in widths]
    return g.op("Pad", x, g.ints(pads), g.scalar(value, x))


@rule("triangle")
def _triangle(g: Graph, x: Value, *, diagonal: int, lower: bool) -> str:
    return g.op("Trilu", x, g.array(np.int64(diagonal)), upper=int(not lower))


# -------------------------------------------------------------------------------------------------------------- indexing
@rule("getitem")
def _getitem(g: Graph, x: Value, *, index: Any) -> str:
    """Slices and integers as Slice and Squeeze, one list or array of integers as Gather, None as Unsqueeze."""
    index = index if isinstance(index, tuple) else (index,)
    lists = [i for i in index if isinstance(i, list | np.ndarray) and np.ndim(i)]
    if len(lists) > 1 or lists and any(type(i) is int or isinstance(i, np.integer) for i in index):
        raise GraphError(
            "ONNX export: an index of several lists, or of a list and an integer; index one axis after the other"
        )
    used = sum(np.ndim(i) if _is_mask(i) else i is not None and i is not Ellipsis for i in index)
    at = next((k for k, i in enumerate(index) if i is Ellipsis), len(index))
    index = (*index[:at], *[slice(None)] * (x.ndim - used), *index[at + 1 :])
    starts, ends, axes, steps, squeeze, new = [], [], [], [], [], []
    gather: tuple[int, Any] | None = None
    axis = out = 0  # the input's axis that comes next, and the result's
    for i in index:
        if i is None:
            new.append(out)
            out += 1
            continue
        if isinstance(i, slice):
            step = 1 if i.step is None else i.step
            if i != slice(None) and not (i.start in (None, 0) and step == 1 and i.stop in (None, x.shape[axis])):
                starts.append((0 if step > 0 else _LAST) if i.start is None else i.start)
                ends.append((_LAST if step > 0 else -_LAST) if i.stop is None else i.stop)
                axes.append(axis)
                steps.append(step)
            out += 1
        elif _is_mask(i):
            if np.ndim(i) > 1:
                raise GraphError(
                    "ONNX export: a mask of several axes; the number of elements it takes cannot be told beforehand"
                )
            gather = axis, np.flatnonzero(i)
            out += 1
        elif isinstance(i, list | np.ndarray) and np.ndim(i):
            gather = axis, np.asarray(i)
            out += np.ndim(i)
        else:
            starts.append(i)
            ends.append(Dim(i.scale, i.offset + 1) if isinstance(i, Dim) else int(i) + 1 or _LAST)  # -1 + 1 is the end
            axes.append(axis)
            steps.append(1)
            squeeze.append(axis)
        axis += 1
    name = x.name
    if axes:
        name = g.op("Slice", name, g.ints(starts), g.ints(ends), g.ints(axes), g.ints(steps))
    if gather:
        name = g.op("Gather", name, g.array(gather[1].astype(np.int64)), axis=gather[0])
    if squeeze:
        name = g.op("Squeeze", name, g.ints(squeeze))
    return g.op("Unsqueeze", name, g.ints(new)) if new else name


def _is_mask(index: Any) -> bool:
    return isinstance(index, list | np.ndarray) and np.asarray(index).dtype.kind == "b"


@rule("gather")
def _gather(g: Graph, x: Value, index: Value, *, axis: int) -> str:
    return g.op("GatherElements", x, index, axis=axis)


@rule("scatter")
def _scatter(g: Graph, x: Value, v: Value, index: Value, *, axis: int) -> str:
    return g.op("ScatterElements", x, index, v, axis=axis)


@rule("scatter_add")
def _scatter_add(g: Graph, x: Value, v: Value, index: Value, *, axis: int) -> str:
    return g.op("ScatterElements", x, index, v, axis=axis, reduction="add")


@rule("embedding")
def _embedding(g: Graph, w: Value, index: Value) -> str:
    return g.op("Gather", w, index, axis=0)


@rule("one_hot")
def _one_hot(g: Graph, labels: Value, *, num_classes: int) -> str:
    return g.op("OneHot", labels, g.array(np.int64(num_classes)), g.array(np.array([0, 1], np.int64)), axis=-1)
