"""Reductions and sorting."""

from __future__ import annotations

import math

import numpy as np
import scipy.special

from minidl import ops
from minidl.errors import DTypeError, ShapeError
from tests.opdb.base import Bad, Draw, Op, Sample

INF = math.inf
BAD_DIM = np.zeros((2, 3))


def _bad(name, several=True):
    yield Bad(Sample(BAD_DIM, 2), IndexError, rf"{name}: dim 2 is out of range.*2 axes")
    yield Bad(Sample(BAD_DIM, "x"), TypeError, rf"{name}: dim must be an integer")
    if several:
        yield Bad(Sample(BAD_DIM, (0, 0)), ShapeError, rf"{name}: an axis appears twice")


def over(make, empty=True, several=True, nothing=True):
    """Samples of a reduction of ``make``'s numbers, over every kind of dim."""

    def samples(d: Draw):
        yield Sample(make(d, 2, 3))
        yield Sample(make(d, 2, 3, 2), 1)
        yield Sample(make(d, 2, 3, 2), -1, True)
        if several:
            yield Sample(make(d, 2, 3, 2), (0, 2))
            yield Sample(make(d, 2, 3, 2), (0, -1), True)
        if nothing:
            yield Sample(make(d, 2, 3), ())
        yield Sample(make(d))
        yield Sample(make(d), 0)
        yield Sample(make(d, 0, 3), 1)
        if empty:
            yield Sample(make(d, 0, 3), 0)
            yield Sample(make(d, 0, 3))

    return samples


def axis_of(dim):
    return None if dim == () else dim


def reference(f):
    def run(x, dim=None, keepdim=False):
        x = np.asarray(x)
        dim = axis_of(dim)
        return f(x, None if not x.ndim else dim, keepdim)

    return run


def normal(d, *shape):
    return d(*shape)


def distinct(d, *shape):
    return d.distinct(*shape)


EMPTY = tuple(
    Bad(Sample(np.zeros((2, 0)), *dim), IndexError, r"has no answer over axis 1 of length 0") for dim in ((), (1,))
)


def _var(x, dim=None, unbiased=True, keepdim=False):
    dim = axis_of(dim) if x.ndim else None
    n = x.size if dim is None else np.prod([x.shape[i] for i in np.atleast_1d(dim)])
    with np.errstate(all="ignore"):
        centred = x - x.sum(axis=dim, keepdims=True) / n
        total = (centred**2).sum(axis=dim, keepdims=keepdim)
        return total / max(n - unbiased, 0)


def _mean_beside(x, dim=None, unbiased=True, keepdim=False):
    with np.errstate(all="ignore"):
        return np.mean(x, axis=axis_of(dim) if x.ndim else None, keepdims=keepdim)


def _var_samples(d: Draw):
    yield Sample(d(2, 3))
    yield Sample(d(2, 3, 2), 1)
    yield Sample(d(2, 3, 2), (0, 2), False)
    yield Sample(d(2, 3), 1, True, True)
    yield Sample(d(0, 3), 1)
    yield Sample(d(1, 3), 0, smooth=False)
    yield Sample(d(0, 3), 0, smooth=False)
    yield Sample(d(), smooth=False)


def _norm_samples(d: Draw):
    yield Sample(d(2, 3))
    yield Sample(d(2, 3), 2, 1)
    yield Sample(d(2, 3), "fro", (0, 1), True)
    yield Sample(d.away(2, 3), 1, 1)
    yield Sample(d.away(2, 3), 3.0, 0)
    yield Sample(d.distinct(2, 3) + 5, INF, 1)
    yield Sample(d(0, 3), 2, 1)
    yield Sample(d.away())
    yield Sample(np.zeros(3), 2, 0, smooth=False)


def _norm(x, p=2, dim=None, keepdim=False):
    dim = dim if x.ndim else None
    x = np.abs(x)
    if p == INF:
        return x.max(axis=dim, keepdims=keepdim)
    p = 2 if p == "fro" else p
    return (x**p).sum(axis=dim, keepdims=keepdim) ** (1 / p)


def _extremum(f, arg):
    def run(x, dim=None, keepdim=False):
        if isinstance(dim, np.ndarray):
            return (np.maximum if f is np.max else np.minimum)(x, dim)
        if dim is None:
            return f(x)
        if not x.ndim:
            return [x, np.zeros((), int)]
        return [f(x, axis=dim, keepdims=keepdim), arg(x, axis=dim, keepdims=keepdim)]

    return run


def _extremum_samples(d: Draw):
    yield from over(distinct, empty=False, several=False, nothing=False)(d)
    yield Sample(d.distinct(2, 3), d.distinct(2, 3) + 0.13)
    yield Sample(np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]]), 1, smooth=False)


def _arg(f):
    def run(x, dim=None, keepdim=False):
        return f(x) if dim is None or not x.ndim else f(x, axis=dim, keepdims=keepdim)

    return run


def _prods(d: Draw):
    yield from over(normal, several=False, nothing=False)(d)
    yield Sample(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0], [0.5, 2.0, 4.0]]), 1)
    yield Sample(np.array([[0.0, 2.0], [3.0, 1.5]]))


