"""Functions that are composed of other operations: activations, distances, rearrangements, a norm."""

from __future__ import annotations

import math

import numpy as np

from minidl.errors import ConfigError, DTypeError, ShapeError
from minidl.nn import functional as F
from tests.opdb.base import Bad, Draw, Op, Sample
from tests.opdb.nets import FN, activation

Z = np.zeros((2, 3))
DTYPES = dict.fromkeys(("int64", "bool", "int64 and float32"), "integers are refused, as everywhere in nn.functional")


def _relu6(x):
    return np.clip(x, 0, 6)


def _prelus(d: Draw):
    yield Sample(d.away(2, 3, 2), d(3))
    yield Sample(d.away(2, 3), d(1))
    yield Sample(d.away(4), d(1))
    yield Sample(d.away(), d(1))
    yield Sample(d.away(0, 3), d(3))


def _prelu(x, w):
    w = w.reshape(-1, *[1] * (x.ndim - 2)) if len(w) > 1 else w[0]
    return np.where(x > 0, x, x * w)


def _glu(x, dim=-1):
    a, b = np.split(x, 2, axis=dim)
    return a / (1 + np.exp(-b))


def _cosines(d: Draw):
    yield Sample(d(2, 3), d(2, 3))
    yield Sample(d(2, 3, 2), d(3, 1), dim=-2)
    yield Sample(d(3), d(3), dim=0)
    yield Sample(d(2, 3), d(2, 3), eps=3.0, constants=(0, 1))  # PyTorch's gradient is that of a smaller eps
    yield Sample(np.zeros((1, 3)), d(1, 3), eps=0.1, constants=(0, 1))
    yield Sample(d(0, 3), d(3))


def _cosine(a, b, dim=1, eps=1e-8):
    a, b = np.broadcast_arrays(a, b)
    lengths = [np.maximum(np.sqrt(np.square(x).sum(axis=dim, keepdims=True)), eps) for x in (a, b)]
    return (a / lengths[0] * (b / lengths[1])).sum(axis=dim)


def _distances(d: Draw):
    for p in (2.0, 1.0, 3.0, math.inf):
        yield Sample(d(2, 3), d(2, 3) + 5, p=p)
    yield Sample(d(3), d(2, 3), keepdim=True)
    yield Sample(d(3), d(3), eps=0.1)
    yield Sample(d(0, 3), d(0, 3))


def _distance(a, b, p=2.0, eps=1e-6, keepdim=False):
    return np.linalg.norm(a - b + eps, ord=p, axis=-1, keepdims=keepdim)


