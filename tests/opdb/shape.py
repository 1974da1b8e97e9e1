"""Operations that move elements: shapes, padding, copies."""

from __future__ import annotations

import numpy as np

from minidl import ops
from minidl.autograd.function import tensors
from minidl.errors import ConfigError, ShapeError
from minidl.nn import functional as F
from minidl.ops import shape as shapes
from tests.opdb.base import Bad, Op, Sample, transpose_of

Z = np.zeros((2, 3))


def method(name):
    """torch.Tensor.<name>"""
    return lambda torch: getattr(torch.Tensor, name)


def calls(*cases):
    """Samples from (shape, arguments...): the tensor is drawn."""
    return lambda d: [Sample(d(*case[0]), *case[1:]) for case in cases]


def _flatten(x, start=0, end=-1):
    if not x.ndim:
        return x.reshape(1)
    end %= x.ndim
    return x.reshape(*x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :])


def _squeeze(x, dim=None):
    axes = range(x.ndim) if dim is None else np.atleast_1d(dim) % max(x.ndim, 1)
    return x.reshape([n for i, n in enumerate(x.shape) if i not in axes or n != 1])


def _pieces(x, size, dim=0):
    if isinstance(size, int):
        return [
            np.take(x, range(i, min(i + size, x.shape[dim])), axis=dim) for i in range(0, max(x.shape[dim], 1), size)
        ]
    return np.split(x, np.cumsum(size)[:-1], axis=dim)


