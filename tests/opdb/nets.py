"""What nets are made of besides convolutions: activations, normalisation, attention, embeddings, dropout."""

from __future__ import annotations

import math

import numpy as np
import scipy.special

import minidl
from minidl.autograd.function import tensors
from minidl.errors import ConfigError, DTypeError, ShapeError
from minidl.nn import functional as F
from tests.opdb.base import Bad, Draw, Op, Sample, transpose_of

INF = math.inf
Z = np.zeros((2, 3))
FN = "nn.functional."


def _not_floating(name, torch=""):
    return Bad(Sample(np.array([1, 2])), DTypeError, f"{name}: needs a floating-point tensor, found int64", torch)


def activation(name, reference, *options, kinks=(), torch="", **fields):
    def samples(d: Draw):
        for option in ({}, *options):
            for shape in ((2, 3), (), (0, 3)):
                yield Sample(d.away(*shape, kinks=kinks), **option)
        yield Sample(np.array([-50.0, -1.0, -0.0, 0.0, 1.0, 50.0, math.nan]), smooth=False)

    return Op(
        f"F.{name}",
        getattr(F, name),
        samples,
        reference,
        torch=torch or FN + name,
        bad=(_not_floating(name, fields.pop("integers", "")), *fields.pop("bad", ())),
        **fields,
    )


def _gelu(x, approximate="none"):
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * scipy.special.ndtr(x)


def _softplus(x, beta=1.0, threshold=20.0):
    return np.where(x * beta > threshold, x, np.logaddexp(0, x * beta) / beta)


def over_dim(name, reference, composites, verbs=()):
    def samples(d: Draw):
        yield Sample(d(2, 3), 1)
        yield Sample(d(2, 3, 2), 0)
        yield Sample(d(2, 3, 2), -2)
        yield Sample(d(3), 0)
        yield Sample(d(), 0)
        yield Sample(d(0, 3), 1)
        yield Sample(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]]), 1)
        yield Sample(np.array([[-INF, 0.0, 1.0]]), 1, smooth=False)

    return Op(
        f"F.{name}",
        getattr(F, name),
        samples,
        reference,
        aliases=(f"ops.{name}",) if hasattr(minidl.ops, name) else (),
        torch=FN + name,
        verbs=verbs,
        composites=composites,
        bad=(
            Bad(Sample(Z, 2), IndexError, "dim 2 is out of range"),
            Bad(Sample(np.array([1, 2]), 0), DTypeError, "needs a floating-point tensor, found int64"),
        ),
    )


ACTIVATIONS = [
    activation(
        "leaky_relu",
        lambda x, negative_slope=0.01: np.where(x > 0, x, x * negative_slope),
        {"negative_slope": 0.1},
        kinks=(0.0,),
        verbs=("leaky_relu",),
    ),
    activation(
        "elu",
        lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        {"alpha": 0.5},
        kinks=(0.0,),
        verbs=("elu",),
    ),
    activation(
        "gelu",
        _gelu,
        {"approximate": "tanh"},
        verbs=("gelu",),
        composites=("gelu_grad",),
        bad=(Bad(Sample(Z, approximate="x"), ConfigError, "gelu: approximate must be 'none' or 'tanh', found 'x'"),),
    ),
    activation("silu", lambda x: x * scipy.special.expit(x), verbs=("silu",), composites=("silu_grad",)),
    activation("softplus", _softplus, {"beta": 2.0, "threshold": 1.5}, kinks=(0.75,), verbs=("softplus",)),
    over_dim("softmax", scipy.special.softmax, ("softmax_grad",), ("softmax",)),
    over_dim("log_softmax", scipy.special.log_softmax, ("log_softmax_grad",), ("log_softmax",)),
    over_dim("softmin", lambda x, dim: scipy.special.softmax(-x, dim), ("softmax_grad",)),
]


