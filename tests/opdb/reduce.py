"""Reductions, sorting, and products of matrices."""
from __future__ import annotations

import math

import numpy as np
import scipy.special

from minidl import ops
from minidl.autograd.function import tensors
from minidl.errors import DTypeError, ShapeError
from minidl.nn import functional as F
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


EMPTY = tuple(Bad(Sample(np.zeros((2, 0)), *dim), IndexError, r"has no answer over axis 1 of length 0") for dim in ((), (1,)))


def _var(x, dim=None, unbiased=True, keepdim=False):
    dim = axis_of(dim) if x.ndim else None
    n = x.size if dim is None else np.prod([x.shape[i] for i in np.atleast_1d(dim)])
    with np.errstate(all="ignore"):
        centred = x - x.sum(axis=dim, keepdims=True) / n
        total = (centred ** 2).sum(axis=dim, keepdims=keepdim)
        return total / max(n - unbiased, 0)


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
    return (x ** p).sum(axis=dim, keepdims=keepdim) ** (1 / p)


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



REDUCTIONS = [
    Op("ops.sum", ops.sum, over(normal), reference(lambda x, a, k: np.sum(x, axis=a, keepdims=k)), torch="sum", verbs=("sum",),
       bad=tuple(_bad("sum"))),
    Op("ops.mean", ops.mean, over(normal, empty=False), reference(lambda x, a, k: np.mean(x, axis=a, keepdims=k)), torch="mean",
       verbs=("mean",), bad=(*_bad("mean"), Bad(Sample(np.array([1, 2])), DTypeError, "mean.*int64.*float()"))),
    Op("ops.var", ops.var, _var_samples, _var, torch="var", verbs=(),
       bad=(*_bad("var"), Bad(Sample(np.array([1, 2])), DTypeError, "var.*int64"))),
    Op("ops.std", ops.std, _var_samples, lambda *a: np.sqrt(_var(*a)), torch="std", bad=tuple(_bad("std|var"))),
    Op("ops.amax", ops.amax, over(distinct, empty=False), reference(lambda x, a, k: np.max(x, axis=a, keepdims=k)), torch="amax",
       verbs=("amax",), bad=(*_bad("amax"), *EMPTY)),
    Op("ops.amin", ops.amin, over(distinct, empty=False), reference(lambda x, a, k: np.min(x, axis=a, keepdims=k)), torch="amin",
       verbs=("amin",), bad=(*_bad("amin"), *EMPTY)),
    Op("ops.max", ops.max, _extremum_samples, _extremum(np.max, np.argmax), torch="max",
       bad=(*_bad("max", False), *EMPTY)),
    Op("ops.min", ops.min, _extremum_samples, _extremum(np.min, np.argmin), torch="min",
       bad=(*_bad("min", False), *EMPTY)),
    Op("ops.argmax", ops.argmax, over(distinct, empty=False, several=False, nothing=False), _arg(np.argmax), torch="argmax", verbs=("argmax",), without={"bool": "minidl ranks bool, too"},
       grad=False, twice=False, bad=(*_bad("argmax", False), *EMPTY)),
    Op("ops.argmin", ops.argmin, over(distinct, empty=False, several=False, nothing=False), _arg(np.argmin), torch="argmin", verbs=("argmin",), without={"bool": "minidl ranks bool, too"},
       grad=False, twice=False, bad=(*_bad("argmin", False), *EMPTY)),
    Op("ops.any", ops.any, over(lambda d, *s: d.mask(*s), nothing=False), reference(lambda x, a, k: np.any(x, axis=a, keepdims=k)), torch="any",
       verbs=("any",), grad=False, twice=False, bad=tuple(_bad("any"))),
    Op("ops.all", ops.all, over(lambda d, *s: d.mask(*s), nothing=False), reference(lambda x, a, k: np.all(x, axis=a, keepdims=k)), torch="all",
       verbs=("all",), grad=False, twice=False, bad=tuple(_bad("all"))),
    Op("ops.prod", ops.prod, _prods, reference(lambda x, a, k: np.prod(x, axis=a, keepdims=k)), torch="prod", verbs=("prod",),
       bad=tuple(_bad("prod", False))),
    Op("ops.cumsum", ops.cumsum, lambda d: [Sample(d(2, 3), 0), Sample(d(2, 3), -1), Sample(d(), 0), Sample(d(0, 3), 0)],
       lambda x, dim: np.cumsum(x, axis=dim) if x.ndim else x, torch="cumsum", verbs=("cumsum",), bad=tuple(_bad("cumsum", False))),
    Op("ops.logsumexp", ops.logsumexp,
       lambda d: [Sample(d(2, 3), 1), Sample(d(2, 3), (0, 1), True), Sample(d() , 0), Sample(d(0, 3), 1),
                  Sample(np.array([[1000.0, 1000.5], [-1000.0, -1001.0]]), 1), Sample(np.array([[-INF, -INF], [INF, 0.0]]), 1, smooth=False)],
       lambda x, dim, keepdim=False: scipy.special.logsumexp(x, axis=dim if x.ndim else None, keepdims=keepdim), torch="logsumexp", without={"half": "PyTorch rounds logsumexp to float16 before the backward pass uses it"},
       bad=tuple(_bad("logsumexp"))),
    Op("ops.norm", ops.norm, _norm_samples, _norm, torch="norm",
       bad=(Bad(Sample(np.ones(2), "nuclear"), ValueError, "norm: p must be"), Bad(Sample(np.ones(2), -3.0), ValueError, "norm: p must be",
                torch="computes norms of negative order"),
            Bad(Sample(np.array([1, 2])), DTypeError, "norm.*int64"))),
    Op("ops.argsort", ops.argsort, _sort_samples, lambda *a: _sorted(*a)[1],
       torch=lambda torch: lambda x, dim=-1, descending=False: torch.argsort(x, dim=dim, descending=descending, stable=True), verbs=("argsort",),
       grad=False, twice=False, bad=tuple(_bad("argsort", False)), without={"scalar": "see tests/ops/test_reduce.py"}),
    Op("ops.sort", ops.sort, _sort_samples, _sorted,
       torch=lambda torch: lambda x, dim=-1, descending=False: torch.sort(x, dim=dim, descending=descending, stable=True),
       bad=tuple(_bad("sort", False)), without={"scalar": "see tests/ops/test_reduce.py"}),
    Op("ops.topk", ops.topk, _topk_samples, _topk, torch="topk", without={"scalar": "an axis is needed", "bool": "minidl ranks bool, too"},
       bad=(Bad(Sample(np.zeros(3), 4), ShapeError, "topk: k=4 of an axis of length 3"),
            Bad(Sample(np.zeros(3), -1), ShapeError, "topk: k=-1"), Bad(Sample(BAD_DIM, 1, 2), IndexError, "topk: dim 2"))),
]

