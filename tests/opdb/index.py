"""Reading and writing by index, and through views."""

from __future__ import annotations

import numpy as np

from minidl import ops
from minidl.autograd.function import tensors
from minidl.errors import DTypeError, ShapeError
from minidl.nn import functional as F
from minidl.ops.inplace import region
from tests.opdb.base import Bad, Draw, Op, Sample, transpose_of
from tests.opdb.shape import calls

Z = np.zeros((2, 3))


def _index(d: Draw):
    for index in (
        1,
        -1,
        slice(None),
        slice(0, 3, 2),
        (slice(None), 1),
        (Ellipsis, 0),
        (None, 1),
        (slice(1, 1),),
        [2, 0, 2],
        ([0, 2], [1, 1]),
        (slice(None), [1, 0]),
        ([0, 1], slice(None), None),
        (np.array([0, 2]), slice(None)),
        (np.array([[0, 1], [2, 0]]),),
    ):
        yield Sample(d(3, 2), index)
    yield Sample(d(3, 2), np.array([True, False, True]))
    yield Sample(d(3, 2), np.array([[True, False], [False, False], [True, True]]))
    yield Sample(d(0, 2), slice(None))
    yield Sample(d(), ())
    yield Sample(d(), Ellipsis)


def _gathers(d: Draw):
    yield Sample(d(3, 2), 0, d.integers(0, 3, 2, 2))
    yield Sample(d(3, 2), -1, d.integers(0, 2, 3, 4))
    yield Sample(d(3, 2), 1, d.integers(0, 2, 1, 3))
    yield Sample(d(2, 3, 2), 1, d.integers(0, 3, 2, 1, 2))
    yield Sample(d(3, 2), 0, np.zeros((0, 2), int))
    yield Sample(d(), 0, np.array(0))


def _gather(x, dim, index):
    if not x.ndim:
        return x
    out = np.empty(index.shape)
    for at in np.ndindex(index.shape):
        place = list(at)
        place[dim] = index[at]
        out[at] = x[tuple(place)]
    return out


def _scatters(d: Draw):
    yield Sample(d(3, 2), 0, d.integers(0, 3, 2, 2), d(2, 2))
    yield Sample(d(3, 2), 1, d.integers(0, 2, 3, 4), d(3, 4))
    yield Sample(d(3, 2), 0, np.zeros((0, 2), int), d(0, 2))
    yield Sample(d(), 0, np.array(0), d())


def _scatter_add(x, dim, index, src):
    y = x.copy()
    for at in np.ndindex(index.shape):
        place = list(at)
        if place:
            place[dim] = index[at]
        y[tuple(place)] += src[at]
    return y


def _writes(d: Draw):
    """Places that differ: which of two writes counts is not said."""
    yield Sample(d(3, 2), 0, np.array([[2, 0], [1, 2]]), d(2, 2))
    yield Sample(d(3, 2), -1, np.array([[1], [0]]), d(2, 1))
    yield Sample(d(3, 2), -1, np.array([[1], [0]]), d(3, 2), constants=(2,))  # PyTorch has no gradient of the rest
    yield Sample(d(3, 2), 1, np.array([[1], [0]]), 2.5)
    yield Sample(d(3, 2), 1, np.array([[1], [0]]), value=2.5)
    yield Sample(d.integers(0, 9, 3, 2), 1, np.array([[1], [0]]), 1)
    yield Sample(d(3, 2), 0, np.zeros((0, 2), int), d(0, 2))
    yield Sample(d(), 0, np.array(0), d())


def _scatter(x, dim, index, src=None, value=None):
    src = value if src is None else src
    y = x.copy()
    for at in np.ndindex(index.shape):
        place = list(at)
        if place:
            place[dim] = index[at]
        y[tuple(place)] = src if np.ndim(src) == 0 else src[at]
    return y


def _unique(x, return_inverse=False, return_counts=False, dim=None):
    slices = list(x.reshape(-1)) if dim is None else [tuple(s.reshape(-1)) for s in np.moveaxis(x, dim, 0)]
    values: list = []
    for s in sorted(slices):
        if not values or s != values[-1]:
            values.append(s)
    kept = np.array(values, x.dtype)
    if dim is not None:
        rest = np.moveaxis(x, dim, 0).shape[1:]
        kept = np.moveaxis(kept.reshape(len(values), *rest), 0, dim)
    out = [kept]
    if return_inverse:
        out.append(np.array([values.index(s) for s in slices], int).reshape(x.shape if dim is None else -1))
    if return_counts:
        out.append(np.array([sum(s == v for s in slices) for v in values], int))
    return out