# ------------------------------------------------------------------------------------------------------ normalisation
def standardised(x, axes, eps):
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


def affine(y, w, b, shape):
    y = y if w is None else y * w.reshape(shape)
    return y if b is None else y + b.reshape(shape)


def _channels(x):
    return (1, -1) + (1,) * (x.ndim - 2)


def _batch_norm(x, w=None, b=None, eps=1e-5):
    return affine(standardised(x, (0, *range(2, x.ndim)), eps), w, b, _channels(x)) if x.size else x


def _batch_norm_relu(x, w=None, b=None, r=None, eps=1e-5):
    return np.maximum(_batch_norm(x, w, b, eps) + (0 if r is None else r), 0)


def _batch_norm_eval(x, mean, var, w=None, b=None, eps=1e-5):
    s = _channels(x)
    return affine((x - mean.reshape(s)) / np.sqrt(var.reshape(s) + eps), w, b, s)


def _layer_norm(x, shape, w=None, b=None, eps=1e-5):
    return affine(standardised(x, tuple(range(x.ndim - len(shape), x.ndim)), eps), w, b, shape) if x.size else x


def _group_norm(x, groups, w=None, b=None, eps=1e-5):
    if not x.size:
        return x
    y = standardised(x.reshape(len(x), groups, -1), 2, eps).reshape(x.shape)
    return affine(y, w, b, _channels(x))


def _lrn(x, size, alpha=1e-4, beta=0.75, k=1.0):
    """Krizhevsky's formula, channel by channel; alpha is divided by the size, as in PyTorch."""
    y = np.zeros_like(x)
    for c in range(x.shape[1]):
        window = x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        y[:, c] = x[:, c] / (k + alpha / size * (window**2).sum(axis=1)) ** beta
    return y


NORM_TOLERANCE = {"float32": (5e-5, 1e-5), "float16": (2e-2, 1e-2)}  # divided by a deviation of perhaps 0.3
NO_SCALAR = {"scalar": "an axis of channels is needed"}

