"""Models as ONNX files: https://onnx.ai, opset 18.

The model is run on a backend that takes notes (:mod:`minidl.io.onnx_trace`), so whatever it computes is exported, layers
and functions alike, as long as there is a rule for each verb (:mod:`minidl.io.onnx_ops`, :mod:`minidl.io.onnx_layers`).
The nodes are written through the ``onnx`` package, an extra: ``pip install 'minidl[onnx]'``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.config import grad_mode
from minidl.errors import CheckpointError, ConfigError, GraphError
from minidl.io import onnx_layers  # noqa: F401  (its rules)
from minidl.io.atomic import write_atomic
from minidl.io.onnx_ops import OPSET, RULES, Graph, Value
from minidl.io.onnx_trace import BATCHES, Call, Constant, Dim, Ref, Trace, merge, recorder, trace

_MOST_BYTES = 2**31 - 2**20  # protobuf's limit, with room for the nodes


def export_onnx(
    model: Any,
    example_input_shape: Sequence[int],
    path: str | os.PathLike[str],
    *,
    dtype: Any = "float32",
    dynamic_batch: bool = True,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write what ``model(x)`` computes in evaluation mode as the ONNX file ``path``, atomically.

    The file has an input ``input`` and an output ``output`` (``output_1``, ... if there are several); the weights keep the
    names of the state dict.  The model is run on random numbers and afterwards is as it was; no other thread may use it
    meanwhile.  As with every tracer, what Python code decides from *values* is decided once, for those numbers.

    Args:
        model: an ``nn.Module`` on the CPU that takes one tensor and returns one, or a tuple of them.
        example_input_shape: (N, C, H, W); the batch N is free in the file, the other axes are fixed.
        dtype: of the input.
        dynamic_batch: False fixes N too, for models whose computation depends on it.
        metadata: text to text, kept in the file.

    Raises:
        ConfigError: the onnx package is not installed.
        GraphError: the model does something that has no rule here, or that cannot be traced.
        CheckpointError: the disk refuses, or the weights exceed the 2 GB that fit into one ONNX file.
    """
    try:
        from onnx import checker
    except ImportError:
        raise ConfigError("export_onnx needs the onnx package; install it with `pip install 'minidl[onnx]'`") from None
    where, shape = os.fspath(path), tuple(int(n) for n in example_input_shape)
    if not shape or min(shape[1:], default=1) < 1:
        raise ConfigError(f"export_onnx: example_input_shape is {shape}; expected sizes such as (1, 3, 224, 224)")
    with recorder() as F:
        if dynamic_batch:
            first, second = (trace(model, (n, *shape[1:]), dtype, F) for n in BATCHES)
            found = merge(first, second)
        else:
            found = trace(model, shape, dtype, F)
    names = {id(t.data): name for name, t in model.state_dict(keep_vars=True).items()}
    # Parameters called "input" or "output" must not be taken for the file's own.
    names = {
        key: f"/state/{name}" if name.startswith(("input", "output", "/")) else name for key, name in names.items()
    }
    proto = _model(found, np.dtype(dtype), names, type(model).__name__, metadata or {}, where)
    checker.check_model(proto)
    write_atomic(path, [proto.SerializeToString(deterministic=True)])


def difference(
    model: Any, example_input_shape: Sequence[int], path: str | os.PathLike[str], batch: int = 2
) -> float | None:
    """How far the outputs of the ONNX file ``path`` in onnxruntime are from the model's, on the same random numbers.

    The largest absolute difference divided by the largest absolute value of the model's output; None where onnxruntime is
    not installed.  The model is left in evaluation mode.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    x = np.random.default_rng(1).standard_normal((batch, *example_input_shape[1:])).astype(np.float32)
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": x})[0]
    like = next(iter(model.state_dict().values()))
    with grad_mode(False):
        wanted = model.eval()(type(like)(x, like.F))
    values = (wanted[0] if isinstance(wanted, tuple) else wanted).data
    return float(np.abs(values - found).max() / max(np.abs(values).max(), np.finfo(np.float32).tiny))


def _model(found: Trace, dtype: Any, names: dict[int, str], title: str, metadata: dict[str, str], where: str) -> Any:
    from onnx import helper, numpy_helper

    g = Graph(names)
    values = {0: Value("input", found.input, dtype)}
    for call in _needed(found):
        _say(g, call, values)
    outputs = []
    for i, output in enumerate(found.outputs):
        value = _value(g, output, values, "the output")
        name = f"output_{i}" if i else "output"
        g.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        outputs.append(_described(name, value.shape, value.dtype))
    size = sum(array.nbytes for array in g.initializers.values())
    if size > _MOST_BYTES:
        raise CheckpointError(
            f"cannot write {where}: its {size:,} bytes of weights exceed the 2 GB that fit into an ONNX file"
        )
    used = {name for node in g.nodes for name in node.input}
    stored = [
        numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n)
        for n, a in g.initializers.items()
        if n in used
    ]
    graph = helper.make_graph(g.nodes, title, [_described("input", found.input, dtype)], outputs, stored)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, producer_name="minidl", ir_version=helper.find_min_ir_version_for(opsets)
    )
    helper.set_model_props(model, metadata)
    return model


def _described(name: str, shape: tuple[Any, ...], dtype: Any) -> Any:
    from onnx import helper

    dims = [("N" if n == Dim(1, 0) else f"{n.scale}N{n.offset:+d}") if isinstance(n, Dim) else n for n in shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims)


def _needed(found: Trace) -> list[Call]:
    """The calls that the outputs depend on, in order."""
    wanted = {output.index for output in found.outputs if isinstance(output, Ref)}
    kept = []
    for call in reversed(found.calls):
        if any(call.first + i in wanted for i in range(len(call.shapes))):
            kept.append(call)
            wanted |= {argument.index for argument in call.arguments if isinstance(argument, Ref)}
    return kept[::-1]


def _value(g: Graph, argument: Any, values: dict[int, Value], verb: str) -> Value:
    if isinstance(argument, Constant):
        return g.constant(argument)
    if argument.index not in values:
        raise GraphError(
            f"ONNX export: {verb} uses a result that ONNX does not have (indices of a pooling, statistics of a norm)"
        )
    return values[argument.index]


def _say(g: Graph, call: Call, values: dict[int, Value]) -> None:
    """Add the nodes of one call, and note its results."""
    rule = RULES.get(call.verb)
    if rule is None:
        raise GraphError(
            f"ONNX export: the model computes {call.verb}, for which there is no rule; add one to minidl.io.onnx_ops"
        )
    arguments = [_value(g, a, values, call.verb) if isinstance(a, Ref | Constant) else a for a in call.arguments]
    try:
        names = rule(g, *arguments, **call.options)
    except TypeError as error:
        raise GraphError(f"ONNX export: {call.verb} was called in a way its rule does not know: {error}") from error
    for i, name in enumerate([names] if isinstance(names, str) else names):
        if name is not None:
            values[call.first + i] = Value(name, tuple(call.shapes[i]), call.dtypes[i])
