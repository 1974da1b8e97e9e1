"""What a backend needs before it can compute with bfloat16.

The array modules have bfloat16's elementwise functions from ml_dtypes.  What they lack is here: a product with a Python number
would become float32, and sums or formulas of several steps would round at every step.  Such verbs are computed in float32 and
rounded once at the end.  Kernels of our own are not touched: they round once by their contract.

The verbs are wrapped when bfloat16 is first used, so that nobody else pays for the question which dtype it is.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.backend.dtypes import when_bfloat16_is_used

Array = Any

WITH_NUMBERS = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "atan2", "fmod", "remainder", "floor_divide")
IN_FLOAT32 = ("erf", "leaky_relu", "elu", "softplus", "clip", "pow_scalar", "rsqrt", "reciprocal", "prod", "cumsum", "einsum",
              "getitem_grad", "scatter_add", "eigh")
ON_THE_CPU = ("matmul", "linear", "linear_weight_grad", "sigmoid", "tanh")     # a GPU has kernels for bfloat16


def accept_bfloat16(backend: Any) -> None:
    """Let ``backend`` take arrays of bfloat16, from when they are first used."""
    def prepare() -> None:
        for verb in WITH_NUMBERS:
            setattr(backend, verb, _with_numbers(getattr(backend, verb), backend.float32))
        for verb in IN_FLOAT32 + (ON_THE_CPU if backend.kind == "cpu" else ()):
            setattr(backend, verb, _in_float32(getattr(backend, verb), backend.float32))
    when_bfloat16_is_used(prepare)


def _with_numbers(run: Callable[[Any, Any], Array], float32: Any) -> Callable[[Any, Any], Array]:
    """A verb of two operands, either of which may be a Python number."""
    def binary(a: Any, b: Any) -> Array:
        if type(b) is float and a.dtype.kind == "V":
            return run(a.astype(float32), b).astype(a.dtype)
        if type(a) is float and b.dtype.kind == "V":
            return run(a, b.astype(float32)).astype(b.dtype)
        return run(a, b)
    return binary


def _in_float32(run: Callable[..., Any], float32: Any) -> Callable[..., Any]:
    """A verb whose arrays of bfloat16 are widened, and its results rounded to bfloat16."""
    def widened(*arrays: Any, **options: Any) -> Any:
        dtype = arrays[0].dtype
        if dtype.kind != "V":
            return run(*arrays, **options)
        results = run(*[a.astype(float32) if a is not None and a.dtype == dtype else a for a in arrays], **options)
        if type(results) is tuple:
            return tuple(y.astype(dtype) if y.dtype == float32 else y for y in results)
        return results.astype(dtype)
    return widened