PRODUCT_TOLERANCE = {"float16": (2e-2, 1e-2)}         # sums of up to four products of normal numbers, rounded at each step


def _matmuls(d: Draw):
    for a, b in (((2, 3), (3, 4)), ((2, 2, 3), (2, 3, 2)), ((2, 1, 2, 3), (2, 3, 2)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)),
                 ((2, 2, 3), (3,)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((0, 2, 3), (3, 2))):
        yield Sample(d(*a), d(*b))


def _linears(d: Draw):
    yield Sample(d(2, 3), d(4, 3), d(4))
    yield Sample(d(2, 3), d(4, 3))
    yield Sample(d(2, 2, 3), d(2, 3), d(2))
    yield Sample(d(3), d(2, 3), d(2))
    yield Sample(d(0, 3), d(2, 3), d(2))
    yield Sample(d(2, 0), d(2, 0), d(2))


EINSUMS = (("ij,jk->ik", (2, 3), (3, 2)), ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)), ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ij,ij", (2, 3), (2, 3)),
           ("i,j->ij", (2,), (3,)), ("...ij,...jk->...ik", (2, 1, 2, 3), (2, 3, 2)), ("bi,ij,bj->b", (2, 3), (3, 2), (2, 2)),
           ("ij,k->i", (2, 3), (2,)), ("ij,j", (0, 3), (3,)), (",i->i", (), (3,)), ("ba", (2, 3)))

