"""Operations: Function classes by family, and the functions that users call on them."""
import minidl.ops.attention
import minidl.ops.conv
import minidl.ops.dropout
import minidl.ops.loss
import minidl.ops.methods
import minidl.ops.norm
import minidl.ops.pool  # noqa: F401  (these register verbs, and attach operators and methods to Tensor)

# One name a line would make a hundred lines of what stands in __all__ below.
# isort: off
from minidl.ops.activation import relu, sigmoid, tanh
from minidl.ops.arithmetic import add, addcdiv, addcmul, div, floor_divide, fmod, lerp, remainder, sub
from minidl.ops.compare import allclose, equal, isclose
from minidl.ops.creation import (
    arange, as_tensor, bernoulli, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like, linspace, ones,
    ones_like, rand, rand_like, randint, randn, randn_like, randperm, tensor, zeros, zeros_like,
)
from minidl.ops.elementwise import (
    abs, acos, asin, atan, atan2, bitwise_and, bitwise_not, bitwise_or, bitwise_xor, ceil, clamp, clip, cos, cosh, eq,
    erf, exp, expm1, floor, ge, gt, isfinite, isinf, isnan, le, log, log10, log1p, log2, logical_and, logical_not,
    logical_or, logical_xor, lt, masked_fill, maximum, minimum, mul, ne, neg, pow, reciprocal, round, rsqrt, sign,
    sin, sinh, sqrt, square, tan, trunc, where,
)
from minidl.ops.index import (
    bincount, gather, index_select, masked_select, nonzero, repeat_interleave, scatter, scatter_add, unique,
)
from minidl.ops.matmul import bmm, dot, einsum, matmul, mm, outer
from minidl.ops.reduce import (  # type: ignore[no-redef]  # its norm, not the module above
    all, amax, amin, any, argmax, argmin, argsort, cumprod, cumsum, kthvalue, logsumexp, max, mean, min, norm, prod,
    sort, std, std_mean, sum, topk, var, var_mean,
)
from minidl.ops.shape import (
    broadcast_to, cat, chunk, clone, concat, concatenate, diag, flatten, flip, meshgrid, movedim, narrow, permute,
    repeat, reshape, roll, split, squeeze, stack, swapaxes, tile, transpose, tril, triu, unbind, unsqueeze,
)
from minidl.ops.softmax import log_softmax, softmax
# isort: on

__all__ = [
    "abs", "acos", "add", "addcdiv", "addcmul", "all", "allclose", "amax", "amin", "any", "arange", "argmax",
    "argmin", "argsort", "as_tensor", "asin", "atan", "atan2", "bernoulli", "bincount", "bitwise_and", "bitwise_not",
    "bitwise_or", "bitwise_xor", "bmm", "broadcast_to", "cat", "ceil", "chunk", "clamp", "clip", "clone", "concat",
    "concatenate", "cos", "cosh", "cumprod", "cumsum", "diag", "div", "dot", "einsum", "empty", "empty_like", "eq",
    "equal", "erf", "exp", "expm1", "eye", "flatten", "flip", "floor", "floor_divide", "fmod", "from_dlpack",
    "from_numpy", "full", "full_like", "gather", "ge", "gt", "index_select", "isclose", "isfinite", "isinf", "isnan",
    "kthvalue", "le", "lerp", "linspace", "log", "log10", "log1p", "log2", "log_softmax", "logical_and",
    "logical_not", "logical_or", "logical_xor", "logsumexp", "lt", "masked_fill", "masked_select", "matmul", "max",
    "maximum", "mean", "meshgrid", "min", "minimum", "mm", "movedim", "mul", "narrow", "ne", "neg", "nonzero", "norm",
    "ones", "ones_like", "outer", "permute", "pow", "prod", "rand", "rand_like", "randint", "randn", "randn_like",
    "randperm", "reciprocal", "relu", "remainder", "repeat", "repeat_interleave", "reshape", "roll", "round", "rsqrt",
    "scatter", "scatter_add", "sigmoid", "sign", "sin", "sinh", "softmax", "sort", "split", "sqrt", "square",
    "squeeze", "stack", "std", "std_mean", "sub", "sum", "swapaxes", "tan", "tanh", "tensor", "tile", "topk",
    "transpose", "tril", "triu", "trunc", "unbind", "unique", "unsqueeze", "var", "var_mean", "where", "zeros",
    "zeros_like",
]