def _sorted(x, dim=-1, descending=False):
    order = np.argsort(-x if descending else x, axis=dim, kind="stable")
    return [np.take_along_axis(x, order, dim), order]


def _sort_samples(d: Draw):
    yield Sample(d.distinct(2, 3))
    yield Sample(d.distinct(2, 3), 0, True)
    yield Sample(d.distinct(5), -1, True)
    yield Sample(d(0, 3), 0)
    yield Sample(np.array([1.0, 0.0, 1.0, 0.0]), 0, True, smooth=False)


def _topk_samples(d: Draw):
    yield Sample(d.distinct(2, 4), 2)
    yield Sample(d.distinct(4, 2), 3, 0, False)
    yield Sample(d.distinct(3), 0)
    yield Sample(d(0, 3), 2)


def _topk(x, k, dim=-1, largest=True):
    values, order = _sorted(x, dim, largest)
    return [np.take(values, range(k), axis=dim), np.take(order, range(k), axis=dim)]


def _kth_samples(d: Draw):
    yield Sample(d.distinct(2, 4), 2)
    yield Sample(d.distinct(4, 2), 3, 0)
    yield Sample(d.distinct(2, 3), 3, -1, True)
    yield Sample(d.distinct(), 1)
    yield Sample(d(0, 3), 2, 1)


def _kth(x, k, dim=-1, keepdim=False):
    if not x.ndim:
        return [x, np.array(0)]
    kth = [np.take(t, [k - 1], axis=dim) for t in _sorted(x, dim, False)]
    return kth if keepdim else [np.squeeze(t, dim) for t in kth]


