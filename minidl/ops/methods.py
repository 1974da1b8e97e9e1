"""Attaching operators and methods to Tensor."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.backend.rng import Generator, default_generator
from minidl.ops import activation, compare, creation, index, inplace, matmul, softmax
from minidl.ops import arithmetic as a
from minidl.ops import elementwise as e
from minidl.ops import reduce as r
from minidl.ops import shape as s
from minidl.ops.inplace import in_place
from minidl.tensor import Tensor, as_operand


def _reflected(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda a, b: operation(b, a)


def _equality(operation: Callable[..., Tensor]) -> Callable[..., Any]:
    """== and != elementwise; None and strings are simply not equal to a tensor."""
    return lambda a, b: NotImplemented if b is None or isinstance(b, str) else operation(a, b)


OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": e.Add.apply, "__radd__": _reflected(e.Add.apply), "__sub__": e.Sub.apply, "__rsub__": _reflected(e.Sub.apply),
    "__mul__": e.mul, "__rmul__": _reflected(e.mul), "__truediv__": e.Div.apply, "__rtruediv__": _reflected(e.Div.apply),
    "__pow__": e.pow, "__rpow__": _reflected(e.pow), "__mod__": a.remainder, "__rmod__": _reflected(a.remainder),
    "__floordiv__": a.floor_divide, "__rfloordiv__": _reflected(a.floor_divide),
    "__matmul__": lambda a, b: matmul.matmul(a, as_operand(b, a, "matmul")),
    "__rmatmul__": lambda a, b: matmul.matmul(as_operand(b, a, "matmul"), a),
    "__neg__": e.neg, "__pos__": lambda x: x, "__abs__": e.abs, "__invert__": e.bitwise_not,
    "__eq__": _equality(e.eq), "__ne__": _equality(e.ne), "__lt__": e.lt, "__le__": e.le, "__gt__": e.gt, "__ge__": e.ge,
    "__and__": e.bitwise_and, "__rand__": _reflected(e.bitwise_and), "__or__": e.bitwise_or, "__ror__": _reflected(e.bitwise_or),
    "__xor__": e.bitwise_xor, "__rxor__": _reflected(e.bitwise_xor),
    "__getitem__": index.getitem, "__setitem__": inplace.setitem,
    "__iadd__": in_place(a.add), "__isub__": in_place(a.sub), "__imul__": in_place(e.mul), "__itruediv__": in_place(a.div),
    "__ipow__": in_place(e.pow), "__imod__": in_place(a.remainder), "__ifloordiv__": in_place(a.floor_divide),
    "__iand__": in_place(e.bitwise_and), "__ior__": in_place(e.bitwise_or), "__ixor__": in_place(e.bitwise_xor),
}

METHODS: tuple[Callable[..., Any], ...] = (
    a.add, a.sub, e.mul, a.div, e.pow, e.neg, e.abs, e.maximum, e.minimum, a.fmod, a.remainder, e.square, e.sqrt, e.rsqrt,
    a.lerp, a.addcmul, a.addcdiv,
    e.reciprocal, e.exp, e.expm1, e.log, e.log1p, e.log2, e.log10, e.erf, e.sin, e.cos, e.tan, e.asin, e.acos, e.atan, e.sinh,
    e.cosh, e.atan2, e.sign, e.floor, e.ceil, e.round, e.trunc, e.eq, e.ne, e.lt, e.le, e.gt, e.ge, e.logical_and, e.logical_or,
    e.logical_xor, e.logical_not, e.isnan, e.isinf, e.isfinite, e.masked_fill, e.clamp, a.floor_divide,
    activation.relu, activation.sigmoid, activation.tanh,
    r.sum, r.mean, r.var, r.std, r.amax, r.amin, r.max, r.min, r.argmax, r.argmin, r.any, r.all, r.prod, r.cumsum, r.logsumexp,
    r.cumprod, r.norm, r.argsort, r.sort, r.topk, r.kthvalue,
    matmul.matmul, matmul.dot, matmul.outer, matmul.mm, matmul.bmm,
    s.reshape, s.reshape_as, s.flatten, s.unflatten, s.permute, s.transpose, s.t, s.movedim, s.squeeze, s.unsqueeze, s.expand,
    s.expand_as, s.clone, s.contiguous, s.split, s.chunk, s.unbind, s.narrow, s.flip, s.roll, s.repeat, s.tile, s.tril, s.triu,
    s.diag, index.gather, index.scatter, index.scatter_add, index.index_select, index.masked_select, index.nonzero,
    index.unique, index.bincount, index.repeat_interleave,
    inplace.copy_, inplace.fill_, inplace.zero_, creation.to, creation.type_as, creation.bernoulli,
    softmax.softmax, softmax.log_softmax, compare.isclose, compare.allclose, compare.equal,
    creation.new_zeros, creation.new_ones, creation.new_full, creation.new_empty,
)
ALIASES: dict[str, Callable[..., Any]] = {
    "view": s.reshape, "ravel": s.flatten, "moveaxis": s.movedim, "swapaxes": s.transpose, "clip": e.clamp, "true_divide": a.div,
    "multiply": e.mul, "subtract": a.sub, "divide": a.div, "absolute": e.abs, "negative": e.neg, "astype": e.astype,
    "nelement": Tensor.numel, "ndimension": Tensor.dim,
}
IN_PLACE = (
    a.add, a.sub, e.mul, a.div, e.pow, a.remainder, a.fmod, a.floor_divide, a.lerp, a.addcmul, a.addcdiv, e.neg, e.abs, e.square,
    e.sqrt, e.rsqrt, e.reciprocal, e.exp, e.expm1, e.log, e.log1p, e.log2, e.log10, e.erf, e.sin, e.cos, e.tan, e.asin, e.acos,
    e.atan, e.sinh, e.cosh, e.sign, e.floor, e.ceil, e.round, e.trunc, e.clamp, e.masked_fill, activation.relu,
    activation.sigmoid, activation.tanh, s.tril, s.triu, index.scatter, index.scatter_add,
)


def _conversion(name: str, dtype: str) -> Callable[[Tensor], Tensor]:
    def convert(x: Tensor) -> Tensor:
        return creation.to(x, dtype=dtype)
    convert.__name__ = name
    convert.__doc__ = f"x in {dtype}."
    return convert


def uniform_(x: Tensor, low: float = 0.0, high: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Overwrite x with uniform random numbers in [low, high)."""
    drawn = (generator or default_generator).uniform(x.shape, low, high, dtype=x.dtype)
    return inplace.copy_(x, Tensor(x.F.asarray(drawn), x.F))


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Overwrite x with normal random numbers."""
    drawn = (generator or default_generator).normal(x.shape, mean, std, dtype=x.dtype)
    return inplace.copy_(x, Tensor(x.F.asarray(drawn), x.F))


def bernoulli_(x: Tensor, p: Any = 0.5, generator: Generator | None = None) -> Tensor:
    """Overwrite x with 1 where chance, of the probability ``p`` (a number, or a tensor of x's shape), says so, else with 0."""
    return inplace.copy_(x, creation.bernoulli(p if isinstance(p, Tensor) else creation.full_like(x, p), generator))


def where_method(x: Tensor, condition: Tensor, other: Any) -> Any:
    """x where ``condition`` is true, else ``other``."""
    return e.where(condition, x, other)


def cpu(x: Tensor) -> Tensor:
    """x on the CPU."""
    return creation.to(x, device="cpu")


def cuda(x: Tensor, device: int = 0) -> Tensor:
    """x on a CUDA device."""
    return creation.to(x, device=f"cuda:{device}")


def attach() -> None:
    """Give Tensor its operators and methods."""
    for name, operator in OPERATORS.items():
        setattr(Tensor, name, operator)
    for method in (*METHODS, uniform_, normal_, bernoulli_, cpu, cuda):
        setattr(Tensor, method.__name__, method)
    for name, method in ALIASES.items():
        setattr(Tensor, name, method)
    for operation in IN_PLACE:
        setattr(Tensor, operation.__name__ + "_", in_place(operation))
    for name, dtype in (("half", "float16"), ("bfloat16", "bfloat16"), ("float", "float32"), ("double", "float64"),
                        ("int", "int32"), ("long", "int64"), ("bool", "bool")):
        setattr(Tensor, name, _conversion(name, dtype))
    Tensor.where = where_method                      # type: ignore[attr-defined]
    Tensor.T = property(s.t)                         # type: ignore[attr-defined]
    Tensor.mT = property(lambda x: s.transpose(x, -2, -1))           # type: ignore[attr-defined]


attach()