def _pixels(x, r):
    *lead, c, h, w = x.shape
    y = np.empty((*lead, c // r**2, h * r, w * r))
    for at in np.ndindex(y.shape):
        *n, k, i, j = at
        y[at] = x[(*n, k * r * r + i % r * r + j % r, i // r, j // r)]
    return y


def _channels(x, r):
    *lead, c, h, w = x.shape
    y = np.empty((*lead, c * r * r, h // r, w // r))
    for at in np.ndindex(y.shape):
        *n, k, i, j = at
        y[at] = x[(*n, k // (r * r), i * r + k // r % r, j * r + k % r)]
    return y


def _dealt(x, groups):
    size = x.shape[1] // groups
    return x[:, [g * size + i for i in range(size) for g in range(groups)]]


def _rms_norms(d: Draw):
    yield Sample(d(2, 4), (4,), d(4))
    yield Sample(d(2, 3, 4), (3, 4), d(3, 4), 1e-2)
    yield Sample(d(2, 4), (4,), eps=1e-5)
    yield Sample(d(0, 4), (4,), d(4))


def _rms_norm(x, shape, w=None, eps=None):
    # The reference runs in float64 for every dtype, where it matters little which of the small numbers is added.
    eps = 1e-7 if eps is None else eps
    y = x / np.sqrt(np.square(x).mean(axis=tuple(range(-len(shape), 0)), keepdims=True) + eps)
    return y if w is None else y * w


NO_AXES = {"scalar": "an axis is needed"}
NOT_EMPTY = {"empty": "PyTorch rearranges no empty tensor"}

OPS = [
    activation(
        "hardtanh",
        lambda x, min_val=-1.0, max_val=1.0: np.clip(x, min_val, max_val),
        {"min_val": -0.5, "max_val": 2.0},
        kinks=(-1.0, -0.5, 1.0, 2.0),
        integers="limits integers, too",
        without=DTYPES,
        bad=(Bad(Sample(Z, 1.0, -1.0), ConfigError, "hardtanh: min_val 1.0 is above max_val -1.0"),),
    ),
    activation("relu6", _relu6, kinks=(0.0, 6.0), integers="limits integers, too", without=DTYPES),
    activation(
        "hardsigmoid",
        lambda x: _relu6(x + 3) / 6,
        kinks=(-3.0, 3.0),
        # its own gradient is 1 / 6 rounded to float32, in float64 too
        torch=lambda torch: lambda x: torch.nn.functional.relu6(x + 3) / 6,
        integers="its relu6 takes integers",
        without=DTYPES,
    ),
    activation("hardswish", lambda x: x * _relu6(x + 3) / 6, kinks=(-3.0, 3.0)),
    activation("mish", lambda x: x * np.tanh(np.logaddexp(0, x)), composites=("tanh_grad",)),
    activation(
        "selu",
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
        kinks=(0.0,),
    ),
    activation("logsigmoid", lambda x: -np.logaddexp(0, -x)),
    Op(
        "F.prelu",
        F.prelu,
        _prelus,
        _prelu,
        torch="prelu",
        without={
            **DTYPES,
            "float32 and float64": "PyTorch converts the slopes",
        },
        bad=(
            Bad(Sample(np.zeros((2, 3)), np.zeros(2)), ShapeError, r"prelu: weight has shape \(2,\).*each of its 3"),
            Bad(Sample(np.zeros((2, 3), int), np.zeros(1)), DTypeError, "prelu: needs a floating-point"),
        ),
    ),
    Op(
        "F.glu",
        F.glu,
        lambda d: [Sample(d(2, 4)), Sample(d(4, 3), 0), Sample(d(2, 2, 3), -2), Sample(d(0, 4)), Sample(d(2, 0))],
        _glu,
        torch=FN + "glu",
        composites=("sigmoid_grad",),
        without={**DTYPES, **NO_AXES},
        bad=(
            Bad(Sample(Z), ShapeError, r"glu: axis -1 of shape \(2, 3\) has no two equal halves"),
            Bad(Sample(np.array(1.0)), ShapeError, "glu: axis -1"),
            Bad(Sample(np.zeros((2, 2), int)), DTypeError, "glu: needs a floating-point"),
        ),
    ),
    Op(
        "F.cosine_similarity",
        F.cosine_similarity,
        _cosines,
        _cosine,
        torch=FN + "cosine_similarity",
        without={**DTYPES, **NO_AXES},
        bad=(
            Bad(Sample(Z, np.zeros((2, 4))), ShapeError, r"\(2, 3\).*\(2, 4\)"),
            Bad(Sample(Z.astype(int), Z.astype(int)), DTypeError, "cosine_similarity: needs a floating-point"),
        ),
    ),
    Op(
        "F.pairwise_distance",
        F.pairwise_distance,
        _distances,
        _distance,
        torch=FN + "pairwise_distance",
        without={**DTYPES, **NO_AXES},
        bad=(
            Bad(Sample(Z, np.zeros((2, 4))), ShapeError, r"\(2, 3\).*\(2, 4\)"),
            Bad(Sample(Z.astype(int), Z.astype(int)), DTypeError, "pairwise_distance: needs a floating-point", "promotes"),
        ),
    ),
    Op(
        "F.pixel_shuffle",
        F.pixel_shuffle,
        lambda d: [Sample(d(2, 8, 3, 2), 2), Sample(d(9, 1, 2), 3), Sample(d(2, 1, 4, 2, 1), 2)],
        _pixels,
        torch=FN + "pixel_shuffle",
        without={**NO_AXES, **NOT_EMPTY},
        bad=(
            Bad(Sample(np.zeros((2, 6, 2, 2)), 2), ShapeError, r"pixel_shuffle: found shape \(2, 6, 2, 2\).*2 \* 2 channels"),
            Bad(Sample(Z, 1), ShapeError, "pixel_shuffle"),
            Bad(Sample(np.zeros((4, 2, 2)), 0), ShapeError, "for the factor 0"),
        ),
    ),
    Op(
        "F.pixel_unshuffle",
        F.pixel_unshuffle,
        lambda d: [Sample(d(2, 2, 4, 6), 2), Sample(d(1, 3, 6), 3), Sample(d(2, 1, 1, 2, 4), 2)],
        _channels,
        torch=FN + "pixel_unshuffle",
        without={**NO_AXES, **NOT_EMPTY},
        bad=(
            Bad(Sample(np.zeros((2, 1, 4, 3)), 2), ShapeError, r"pixel_unshuffle: found shape \(2, 1, 4, 3\).*multiples of 2"),
            Bad(Sample(Z, 1), ShapeError, "pixel_unshuffle"),
        ),
    ),
    Op(
        "F.channel_shuffle",
        F.channel_shuffle,
        lambda d: [Sample(d(2, 6, 3), 2), Sample(d(1, 6, 2, 2), 3), Sample(d(0, 4, 2, 1), 2)],
        _dealt,
        torch=FN + "channel_shuffle",
        without=NO_AXES,
        bad=(
            Bad(Sample(np.zeros((2, 6, 2)), 4), ShapeError, r"channel_shuffle: found shape \(2, 6, 2\) for 4 groups"),
            Bad(Sample(Z, 3), ShapeError, "channel_shuffle"),
        ),
    ),
    Op(
        "F.rms_norm",
        F.rms_norm,
        _rms_norms,
        _rms_norm,
        torch=FN + "rms_norm",
        # eps by default is the dtype's own, 1e-3 in float16, which the reference does not know
        tolerance={"float16": (1e-2, 1e-2), "float64": (1e-6, 1e-6)},
        without={**DTYPES, **NO_AXES, "float32 and float64": "promoted, where PyTorch keeps the input's dtype"},
        bad=(
            Bad(Sample(Z, (2,)), ShapeError, r"rms_norm: normalized_shape is \(2,\).*\(2, 3\)"),
            Bad(Sample(Z, (3,), np.zeros(2)), ShapeError, r"rms_norm: weight has shape \(2,\); it must be \(3,\)"),
            Bad(Sample(Z.astype(int), (3,)), DTypeError, "rms_norm: needs a floating-point"),
        ),
    ),
]