OPS = [
    Op(
        "ops.sum",
        ops.sum,
        over(normal),
        reference(lambda x, a, k: np.sum(x, axis=a, keepdims=k)),
        torch="sum",
        verbs=("sum",),
        bad=tuple(_bad("sum")),
    ),
    Op(
        "ops.mean",
        ops.mean,
        over(normal, empty=False),
        reference(lambda x, a, k: np.mean(x, axis=a, keepdims=k)),
        torch="mean",
        verbs=("mean",),
        bad=(*_bad("mean"), Bad(Sample(np.array([1, 2])), DTypeError, "mean.*int64.*float()")),
    ),
    Op(
        "ops.var",
        ops.var,
        _var_samples,
        _var,
        torch="var",
        verbs=(),
        bad=(*_bad("var"), Bad(Sample(np.array([1, 2])), DTypeError, "var.*int64")),
    ),
    Op(
        "ops.var_mean",
        ops.var_mean,
        _var_samples,
        lambda x, *a: [_var(x, *a), _mean_beside(x, *a)],
        torch="var_mean",
        bad=tuple(_bad("var")),
    ),
    Op(
        "ops.std_mean",
        ops.std_mean,
        _var_samples,
        lambda x, *a: [np.sqrt(_var(x, *a)), _mean_beside(x, *a)],
        torch="std_mean",
        bad=tuple(_bad("std|var")),
    ),
    Op("ops.std", ops.std, _var_samples, lambda *a: np.sqrt(_var(*a)), torch="std", bad=tuple(_bad("std|var"))),
    Op(
        "ops.amax",
        ops.amax,
        over(distinct, empty=False),
        reference(lambda x, a, k: np.max(x, axis=a, keepdims=k)),
        torch="amax",
        verbs=("amax",),
        bad=(*_bad("amax"), *EMPTY),
    ),
    Op(
        "ops.amin",
        ops.amin,
        over(distinct, empty=False),
        reference(lambda x, a, k: np.min(x, axis=a, keepdims=k)),
        torch="amin",
        verbs=("amin",),
        bad=(*_bad("amin"), *EMPTY),
    ),
    Op(
        "ops.max",
        ops.max,
        _extremum_samples,
        _extremum(np.max, np.argmax),
        torch="max",
        bad=(*_bad("max", False), *EMPTY),
    ),
    Op(
        "ops.min",
        ops.min,
        _extremum_samples,
        _extremum(np.min, np.argmin),
        torch="min",
        bad=(*_bad("min", False), *EMPTY),
    ),
    Op(
        "ops.argmax",
        ops.argmax,
        over(distinct, empty=False, several=False, nothing=False),
        _arg(np.argmax),
        torch="argmax",
        verbs=("argmax",),
        without={"bool": "minidl ranks bool, too"},
        grad=False,
        twice=False,
        bad=(*_bad("argmax", False), *EMPTY),
    ),
    Op(
        "ops.argmin",
        ops.argmin,
        over(distinct, empty=False, several=False, nothing=False),
        _arg(np.argmin),
        torch="argmin",
        verbs=("argmin",),
        without={"bool": "minidl ranks bool, too"},
        grad=False,
        twice=False,
        bad=(*_bad("argmin", False), *EMPTY),
    ),
    Op(
        "ops.any",
        ops.any,
        over(lambda d, *s: d.mask(*s), nothing=False),
        reference(lambda x, a, k: np.any(x, axis=a, keepdims=k)),
        torch="any",
        verbs=("any",),
        grad=False,
        twice=False,
        bad=tuple(_bad("any")),
    ),
    Op(
        "ops.all",
        ops.all,
        over(lambda d, *s: d.mask(*s), nothing=False),
        reference(lambda x, a, k: np.all(x, axis=a, keepdims=k)),
        torch="all",
        verbs=("all",),
        grad=False,
        twice=False,
        bad=tuple(_bad("all")),
    ),
    Op(
        "ops.prod",
        ops.prod,
        _prods,
        reference(lambda x, a, k: np.prod(x, axis=a, keepdims=k)),
        torch="prod",
        verbs=("prod",),
        bad=tuple(_bad("prod", False)),
    ),
    Op(
        "ops.cumsum",
        ops.cumsum,
        lambda d: [Sample(d(2, 3), 0), Sample(d(2, 3), -1), Sample(d(), 0), Sample(d(0, 3), 0)],
        lambda x, dim: np.cumsum(x, axis=dim) if x.ndim else x,
        torch="cumsum",
        verbs=("cumsum",),
        bad=tuple(_bad("cumsum", False)),
    ),
    Op(
        "ops.cumprod",
        ops.cumprod,
        lambda d: [
            Sample(d(2, 3), 0),
            Sample(d(2, 3), -1),
            Sample(np.array([2.0, 0.0, 3.0, 0.0, 4.0]), 0),
            Sample(d(), 0),
            Sample(d(0, 3), 0),
            Sample(d(0, 3), 1),
        ],
        lambda x, dim: np.cumprod(x, axis=dim) if x.ndim else x,
        torch="cumprod",
        bad=tuple(_bad("cumprod", False)),
    ),
    Op(
        "ops.logsumexp",
        ops.logsumexp,
        lambda d: [
            Sample(d(2, 3), 1),
            Sample(d(2, 3), (0, 1), True),
            Sample(d(), 0),
            Sample(d(0, 3), 1),
            Sample(np.array([[1000.0, 1000.5], [-1000.0, -1001.0]]), 1),
            Sample(np.array([[-INF, -INF], [INF, 0.0]]), 1, smooth=False),
        ],
        lambda x, dim, keepdim=False: scipy.special.logsumexp(x, axis=dim if x.ndim else None, keepdims=keepdim),
        torch="logsumexp",
        without={"half": "PyTorch rounds logsumexp to float16 before the backward pass uses it"},
        bad=tuple(_bad("logsumexp")),
    ),
    Op(
        "ops.norm",
        ops.norm,
        _norm_samples,
        _norm,
        torch="norm",
        bad=(
            Bad(Sample(np.ones(2), "nuclear"), ValueError, "norm: p must be"),
            Bad(Sample(np.ones(2), -3.0), ValueError, "norm: p must be", torch="computes norms of negative order"),
            Bad(Sample(np.array([1, 2])), DTypeError, "norm.*int64"),
        ),
    ),
    Op(
        "ops.argsort",
        ops.argsort,
        _sort_samples,
        lambda *a: _sorted(*a)[1],
        torch=lambda torch: (
            lambda x, dim=-1, descending=False: torch.argsort(x, dim=dim, descending=descending, stable=True)
        ),
        verbs=("argsort",),
        grad=False,
        twice=False,
        bad=tuple(_bad("argsort", False)),
        without={"scalar": "see tests/ops/test_reduce.py"},
    ),
    Op(
        "ops.sort",
        ops.sort,
        _sort_samples,
        _sorted,
        torch=lambda torch: (
            lambda x, dim=-1, descending=False: torch.sort(x, dim=dim, descending=descending, stable=True)
        ),
        bad=tuple(_bad("sort", False)),
        without={"scalar": "see tests/ops/test_reduce.py"},
    ),
    Op(
        "ops.topk",
        ops.topk,
        _topk_samples,
        _topk,
        torch="topk",
        without={"scalar": "an axis is needed", "bool": "minidl ranks bool, too"},
        bad=(
            Bad(Sample(np.zeros(3), 4), ShapeError, "topk: k=4 of an axis of length 3"),
            Bad(Sample(np.zeros(3), -1), ShapeError, "topk: k=-1"),
            Bad(Sample(BAD_DIM, 1, 2), IndexError, "topk: dim 2"),
        ),
    ),
    Op(
        "ops.kthvalue",
        ops.kthvalue,
        _kth_samples,
        _kth,
        torch="kthvalue",
        without={"int64": "the index of equal elements is any in PyTorch", "bool": "minidl ranks bool, too"},
        bad=(
            Bad(Sample(np.zeros(3), 4), ShapeError, "kthvalue: k=4 of an axis of length 3; k must be 1 to 3"),
            Bad(Sample(np.zeros(3), 0), ShapeError, "kthvalue: k=0"),
            Bad(Sample(BAD_DIM, 1, 2), IndexError, "kthvalue: dim 2"),
        ),
    ),
]