def _repeated(x, repeats, dim=None):
    return np.repeat(x, repeats, dim)


def _write(x, v, index):
    y = x.copy()
    y[index] = v
    return y


def _setitem(x, index, v):
    y = x.clone()
    y[index] = v
    return y


PATH = [("transpose", {"axes": (1, 0)}), ("getitem", {"index": slice(1, 3)})]


def _written_through_views(x, v):
    y = x.copy()
    y.T[1:3] = v
    return y


def _masked_select(x, mask):
    return x[np.broadcast_to(mask, x.shape)]


OPS = [
    Op(
        "Tensor[...]",
        lambda x, index: x[index],
        _index,
        lambda x, index: x[index],
        torch=lambda torch: lambda x, index: x[index],
        verbs=("getitem",),
        without={"devices": "an index on another device is a plain array"},
        bad=(
            Bad(Sample(Z, 2), IndexError, r"index 2 is out of bounds.*\(2, 3\)"),
            Bad(Sample(Z, (0, 0, 0)), IndexError, "too many indices"),
            Bad(Sample(Z, 1.0), TypeError, "1.0 is no index"),
            Bad(Sample(Z, np.array([0.0])), DTypeError, "integers or bool, found float"),
            Bad(Sample(Z, np.array([True] * 3)), IndexError, r"shape \(2, 3\)"),
        ),
    ),
    Op(
        "Tensor[...] = v",
        _setitem,
        lambda d: (
            [
                Sample(d(3, 2), i, v)
                for i, v in (
                    (1, d(2)),
                    (slice(0, 2), d(2, 2)),
                    ((slice(None), 0), d()),
                    ([2, 0], d(2, 2)),
                    ((Ellipsis, 1), 3.0),
                    (slice(0, 0), d(0, 2)),
                    (np.array([True, False, True]), d(1, 2)),
                )
            ]
            + [Sample(d(0, 2), slice(None), d(2)), Sample(d(), (), d())]
        ),
        lambda x, i, v: _write(x, v, i),
        torch=lambda torch: _setitem,
        verbs=("setitem",),
        without={
            "devices": "what is written is moved to the tensor, as by copy_",
            **dict.fromkeys(
                ("float32 and float64", "int64 and float32"), "and converted; PyTorch converts for slices only"
            ),
        },
        bad=(
            Bad(Sample(Z, 2, 1.0), IndexError, "out of bounds"),
            Bad(Sample(Z, 0, np.zeros(4)), ShapeError, r"\(4,\) does not fit the place \(3,\)"),
        ),
    ),
    Op(
        "getitem_grad",
        lambda gy, shape, index: tensors.getitem_grad(gy, shape=shape, index=index),
        lambda d: [
            Sample(d(2), (3, 2), 1),
            Sample(d(3, 2), (3, 2), [2, 0, 2]),
            Sample(d(2), (3,), [1, 1]),
            Sample(d(), (3,), 0),
            Sample(d(0, 2), (3, 2), slice(0, 0)),
        ],
        lambda gy, shape, index: transpose_of(lambda u: u[index], shape, gy),
        verbs=("getitem_grad",),
    ),
    Op(
        "zero_at",
        lambda x, index: tensors.zero_at(x, index=index),
        lambda d: [Sample(d(3, 2), 1), Sample(d(3, 2), [2, 0, 2]), Sample(d(), ()), Sample(d(0, 2), slice(None))],
        lambda x, index: _write(x, 0.0, index),
        verbs=("zero_at",),
    ),
    Op(
        "view_write",
        lambda x, v: tensors.view_write(x, v, path=PATH),
        lambda d: [Sample(d(2, 4), d(2, 2)), Sample(d(0, 4), d(2, 0))],
        _written_through_views,
        verbs=("view_write",),
        without={"scalar": "a view of an axis is needed"},
    ),
    Op(
        "overwrite",
        lambda x: tensors.overwrite(x),
        calls(((2, 3),), ((),), ((0, 2),)),
        np.zeros_like,
        verbs=("overwrite",),
    ),
    Op(
        "region",
        lambda x: region(tensors, x, PATH),
        lambda d: [Sample(d(2, 4)), Sample(d(0, 4))],
        lambda x: x.T[1:3],
        without={"scalar": "a view of an axis is needed"},
    ),
    Op(
        "ops.gather",
        ops.gather,
        _gathers,
        _gather,
        torch="gather",
        verbs=("gather",),
        bad=(
            Bad(Sample(Z, 0, np.array([[2, 0, 0]])), IndexError, "gather: index 2 is out of range; there are 2"),
            Bad(Sample(Z, 0, np.array([[-1]])), IndexError, "index -1"),
            Bad(Sample(Z, 0, np.array([0])), ShapeError, "as many axes"),
            Bad(Sample(Z, 0, np.zeros((1, 4), int)), ShapeError, "none of them longer"),
            Bad(Sample(Z, 0, np.zeros((1, 3))), DTypeError, "gather: the index must hold integers"),
            Bad(Sample(Z, 2, np.zeros((1, 3), int)), IndexError, "gather: dim 2"),
        ),
    ),
    Op(
        "ops.scatter_add",
        ops.scatter_add,
        _scatters,
        _scatter_add,
        torch="scatter_add",
        verbs=("scatter_add",),
        bad=(
            Bad(
                Sample(Z, 0, np.array([[2, 0, 0]]), np.zeros((1, 3))),
                IndexError,
                "scatter_add: index 2 is out of range",
            ),
            Bad(Sample(Z, 0, np.zeros((2, 3), int), np.zeros((1, 3))), ShapeError, r"scatter_add.*\(2, 3\).*\(1, 3\)"),
            Bad(Sample(Z, 0, np.array([[0.0]]), np.zeros((1, 3))), DTypeError, "integers"),
        ),
    ),
    Op(
        "ops.scatter",
        ops.scatter,
        _writes,
        _scatter,
        torch="scatter",
        verbs=("scatter",),
        without={"int64": "a fraction among the samples, which PyTorch cuts off and minidl refuses", "bool": "the same"},
        bad=(
            Bad(Sample(Z, 0, np.array([[2, 0, 0]]), 1.0), IndexError, "scatter: index 2 is out of range; there are 2"),
            Bad(Sample(Z, 0, np.zeros((2, 3), int), np.zeros((1, 3))), ShapeError, r"scatter.*\(2, 3\).*\(1, 3\)"),
            Bad(Sample(Z, 0, np.zeros((1, 3), int), np.zeros((1, 3), np.float32)), DTypeError, "src is float32.*float64"),
            Bad(
                Sample(np.array([1, 2]), 0, np.array([0]), 0.5),
                DTypeError,
                "src is float32.*int64",
                torch="it cuts off the fraction",
            ),
        ),
    ),
    Op(
        "ops.unique",
        ops.unique,
        lambda d: [
            Sample(d.integers(0, 3, 2, 4)),
            Sample(d.integers(0, 3, 2, 4) * 0.5, return_inverse=True, return_counts=True),
            Sample(d.integers(0, 2, 4, 2), return_counts=True, dim=0),
            Sample(d.integers(0, 2, 1, 5), return_inverse=True, dim=-1),
            Sample(np.array(3.0), return_inverse=True),
            Sample(np.zeros(0), return_counts=True),
        ],
        _unique,
        torch="unique",
        verbs=("unique",),
        grad=False,
        twice=False,
        bad=(Bad(Sample(Z, dim=2), IndexError, "unique: dim 2"),),
    ),
    Op(
        "ops.bincount",
        ops.bincount,
        lambda d: [Sample(d.integers(0, 5, 9)), Sample(np.array([1, 1]), minlength=4), Sample(np.zeros(0, int), minlength=2)],
        lambda x, minlength=0: np.array([np.sum(x == k) for k in range(max(minlength, x.max(initial=-1) + 1))], int),
        torch="bincount",
        verbs=("bincount",),
        grad=False,
        twice=False,
        without={"scalar": "a vector is needed"},
        bad=(
            Bad(Sample(np.array([0.5])), DTypeError, "bincount: counts integers, found float64"),
            Bad(Sample(np.zeros((2, 2), int)), ShapeError, r"bincount: needs a vector, found shape \(2, 2\)"),
            Bad(Sample(np.array([0, -1])), IndexError, "bincount: counts the numbers from 0, found -1"),
        ),
    ),
    Op(
        "ops.repeat_interleave",
        ops.repeat_interleave,
        lambda d: [
            Sample(d(2, 3), 2),
            Sample(d(2, 3), 2, 1),
            Sample(d(2, 3), np.array([2, 0, 1]), -1),
            Sample(d(3), np.array([0, 0, 0])),
            Sample(d(), 3),
            Sample(d(0, 3), 2, 0),
        ],
        _repeated,
        torch="repeat_interleave",
        bad=(
            Bad(Sample(Z, np.array([1, 2]), 1), ShapeError, "axis 1.*one for each of its 3 positions.*\\[1, 2\\]"),
            Bad(Sample(Z, -1), ShapeError, "count of at least 0"),
            Bad(Sample(Z, np.array([1.0])), DTypeError, "counts must be integers"),
            Bad(Sample(Z, 2, 2), IndexError, "repeat_interleave: dim 2"),
        ),
    ),
    Op(
        "ops.index_select",
        ops.index_select,
        lambda d: [
            Sample(d(3, 2), 0, np.array([2, 0, 2])),
            Sample(d(3, 2), 1, np.array([1])),
            Sample(d(3, 2), 0, np.zeros(0, int)),
        ],
        lambda x, dim, i: np.take(x, i, axis=dim),
        torch="index_select",
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(Sample(Z, 0, np.array([2])), IndexError, "index_select: index 2 is out of range"),
            Bad(Sample(Z, 0, np.zeros((1, 1), int)), ShapeError, "must be a vector"),
            Bad(Sample(Z, 2, np.array([0])), IndexError, "index_select: dim 2"),
            Bad(Sample(Z, 0, np.array([0.0])), DTypeError, "index_select.*integers"),
        ),
    ),
    Op(
        "ops.masked_select",
        ops.masked_select,
        lambda d: [
            Sample(d(2, 3), d.mask(2, 3)),
            Sample(d(2, 3), d.mask(3)),
            Sample(d(0, 3), d.mask(3)),
            Sample(d(), np.array(True)),
        ],
        _masked_select,
        torch="masked_select",
        bad=(
            Bad(Sample(Z, np.zeros((2, 3))), DTypeError, "mask must be bool"),
            Bad(Sample(Z, np.zeros(2, bool)), ShapeError, "expand|masked_select"),
        ),
    ),
    Op(
        "ops.nonzero",
        ops.nonzero,
        lambda d: [
            Sample(d.integers(0, 2, 2, 3) * 1.0),
            Sample(d.integers(0, 2, 2, 3) * 1.0, as_tuple=True),
            Sample(np.zeros((2, 2))),
            Sample(d(0, 3)),
            Sample(np.array(1.0)),
        ],
        lambda x, as_tuple=False: list(np.nonzero(x)) if as_tuple else np.argwhere(x),
        torch="nonzero",
        verbs=("nonzero",),
        grad=False,
        twice=False,
    ),
    Op(
        "F.one_hot",
        F.one_hot,
        lambda d: [
            Sample(d.integers(0, 3, 4), 3),
            Sample(np.array([[0, 2]])),
            Sample(np.array(1), 2),
            Sample(np.zeros((0,), int), 3),
        ],
        lambda x, n=-1: np.eye(n if n >= 0 else x.max() + 1, dtype=int)[x],
        torch="nn.functional.one_hot",
        verbs=("one_hot",),
        grad=False,
        twice=False,
        bad=(
            Bad(Sample(np.array([3]), 3), IndexError, "one_hot: index 3 is out of range"),
            Bad(Sample(np.array([-1])), IndexError, "index -1"),
            Bad(Sample(np.array([1.0])), DTypeError, "one_hot.*integers"),
            Bad(Sample(np.zeros(0, int)), ShapeError, "no labels to count"),
        ),
    ),
]