def _chunks(x, chunks, dim=0):
    if not x.shape[dim]:
        return [x] * chunks
    return _pieces(x, max(-(-x.shape[dim] // chunks), 1), dim)


def _expand(x, *sizes):
    lead = len(sizes) - x.ndim
    return np.broadcast_to(x, [x.shape[i - lead] if n == -1 else n for i, n in enumerate(sizes)])


def _roll(x, shifts, dims=None):
    return np.roll(x, shifts, dims)


def _pad(x, pad, mode="constant", value=None):
    if not pad:
        return x
    widths = [(0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        widths[x.ndim - 1 - i] = (pad[2 * i], pad[2 * i + 1])
    crop = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, widths, strict=True))
    grow = [(max(lo, 0), max(hi, 0)) for lo, hi in widths]
    if mode == "constant":
        return np.pad(x[crop], grow, constant_values=value or 0)
    return np.pad(x[crop], grow, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


MOVES = [
    Op(
        "ops.reshape",
        ops.reshape,
        calls(((2, 6), 3, 4), ((2, 6), (3, -1)), ((), 1), ((1,), ()), ((0, 3), 3, 0), ((2, 3), -1), ((0, 3), (0,))),
        lambda x, *s: x.reshape(*s),
        torch=method("reshape"),
        verbs=("reshape",),
        bad=(
            Bad(
                Sample(Z, 4, 2),
                ShapeError,
                r"reshape: shape \(2, 3\) has 6 elements, which do not fit \(4, 2\) \(8 elements\)",
            ),
            Bad(Sample(Z, -1, -1), ShapeError, "at most one entry may be -1"),
            Bad(Sample(Z, 4, -1), ShapeError, "6 elements"),
            Bad(Sample(np.zeros((0, 3)), -1, 0), ShapeError, "0 elements"),
            Bad(Sample(Z, -2, 3), ShapeError, "no shape"),
        ),
    ),
    Op(
        "ops.flatten",
        ops.flatten,
        calls(((2, 3, 2),), ((2, 3, 2), 1), ((2, 3, 2), 0, 1), ((),), ((0, 3, 2), 1)),
        _flatten,
        torch="flatten",
        bad=(
            Bad(Sample(Z, 1, 0), ShapeError, "flatten: start_dim 1 comes after end_dim 0"),
            Bad(Sample(Z, 2), IndexError, "flatten: dim 2"),
        ),
    ),
    Op(
        "Tensor.unflatten",
        shapes.unflatten,
        calls(((2, 6), 1, (2, 3)), ((2, 6), -1, (-1, 2)), ((0, 6), 1, (2, 3))),
        lambda x, dim, sizes: x.reshape(*x.shape[: dim % 2], *sizes, *x.shape[dim % 2 + 1 :]),
        torch=method("unflatten"),
        without={"scalar": "an axis is needed"},
        bad=(Bad(Sample(np.zeros((2, 6)), 1, (4, 2)), ShapeError, r"unflatten: axis 1 of length 6.*\(4, 2\)"),),
    ),
    Op(
        "ops.permute",
        ops.permute,
        calls(((2, 3, 2), 2, 0, 1), ((2, 3), (1, 0)), ((0, 3), (-1, 0)), ((), ())),
        lambda x, *o: x.transpose(*o),
        torch=method("permute"),
        verbs=("transpose",),
        bad=(
            Bad(Sample(Z, 0, 0), ShapeError, r"permute: \(0, 0\) is no order of the 2 axes"),
            Bad(Sample(Z, 0), ShapeError, "permute"),
            Bad(Sample(Z, 0, 2), IndexError, "permute: dim 2"),
        ),
    ),
    Op(
        "ops.transpose",
        ops.transpose,
        calls(((2, 3, 2), 0, 2), ((2, 3), -1, -2), ((0, 3), 0, 1), ((), 0, -1)),
        lambda x, a, b: np.swapaxes(x, a, b) if x.ndim else x,
        torch="transpose",
        aliases=("ops.swapaxes",),
        bad=(Bad(Sample(Z, 0, 2), IndexError, "transpose: dim 2 is out of range"),),
    ),
    Op(
        "Tensor.t",
        shapes.t,
        calls(((2, 3),), ((3,),), ((),), ((0, 2),)),
        np.transpose,
        torch="t",
        bad=(Bad(Sample(np.zeros((2, 3, 2))), ShapeError, "t: needs at most two axes.*transpose"),),
    ),
    Op(
        "ops.movedim",
        ops.movedim,
        calls(((2, 3, 2), 0, 2), ((2, 3, 2), -1, 0), ((0, 3), 0, 1), ((2, 3, 4, 5), (1, -1), (2, 0)), ((2, 3, 4), (2, 0), (0, 2))),
        np.moveaxis,
        torch="movedim",
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(Sample(Z, 0, 2), IndexError, "movedim: dim 2"),
            Bad(Sample(Z, (0, 1), (0,)), ShapeError, "movedim: 2 axes for 1 places"),
        ),
    ),
    Op(
        "ops.squeeze",
        ops.squeeze,
        calls(((1, 3, 1),), ((1, 3, 1), 0), ((1, 3, 1), -1), ((1, 3, 1), 1), ((1, 3, 1), (0, 2)), ((),), ((1, 0),)),
        _squeeze,
        torch="squeeze",
        bad=(Bad(Sample(Z, 2), IndexError, "squeeze: dim 2"),),
    ),
    Op(
        "ops.unsqueeze",
        ops.unsqueeze,
        calls(((2, 3), 0), ((2, 3), -1), ((2, 3), 1), ((), 0), ((0, 2), 2)),
        np.expand_dims,
        torch="unsqueeze",
        bad=(Bad(Sample(Z, 3), IndexError, "unsqueeze: dim 3"),),
    ),
    Op(
        "ops.broadcast_to",
        ops.broadcast_to,
        calls(((1, 3), 2, 3), ((3,), (2, -1)), ((), 2, 2), ((0, 1), 2, 0, 3), ((2, 1), 0, 2, 1)),
        lambda x, *s: _expand(x, *(s[0] if isinstance(s[0], tuple) else s)),
        torch=method("expand"),
        verbs=("broadcast_to",),
        bad=(
            Bad(
                Sample(Z, 4, 3), ShapeError, r"expand: shape \(2, 3\) does not stretch to \(4, 3\): axis 0 has length 2"
            ),
            Bad(Sample(Z, 3), ShapeError, "fewer axes"),
            Bad(Sample(Z, -1, 2, 3), ShapeError, "expand"),
        ),
    ),
    Op(
        "sum_to",
        tensors.sum_to,
        lambda d: (
            [Sample(d(2, 3), shape=s) for s in ((2, 1), (3,), (), (2, 3), (1, 3))]
            + [Sample(d(0, 2), shape=(2,)), Sample(d(), shape=())]
        ),
        lambda x, shape: transpose_of(lambda u: np.broadcast_to(u, x.shape), shape, x),
        torch=lambda torch: lambda x, shape: x.sum_to_size(shape),
        verbs=("sum_to",),
        without={"dtypes": "integers are not summed to a shape by users"},
    ),
    Op("ops.clone", ops.clone, calls(((2, 3),), ((),), ((0, 3),)), np.copy, torch="clone", verbs=("copy",)),
    Op(
        "Tensor.contiguous",
        lambda x: shapes.contiguous(x.transpose(0, 1)),
        calls(((2, 3),), ((0, 3),)),
        lambda x: x.T.copy(),
        torch=lambda torch: lambda x: x.t().contiguous(),
        verbs=("contiguous",),
        without={"scalar": "always contiguous"},
    ),
    Op(
        "ops.cat",
        ops.cat,
        lambda d: [
            Sample([d(2, 3), d(1, 3)]),
            Sample([d(2, 3), d(2, 1), d(2, 2)], 1),
            Sample([d(2, 3)], -1),
            Sample([d(0, 3), d(2, 3)]),
            Sample((d(2), d(3)), 0),
        ],
        lambda xs, dim=0: np.concatenate(xs, dim),
        torch="cat",
        verbs=("concatenate",),
        aliases=("ops.concat", "ops.concatenate"),
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(Sample([Z, np.zeros((2, 4))]), ShapeError, r"cat: tensor 1 has shape \(2, 4\), tensor 0 has \(2, 3\)"),
            Bad(Sample([]), ShapeError, "cat: needs at least one"),
            Bad(Sample([np.array(1.0), np.array(2.0)]), ShapeError, "cat: 0-d tensors.*stack"),
            Bad(Sample([Z, Z], 2), IndexError, "cat: dim 2"),
            Bad(Sample([Z, 3.0]), TypeError, "cat: expected Tensors, found float"),
        ),
    ),
    Op(
        "ops.stack",
        ops.stack,
        lambda d: [
            Sample([d(2, 3), d(2, 3)]),
            Sample([d(2, 3), d(2, 3)], -1),
            Sample([d(3)] * 3, 1),
            Sample([d(), d()]),
            Sample([d(0, 2)] * 2),
        ],
        lambda xs, dim=0: np.stack(xs, dim),
        torch="stack",
        verbs=("stack",),
        bad=(
            Bad(Sample([Z, np.zeros((3, 2))]), ShapeError, r"stack: tensor 1 has shape \(3, 2\)"),
            Bad(Sample([]), ShapeError, "stack: needs at least one"),
            Bad(Sample([Z, Z], 3), IndexError, "stack: dim 3"),
        ),
    ),
    Op(
        "ops.meshgrid",
        ops.meshgrid,
        lambda d: [
            Sample(d(2), d(3), indexing="ij"),
            Sample(d(2), d(3), indexing="xy"),
            Sample(d(2), d(3), d(4), indexing="xy"),
            Sample([d(2), d(), d(3)], indexing="ij"),
            Sample(d(2), indexing="xy"),
            Sample(d(0), d(3), indexing="ij"),
        ],
        lambda *xs, indexing: np.meshgrid(*(xs[0] if isinstance(xs[0], list) else xs), indexing=indexing),
        torch="meshgrid",
        without={
            "float32 and float64": "each keeps its dtype, where PyTorch wants one",
            "int64 and float32": "each keeps its dtype, where PyTorch wants one",
        },
        bad=(
            Bad(Sample(Z, np.zeros(2)), ShapeError, r"meshgrid: needs vectors, found 2 tensors of shapes \(2, 3\), \(2,\)"),
            Bad(Sample(np.zeros(2), indexing="yx"), ConfigError, "indexing must be 'ij' or 'xy', found 'yx'"),
        ),
    ),
    Op(
        "ops.split",
        ops.split,
        calls(((5, 2), 2), ((2, 5), [1, 4], 1), ((4,), 4), ((0, 2), 2), ((2, 3), [2, 0])),
        _pieces,
        torch="split",
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(Sample(Z, [1, 2], 0), ShapeError, r"split: the sizes \[1, 2\] do not add up to the length 2 of axis 0"),
            Bad(Sample(Z, 0), ShapeError, "split: the size must be at least 1"),
            Bad(Sample(Z, 1, 2), IndexError, "split: dim 2"),
        ),
    ),
    Op(
        "ops.chunk",
        ops.chunk,
        calls(((5, 2), 2), ((2, 5), 3, 1), ((2, 2), 4), ((0, 2), 2)),
        _chunks,
        torch="chunk",
        without={"scalar": "an axis is needed"},
        bad=(Bad(Sample(Z, 0), ShapeError, "chunk: needs at least 1 chunk"),),
    ),
    Op(
        "ops.unbind",
        ops.unbind,
        calls(((2, 3),), ((2, 3), 1), ((2, 0),)),
        lambda x, dim=0: list(np.moveaxis(x, dim, 0)),
        torch="unbind",
        without={"scalar": "an axis is needed"},
        bad=(Bad(Sample(Z, 2), IndexError, "unbind: dim 2"),),
    ),
    Op(
        "ops.flip",
        ops.flip,
        lambda d: [
            *calls(((2, 3), 0), ((2, 3), (0, 1)), ((2, 3), (-1,)), ((0, 3), 0))(d),
            Sample(d(2, 3), dims=(1,)),
        ],
        lambda x, *d, dims=None: np.flip(x, d[0] if d else dims),
        torch=method("flip"),
        verbs=("flip",),
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(Sample(Z, 2), IndexError, "flip: dim 2"),
            Bad(Sample(Z, (0, 0)), ShapeError, "flip: an axis appears twice"),
        ),
    ),
    Op(
        "ops.roll",
        ops.roll,
        calls(((2, 3), 1), ((2, 3), 1, 0), ((2, 3), (1, -2), (0, 1)), ((0, 3), 1, 0), ((), 1)),
        _roll,
        torch="roll",
        verbs=("roll",),
        bad=(
            Bad(Sample(Z, 1, 2), IndexError, "roll: dim 2"),
            Bad(Sample(Z, (1, 2), (0,)), ShapeError, "roll: 2 shifts.*1"),
        ),
    ),
    Op(
        "ops.repeat",
        ops.repeat,
        calls(((2, 3), 2, 1), ((3,), (2, 2)), ((), 3), ((0, 2), 2, 2), ((2,), 0)),
        lambda x, *t: np.tile(x, t[0] if isinstance(t[0], tuple) else t),
        torch=method("repeat"),
        bad=(Bad(Sample(Z, 2), ShapeError, "repeat.*fewer entries"), Bad(Sample(Z, 2, -1), ShapeError, "repeat")),
    ),
    Op(
        "ops.tile",
        ops.tile,
        calls(((2, 3), (2,)), ((2, 3), (2, 1)), ((3,), (2, 2)), ((), (3,)), ((0, 2), (2, 2))),
        np.tile,
        torch="tile",
        bad=(Bad(Sample(Z, (2, -1)), ShapeError, "repeat"),),
    ),
    Op(
        "ops.narrow",
        ops.narrow,
        calls(((3, 4), 1, 1, 2), ((3, 4), 0, -2, 2), ((3,), 0, 3, 0), ((0, 3), 1, 0, 3)),
        lambda x, dim, start, length: np.take(x, range(start % max(x.shape[dim], 1) if start < 0 else start, (
            start % max(x.shape[dim], 1) if start < 0 else start) + length), axis=dim),
        torch="narrow",
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(Sample(Z, 1, 2, 2), ShapeError, r"narrow: 2 positions from 2 are not in axis 1 of shape \(2, 3\)"),
            Bad(Sample(Z, 1, -4, 1), ShapeError, "narrow: 1 positions from -4"),
            Bad(Sample(Z, 2, 0, 1), IndexError, "narrow: dim 2"),
        ),
    ),
    Op(
        "ops.diag",
        ops.diag,
        calls(((3, 4),), ((3, 4), 1), ((4, 3), -2), ((2, 3), 4), ((3,),), ((3,), 2), ((2,), -1), ((0,), 1), ((0, 2),)),
        np.diag,
        torch="diag",
        without={"scalar": "an axis is needed"},
        bad=(Bad(Sample(np.zeros((2, 2, 2))), ShapeError, r"diag: expected a vector or a matrix, found shape \(2, 2, 2\)"),),
    ),
    Op(
        "ops.tril",
        ops.tril,
        calls(((3, 3),), ((2, 3), 1), ((2, 3, 2), -1), ((0, 3),)),
        np.tril,
        torch="tril",
        verbs=("triangle",),
        without={"scalar": "two axes are needed"},
        bad=(Bad(Sample(np.zeros(3)), ShapeError, "tril: needs at least two axes"),),
    ),
    Op(
        "ops.triu",
        ops.triu,
        calls(((3, 3),), ((2, 3), 1), ((2, 3, 2), -1), ((0, 3),)),
        np.triu,
        torch="triu",
        without={"scalar": "two axes are needed"},
        bad=(Bad(Sample(np.zeros(3)), ShapeError, "triu: needs at least two axes"),),
    ),
    Op(
        "F.pad",
        F.pad,
        calls(
            ((2, 3), (1, 2)),
            ((2, 3), (1, 0, 0, 2), "constant", 1.5),
            ((2, 4), (-1, 1)),
            ((1, 2, 4), (2, 1), "reflect"),
            ((1, 2, 3), (2, 4), "replicate"),
            ((1, 2, 3), (3, 2), "circular"),
            ((1, 1, 3, 3), (1, 1, 2, 2), "reflect"),
            ((0, 3), (1, 1)),
            ((), ()),
        ),
        _pad,
        torch="nn.functional.pad",
        verbs=("pad",),
        bad=(
            Bad(Sample(Z, (1,)), ShapeError, r"pad: \(1,\) for shape \(2, 3\)"),
            Bad(Sample(Z, (1, 1, 1, 1, 1, 1)), ShapeError, "pad"),
            Bad(Sample(Z, (-2, -2)), ShapeError, "crops more than there is"),
            Bad(Sample(Z[None], (3, 0), "reflect"), ShapeError, "reflect cannot fill.*at most 2"),
            Bad(Sample(Z[None], (4, 0), "circular"), ShapeError, "circular cannot fill.*at most 3"),
            Bad(Sample(Z[None], (1, 1), "mirror"), ValueError, "mode 'mirror'"),
        ),
    ),
]

TRANSFER = [
    # To the device that it is on already; test_devices.py moves tensors between two.
    Op(
        "to_device",
        lambda x: tensors.to_device(x, target=x.F),
        calls(((2, 3),), ((),), ((0, 2),)),
        np.copy,
        verbs=("to_device",),
    ),
]

OPS = [*MOVES, *TRANSFER]
