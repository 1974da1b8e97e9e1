"""minidl: deep learning written from scratch on NumPy.

    >>> import minidl
    >>> x = minidl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
"""
import os as _os

if not _os.path.isdir(_os.path.join(__path__[0], "kernels")):
    # An uninstalled checkout keeps the kernels beside the package; an installed one has them inside it.
    __path__.append(_os.path.dirname(__path__[0]))

__version__ = "0.1.0"

from minidl import config, cuda, errors, ops  # noqa: E402
from minidl.autograd import Function, grad  # noqa: E402
from minidl.autograd.grad_mode import (  # noqa: E402
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from minidl.backend.dtypes import (  # noqa: E402
    bool,
    double,
    float,
    float16,
    float32,
    float64,
    half,
    int8,
    int16,
    int32,
    int64,
    long,
    uint8,
)
from minidl.backend.rng import Generator, manual_seed  # noqa: E402
from minidl.ops.activation import relu, sigmoid, tanh  # noqa: E402
from minidl.ops.creation import (  # noqa: E402
    arange,
    as_tensor,
    bernoulli,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    get_rng_state,
    linspace,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    set_rng_state,
    tensor,
    zeros,
    zeros_like,
)
from minidl.ops.elementwise import (  # noqa: E402
    abs,
    acos,
    add,
    asin,
    atan,
    atan2,
    ceil,
    clamp,
    clip,
    cos,
    cosh,
    div,
    eq,
    erf,
    exp,
    expm1,
    floor,
    fmod,
    ge,
    gt,
    isfinite,
    isinf,
    isnan,
    le,
    log,
    log1p,
    log2,
    log10,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    masked_fill,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow,
    reciprocal,
    remainder,
    round,
    rsqrt,
    sign,
    sin,
    sinh,
    sqrt,
    square,
    sub,
    tan,
    trunc,
    where,
)
from minidl.ops.index import gather, index_select, masked_select, nonzero, scatter_add  # noqa: E402
from minidl.ops.matmul import bmm, dot, einsum, matmul, mm, outer  # noqa: E402
from minidl.ops.reduce import (  # noqa: E402
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    argsort,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    sort,
    std,
    sum,
    topk,
    var,
)
from minidl.ops.shape import (  # noqa: E402
    broadcast_to,
    cat,
    chunk,
    clone,
    concat,
    concatenate,
    flatten,
    flip,
    movedim,
    permute,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    tril,
    triu,
    unbind,
    unsqueeze,
)
from minidl.tensor import Tensor  # noqa: E402

inference = inference_mode

from minidl import autograd, nn, optim  # noqa: E402