NORMS = [
    Op(
        "F.batch_norm",
        lambda x, w=None, b=None, eps=1e-5: F.batch_norm(x, None, None, w, b, training=True, eps=eps),
        lambda d: [
            Sample(d(3, 2, 2), d(2), d(2)),
            Sample(d(4, 2)),
            Sample(d(2, 2, 2, 2), d(2), d(2), eps=0.1),
            Sample(d(3, 2), d(2)),
            Sample(d(0, 2, 2), d(2), d(2)),
        ],
        _batch_norm,
        torch=lambda torch: (
            lambda x, w=None, b=None, eps=1e-5: torch.nn.functional.batch_norm(
                x, None, None, w, b, training=True, eps=eps
            )
        ),
        verbs=("batch_norm",),
        composites=("batch_norm_grad",),
        tolerance=NORM_TOLERANCE,
        without={**NO_SCALAR, "half": "PyTorch rounds the statistics to float16 in between"},
        bad=(
            Bad(Sample(np.zeros((1, 2)), np.ones(2)), ShapeError, "one value for each channel.*larger batch, or eval"),
            Bad(
                Sample(np.zeros((2, 3)), np.ones(2)),
                ShapeError,
                r"weight has shape \(2,\), the input \(2, 3\) has 3 channels",
            ),
            Bad(Sample(np.zeros(3)), ShapeError, "batch_norm: expected"),
        ),
    ),
    Op(
        "F.batch_norm(relu)",
        lambda x, w=None, b=None, r=None, eps=1e-5: F.batch_norm(
            x, None, None, w, b, training=True, eps=eps, relu=True, residual=r
        ),
        lambda d: [
            Sample(d(3, 2, 2), d(2), d(2)),
            Sample(d(4, 2)),
            Sample(d(2, 2, 2, 2), d(2), d(2), d(2, 2, 2, 2), eps=0.1),
            Sample(d(0, 2, 2), d(2), d(2), d(0, 2, 2)),
        ],
        _batch_norm_relu,
        torch=lambda torch: (
            lambda x, w=None, b=None, r=None, eps=1e-5: torch.relu(
                torch.nn.functional.batch_norm(x, None, None, w, b, training=True, eps=eps) + (0 if r is None else r)
            )
        ),
        verbs=("batch_norm_relu",),
        composites=("batch_norm_relu_grad",),
        tolerance=NORM_TOLERANCE,
        without={**NO_SCALAR, "half": "PyTorch rounds the statistics to float16 in between"},
    ),
    Op(
        "F.batch_norm(eval, relu)",
        lambda x, m, v, w=None, b=None, r=None, eps=1e-5: F.batch_norm(x, m, v, w, b, eps=eps, relu=True, residual=r),
        lambda d: [
            Sample(d(2, 2, 3), d(2), d.between(0.5, 2, 2), d(2), d(2), d(2, 2, 3), constants=(1, 2)),
            Sample(d(3, 2), d(2), d.between(0.5, 2, 2), constants=(1, 2)),
            Sample(d(1, 2, 2, 2), d(2), d.between(0.5, 2, 2), d(2), constants=(1, 2)),
            Sample(d(0, 2), d(2), d.between(0.5, 2, 2), d(2), d(2), d(0, 2), constants=(1, 2)),
        ],
        lambda x, m, v, w=None, b=None, r=None, eps=1e-5: np.maximum(
            _batch_norm_eval(x, m, v, w, b, eps) + (0 if r is None else r), 0
        ),
        torch=lambda torch: (
            lambda x, m, v, w=None, b=None, r=None: torch.relu(
                torch.nn.functional.batch_norm(x, m, v, w, b) + (0 if r is None else r)
            )
        ),
        verbs=("batch_norm_relu_inference",),
        composites=("relu_grad",),
        tolerance=NORM_TOLERANCE,
        without=NO_SCALAR,
    ),
    Op(
        "F.batch_norm(eval)",
        lambda x, m, v, w=None, b=None, eps=1e-5: F.batch_norm(x, m, v, w, b, eps=eps),
        lambda d: [
            Sample(d(2, 2, 3), d(2), d.between(0.5, 2, 2), d(2), d(2), constants=(1, 2)),
            Sample(d(3, 2), d(2), d.between(0.5, 2, 2), constants=(1, 2)),
            Sample(d(1, 2, 2, 2), d(2), d.between(0.5, 2, 2), d(2), constants=(1, 2)),
            Sample(d(0, 2), d(2), d.between(0.5, 2, 2), d(2), d(2), constants=(1, 2)),
        ],
        _batch_norm_eval,
        torch=lambda torch: lambda x, m, v, w=None, b=None: torch.nn.functional.batch_norm(x, m, v, w, b),
        verbs=("batch_norm_inference",),
        tolerance=NORM_TOLERANCE,
        without=NO_SCALAR,
        bad=(
            Bad(Sample(Z, None, None), ShapeError, "evaluation needs running_mean and running_var"),
            Bad(Sample(Z, np.zeros(2), np.ones(2)), ShapeError, "running_mean has shape"),
        ),
    ),
    Op(
        "F.layer_norm",
        F.layer_norm,
        lambda d: [
            Sample(d(2, 4), (4,), d(4), d(4)),
            Sample(d(2, 2, 3), (2, 3), d(2, 3)),
            Sample(d(4), (4,), d(4), d(4)),
            Sample(d(2, 3), (3,)),
            Sample(d(0, 3), (3,), d(3), d(3)),
        ],
        _layer_norm,
        torch=FN + "layer_norm",
        verbs=("layer_norm",),
        composites=("layer_norm_grad",),
        tolerance=NORM_TOLERANCE,
        without=NO_SCALAR,
        bad=(
            Bad(
                Sample(Z, (2,)),
                ShapeError,
                r"normalized_shape is \(2,\), which the input's shape \(2, 3\) does not end in",
            ),
            Bad(Sample(Z, (3,), np.ones(2)), ShapeError, "weight has shape"),
        ),
    ),
    Op(
        "F.group_norm",
        F.group_norm,
        lambda d: [
            Sample(d(2, 4, 2), 2, d(4), d(4)),
            Sample(d(2, 4), 1),
            Sample(d(1, 2, 2, 3), 2, d(2)),
            Sample(d(0, 4, 2), 2, d(4), d(4)),
        ],
        _group_norm,
        torch=FN + "group_norm",
        verbs=("group_norm",),
        composites=("group_norm_grad",),
        tolerance=NORM_TOLERANCE,
        without=NO_SCALAR,
        bad=(
            Bad(Sample(np.zeros((2, 3, 2)), 2), ShapeError, "2 groups do not divide the 3 channels"),
            Bad(Sample(np.zeros((2, 4, 2)), 0), ShapeError, "0 groups"),
            Bad(Sample(np.zeros((2, 4, 2)), 2, np.ones(3)), ShapeError, "weight has shape"),
        ),
    ),
    Op(
        "F.instance_norm",
        F.instance_norm,
        lambda d: [Sample(d(2, 2, 3), d(2), d(2)), Sample(d(1, 2, 2, 2)), Sample(d(0, 2, 3))],
        lambda x, w=None, b=None: _group_norm(x, x.shape[1], w, b),
        torch=lambda torch: lambda x, w=None, b=None: torch.nn.functional.instance_norm(x, weight=w, bias=b),
        composites=("group_norm_grad",),
        tolerance=NORM_TOLERANCE,
        without={**NO_SCALAR, "half": "PyTorch rounds the statistics to float16 in between"},
        bad=(Bad(Sample(np.zeros((2, 3, 2)), np.ones(2)), ShapeError, "instance_norm: weight has shape"),
            Bad(Sample(np.zeros((2, 3, 1))), ShapeError, "one pixel for each channel"),
            Bad(Sample(np.zeros(3)), ShapeError, "instance_norm: expected"),),
    ),
    Op(
        "F.local_response_norm",
        F.local_response_norm,
        lambda d: [
            Sample(d(2, 5, 2), 3, 0.5),
            Sample(d(1, 4, 2, 2), 2, 1.0, 0.5, 2.0),
            Sample(d(1, 3, 2), 5),
            Sample(d(0, 3, 2), 3),
        ],
        _lrn,
        torch=FN + "local_response_norm",
        verbs=("local_response_norm",),
        composites=("local_response_norm_grad",),
        without={**NO_SCALAR, "half": "PyTorch averages in float16", "int64": "minidl refuses integers"},
        bad=(
            Bad(Sample(np.zeros((2, 3, 2)), 0), ShapeError, "size must be at least 1, found 0"),
            Bad(Sample(np.zeros(3), 3), ShapeError, "local_response_norm: expected"),
        ),
    ),
]