PRODUCTS = [
    Op("ops.matmul", ops.matmul, _matmuls, np.matmul, torch="matmul", verbs=("matmul",), tolerance=PRODUCT_TOLERANCE,
       without={"scalar": "an axis is needed", **dict.fromkeys(("float32 and float64", "int64 and float32"), "PyTorch's matmul does not promote")},
       bad=(Bad(Sample(np.zeros((2, 3)), np.zeros((2, 3))), ShapeError, r"matmul: shapes \(2, 3\) and \(2, 3\): the inner sizes 3 and 2.*transpose"),
            Bad(Sample(np.zeros((2, 2, 3)), np.zeros((3, 3, 2))), ShapeError, r"leading axes \(2,\) and \(3,\) do not broadcast"),
            Bad(Sample(np.array(1.0), np.zeros((2, 3))), ShapeError, "matmul: needs tensors with axes.*use \\*"),
            Bad(Sample(np.ones((2, 2)), 3.0), TypeError, "matmul: expected two Tensors, found Tensor and float"))),
    Op("F.linear", F.linear, _linears,
       lambda x, w, b=0.0: x @ w.T + b, torch="nn.functional.linear", verbs=("linear",), tolerance=PRODUCT_TOLERANCE,
       without={"scalar": "an axis is needed"},
       bad=(Bad(Sample(np.zeros((2, 3)), np.zeros((4, 2))), ShapeError, r"linear: input \(2, 3\) and weight \(4, 2\).*must be 2"),
            Bad(Sample(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(3)), ShapeError, r"bias has shape \(3,\); it must be \(4,\)"))),
    Op("linear_weight_grad", tensors.linear_weight_grad,
       lambda d: [Sample(d(2, 4), d(2, 3)), Sample(d(2, 2, 2), d(2, 2, 3)), Sample(d(0, 2), d(0, 3))],
       lambda gy, x: gy.reshape(-1, gy.shape[-1]).T @ x.reshape(-1, x.shape[-1]), verbs=("linear_weight_grad",), tolerance=PRODUCT_TOLERANCE,
       without={"scalar": "an axis is needed"}),
    Op("ops.dot", ops.dot, lambda d: [Sample(d(3), d(3)), Sample(d(0), d(0))], np.dot, torch="dot", tolerance=PRODUCT_TOLERANCE,
       without={"scalar": "an axis is needed", "dtypes": "torch.dot does not promote"},
       bad=(Bad(Sample(np.zeros((2, 2)), np.zeros(2)), ShapeError, r"dot: needs two vectors, found shapes \(2, 2\)"),
            Bad(Sample(np.zeros(2), np.zeros(3)), ShapeError, "inner sizes 2 and 3"))),
    Op("ops.outer", ops.outer, lambda d: [Sample(d(3), d(2)), Sample(d(0), d(2))], np.outer, torch="outer",
       without={"scalar": "an axis is needed"},
       bad=(Bad(Sample(np.zeros((2, 2)), np.zeros(2)), ShapeError, "outer: needs two vectors"),)),
    Op("ops.mm", ops.mm, lambda d: [Sample(d(2, 3), d(3, 2)), Sample(d(0, 3), d(3, 2))], np.matmul, torch="mm", tolerance=PRODUCT_TOLERANCE,
       without={"scalar": "an axis is needed", "dtypes": "torch.mm does not promote"},
       bad=(Bad(Sample(np.zeros(2), np.zeros((2, 2))), ShapeError, "mm: needs two matrices"),)),
    Op("ops.bmm", ops.bmm, lambda d: [Sample(d(2, 2, 3), d(2, 3, 2)), Sample(d(0, 2, 3), d(0, 3, 2))], np.matmul, torch="bmm",
       tolerance=PRODUCT_TOLERANCE, without={"scalar": "an axis is needed", "dtypes": "torch.bmm does not promote"},
       bad=(Bad(Sample(np.zeros((1, 2, 2)), np.zeros((2, 2, 2))), ShapeError, "bmm: needs two batches of matrices of equal size"),)),
    Op("ops.einsum", ops.einsum, lambda d: [Sample(e, *[d(*s) for s in shapes]) for e, *shapes in EINSUMS],
       lambda e, *xs: np.einsum(e, *xs), torch="einsum", verbs=("einsum",), tolerance={**PRODUCT_TOLERANCE, "float32": (1e-5, 1e-5)},
       without={"dtypes": "torch.einsum does not promote"},
       bad=(Bad(Sample("ij,jk->ik", np.zeros((2, 3)), np.zeros((2, 3))), ShapeError, "einsum.*label 'j' is 3 in one place and 2"),
            Bad(Sample("ij->ik", np.zeros((2, 3))), ShapeError, "einsum.*output label 'k' is in no term"),
            Bad(Sample("ij,jk->ik", np.zeros((2, 3))), ShapeError, "einsum.*2 terms for 1 operands"),
            Bad(Sample("ijk->i", np.zeros((2, 3))), ShapeError, "einsum.*3 labels for 2 axes"),
            Bad(Sample("ij->ii", np.zeros((2, 3))), ShapeError, "einsum.*twice in the output"),
            Bad(Sample("ii->i", np.zeros((2, 2))), ShapeError, "einsum.*a label appears twice in 'ii'; take the diagonal",
                torch="takes the diagonal itself"))),
]

OPS = [*REDUCTIONS, *PRODUCTS]