# ------------------------------------------------------------------------------------- attention, embeddings, dropout
def attention(q, k, v, mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """Every query by itself: a weighted mean of the values."""
    if is_causal:
        mask = np.tril(np.ones((q.shape[-2], k.shape[-2]), bool))
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(t, lead + t.shape[-2:]) for t in (q, k, v))
    out = np.zeros(lead + (q.shape[-2], v.shape[-1]))
    mask = None if mask is None else np.broadcast_to(mask, lead + (q.shape[-2], k.shape[-2]))
    for at in np.ndindex(*out.shape[:-1]):
        *batch, i = at
        scores = np.array([q[at] @ key for key in k[tuple(batch)]]) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if mask is not None:
            scores = np.where(mask[at], scores, -INF) if mask.dtype == bool else scores + mask[at]
        out[at] = scipy.special.softmax(scores) @ v[tuple(batch)]
    return out


def _attentions(d: Draw):
    yield Sample(d(2, 3, 2), d(2, 4, 2), d(2, 4, 3))
    yield Sample(d(2, 1, 3, 2), d(2, 1, 2, 2), d(2, 1, 2, 2), scale=0.7)
    yield Sample(d(2, 3, 2), d(1, 4, 2), d(2, 4, 3))
    yield Sample(d(3, 2), d(4, 2), d(4, 2), np.array([[True, True, False, True]] * 3), scale=0.7)
    yield Sample(d(3, 2), d(4, 2), d(4, 2), d(3, 4))
    yield Sample(d(1, 2, 3, 2), d(1, 2, 3, 2), d(1, 2, 3, 2), is_causal=True)
    yield Sample(d(0, 3, 2), d(0, 4, 2), d(0, 4, 2))


def multi_head(q, k, v, heads, w, b, wo, bo, mask=None):
    width = q.shape[-1] // heads
    ws, bs = np.split(w, 3), (0, 0, 0) if b is None else np.split(b, 3)
    q, k, v = (x @ m.T + c for x, m, c in zip((q, k, v), ws, bs, strict=True))
    mask = None if mask is None else np.broadcast_to(mask, (len(q), heads, q.shape[1], k.shape[1]))
    parts = [
        attention(*(t[..., h * width : (h + 1) * width] for t in (q, k, v)), None if mask is None else mask[:, h])
        for h in range(heads)
    ]
    return np.concatenate(parts, axis=-1) @ wo.T + (0 if bo is None else bo)


def _torch_multi_head(torch):
    def run(q, k, v, heads, w, b, wo, bo, mask=None):
        args = [t.transpose(0, 1) for t in (q, k, v)]  # PyTorch's has the batch second
        if mask is not None:
            mask = ~mask if mask.dtype == torch.bool else mask  # there, true hides
        y, _ = torch.nn.functional.multi_head_attention_forward(
            *args, q.shape[-1], heads, w, b, None, None, False, 0.0, wo, bo, need_weights=False, attn_mask=mask
        )
        return y.transpose(0, 1)

    return run


def _embeddings(d: Draw):
    yield Sample(np.array([[0, 2], [2, 1]]), d(3, 2))
    yield Sample(np.array([0, 2, 1]), d(3, 2), 2, smooth=False)  # row 2 gets no gradient, on purpose
    yield Sample(np.array(1), d(3, 2))
    yield Sample(np.zeros((0, 2), int), d(3, 2))


def _embedding(index, w, padding_idx=None):
    return w[index]


KEY = (12345, 7)


def _dropped(x, p):
    """The mask that the numbers themselves show; the generator is tested in tests/kernels/test_philox.py."""
    return x * tensors.dropout(minidl.from_numpy(np.ones(x.shape)), p=p, key=KEY).numpy()


REST = [
    Op(
        "F.scaled_dot_product_attention",
        F.scaled_dot_product_attention,
        _attentions,
        attention,
        torch=FN + "scaled_dot_product_attention",
        verbs=("attention",),
        composites=("attention_grad", "softmax_grad"),
        without={"scalar": "axes are needed"},
        tolerance={"float16": (2e-2, 1e-2)},
        bad=(
            Bad(
                Sample(Z, np.zeros((4, 2)), np.zeros((4, 2))),
                ShapeError,
                r"query \(2, 3\), key \(4, 2\), value \(4, 2\)",
            ),
            Bad(Sample(Z, Z, np.zeros((3, 3))), ShapeError, "key and value"),
            Bad(Sample(Z, Z, Z, np.ones((2, 2), bool), is_causal=True), ValueError, "attn_mask or is_causal"),
            Bad(Sample(Z, Z, Z, np.ones((3, 2))), ShapeError, "broadcast|mask"),
        ),
    ),
    Op(
        "F.multi_head_attention",
        F.multi_head_attention,
        lambda d: [
            Sample(d(1, 2, 4), d(1, 3, 4), d(1, 3, 4), 2, d(12, 4), d(12), d(4, 4), d(4)),
            Sample(d(1, 2, 2), d(1, 2, 2), d(1, 2, 2), 1, d(6, 2), None, d(2, 2), None, np.tril(np.ones((2, 2), bool))),
            Sample(d(0, 2, 2), d(0, 3, 2), d(0, 3, 2), 2, d(6, 2), d(6), d(2, 2), d(2)),
        ],
        multi_head,
        torch=_torch_multi_head,
        composites=("attention_grad", "softmax_grad"),
        without={"scalar": "axes are needed"},
        tolerance={"float32": (2e-5, 1e-5), "float16": (3e-2, 6e-2)},  # three products of width 4 in a row
        bad=(
            Bad(
                Sample(
                    np.zeros((1, 2, 4)),
                    np.zeros((1, 2, 4)),
                    np.zeros((1, 2, 4)),
                    3,
                    np.zeros((12, 4)),
                    None,
                    np.zeros((4, 4)),
                    None,
                ),
                ShapeError,
                "3 heads do not divide the width 4",
            ),
            Bad(
                Sample(
                    np.zeros((2, 4)),
                    np.zeros((2, 4)),
                    np.zeros((2, 4)),
                    2,
                    np.zeros((12, 4)),
                    None,
                    np.zeros((4, 4)),
                    None,
                ),
                ShapeError,
                r"expected \(N, L, E\)",
            ),
        ),
    ),
    Op(
        "F.embedding",
        F.embedding,
        _embeddings,
        _embedding,
        torch=FN + "embedding",
        verbs=("embedding",),
        bad=(
            Bad(Sample(np.array([3]), np.zeros((3, 2))), IndexError, "embedding: index 3 is out of range; there are 3"),
            Bad(Sample(np.array([-1]), np.zeros((3, 2))), IndexError, "index -1"),
            Bad(Sample(np.array([0.0]), np.zeros((3, 2))), DTypeError, "embedding: the indices must be integers"),
            Bad(Sample(np.array([0]), np.zeros(3)), ShapeError, "embedding: the weight must be"),
            Bad(Sample(np.array([0]), np.zeros((3, 2)), 3), IndexError, "padding_idx 3 is out of range"),
        ),
    ),
    Op(
        "embedding_grad",
        lambda gy, index, num: tensors.embedding_grad(gy, index, num=num),
        lambda d: [
            Sample(d(3, 2), np.array([0, 2, 2]), 3),
            Sample(d(0, 2), np.zeros(0, int), 3),
            Sample(d(2), np.array(1), 3),
        ],
        lambda gy, index, num: transpose_of(lambda u: u[index], (num, gy.shape[-1]), gy),
        verbs=("embedding_grad",),
        without={"scalar": "rows have an axis"},
    ),
    Op(
        "dropout",
        lambda x, p: tensors.dropout(x, p=p, key=KEY),
        lambda d: [Sample(d(2, 3), 0.3), Sample(d(2, 3), 0.5), Sample(d(), 0.5), Sample(d(0, 3), 0.5)],
        _dropped,
        verbs=("dropout",),
    ),
    Op(
        "F.normalize",
        F.normalize,
        lambda d: [Sample(d(2, 3)), Sample(d.away(2, 3), 1.0, 0), Sample(d.away(2, 3), 3.0), Sample(d(0, 3))],
        lambda x, p=2.0, dim=1: x / np.maximum((np.abs(x) ** p).sum(axis=dim, keepdims=True) ** (1 / p), 1e-12),
        torch=FN + "normalize",
        without={"scalar": "an axis is needed"},
        bad=(Bad(Sample(np.ones(3)), IndexError, "dim 1 is out of range"),),
    ),
]

OPS = [*ACTIVATIONS, *NORMS, *REST]
