"""Products of matrices."""

from __future__ import annotations

import numpy as np

from minidl import ops
from minidl.autograd.function import tensors
from minidl.errors import ShapeError
from minidl.nn import functional as F
from tests.opdb.base import Bad, Draw, Op, Sample

PRODUCT_TOLERANCE = {"float16": (2e-2, 1e-2)}  # sums of up to four products of normal numbers, rounded at each step


def _matmuls(d: Draw):
    for a, b in (
        ((2, 3), (3, 4)),
        ((2, 2, 3), (2, 3, 2)),
        ((2, 1, 2, 3), (2, 3, 2)),
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 2, 3), (3,)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
        ((0, 2, 3), (3, 2)),
    ):
        yield Sample(d(*a), d(*b))


def _linears(d: Draw):
    yield Sample(d(2, 3), d(4, 3), d(4))
    yield Sample(d(2, 3), d(4, 3))
    yield Sample(d(2, 2, 3), d(2, 3), d(2))
    yield Sample(d(3), d(2, 3), d(2))
    yield Sample(d(0, 3), d(2, 3), d(2))
    yield Sample(d(2, 0), d(2, 0), d(2))


EINSUMS = (
    ("ij,jk->ik", (2, 3), (3, 2)),
    ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)),
    ("ij->ji", (2, 3)),
    ("ij->", (2, 3)),
    ("ij,ij", (2, 3), (2, 3)),
    ("i,j->ij", (2,), (3,)),
    ("...ij,...jk->...ik", (2, 1, 2, 3), (2, 3, 2)),
    ("bi,ij,bj->b", (2, 3), (3, 2), (2, 2)),
    ("ij,k->i", (2, 3), (2,)),
    ("ij,j", (0, 3), (3,)),
    (",i->i", (), (3,)),
    ("ba", (2, 3)),
)

OPS = [
    Op(
        "ops.matmul",
        ops.matmul,
        _matmuls,
        np.matmul,
        torch="matmul",
        verbs=("matmul",),
        tolerance=PRODUCT_TOLERANCE,
        without={
            "scalar": "an axis is needed",
            **dict.fromkeys(("float32 and float64", "int64 and float32"), "PyTorch's matmul does not promote"),
        },
        bad=(
            Bad(
                Sample(np.zeros((2, 3)), np.zeros((2, 3))),
                ShapeError,
                r"matmul: shapes \(2, 3\) and \(2, 3\): the inner sizes 3 and 2.*transpose",
            ),
            Bad(
                Sample(np.zeros((2, 2, 3)), np.zeros((3, 3, 2))),
                ShapeError,
                r"leading axes \(2,\) and \(3,\) do not broadcast",
            ),
            Bad(Sample(np.array(1.0), np.zeros((2, 3))), ShapeError, "matmul: needs tensors with axes.*use \\*"),
            Bad(Sample(np.ones((2, 2)), 3.0), TypeError, "matmul: expected two Tensors, found Tensor and float"),
        ),
    ),
    Op(
        "F.linear",
        F.linear,
        _linears,
        lambda x, w, b=0.0: x @ w.T + b,
        torch="nn.functional.linear",
        verbs=("linear",),
        tolerance=PRODUCT_TOLERANCE,
        without={"scalar": "an axis is needed"},
        bad=(
            Bad(
                Sample(np.zeros((2, 3)), np.zeros((4, 2))),
                ShapeError,
                r"linear: input \(2, 3\) and weight \(4, 2\).*must be 2",
            ),
            Bad(
                Sample(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(3)),
                ShapeError,
                r"bias has shape \(3,\); it must be \(4,\)",
            ),
        ),
    ),
    Op(
        "linear_weight_grad",
        tensors.linear_weight_grad,
        lambda d: [Sample(d(2, 4), d(2, 3)), Sample(d(2, 2, 2), d(2, 2, 3)), Sample(d(0, 2), d(0, 3))],
        lambda gy, x: gy.reshape(-1, gy.shape[-1]).T @ x.reshape(-1, x.shape[-1]),
        verbs=("linear_weight_grad",),
        tolerance=PRODUCT_TOLERANCE,
        without={"scalar": "an axis is needed"},
    ),
    Op(
        "ops.dot",
        ops.dot,
        lambda d: [Sample(d(3), d(3)), Sample(d(0), d(0))],
        np.dot,
        torch="dot",
        tolerance=PRODUCT_TOLERANCE,
        without={"scalar": "an axis is needed", "dtypes": "torch.dot does not promote"},
        bad=(
            Bad(Sample(np.zeros((2, 2)), np.zeros(2)), ShapeError, r"dot: needs two vectors, found shapes \(2, 2\)"),
            Bad(Sample(np.zeros(2), np.zeros(3)), ShapeError, "inner sizes 2 and 3"),
        ),
    ),
    Op(
        "ops.outer",
        ops.outer,
        lambda d: [Sample(d(3), d(2)), Sample(d(0), d(2))],
        np.outer,
        torch="outer",
        without={"scalar": "an axis is needed"},
        bad=(Bad(Sample(np.zeros((2, 2)), np.zeros(2)), ShapeError, "outer: needs two vectors"),),
    ),
    Op(
        "ops.mm",
        ops.mm,
        lambda d: [Sample(d(2, 3), d(3, 2)), Sample(d(0, 3), d(3, 2))],
        np.matmul,
        torch="mm",
        tolerance=PRODUCT_TOLERANCE,
        without={"scalar": "an axis is needed", "dtypes": "torch.mm does not promote"},
        bad=(Bad(Sample(np.zeros(2), np.zeros((2, 2))), ShapeError, "mm: needs two matrices"),),
    ),
    Op(
        "ops.bmm",
        ops.bmm,
        lambda d: [Sample(d(2, 2, 3), d(2, 3, 2)), Sample(d(0, 2, 3), d(0, 3, 2))],
        np.matmul,
        torch="bmm",
        tolerance=PRODUCT_TOLERANCE,
        without={"scalar": "an axis is needed", "dtypes": "torch.bmm does not promote"},
        bad=(
            Bad(
                Sample(np.zeros((1, 2, 2)), np.zeros((2, 2, 2))),
                ShapeError,
                "bmm: needs two batches of matrices of equal size",
            ),
        ),
    ),
    Op(
        "ops.einsum",
        ops.einsum,
        lambda d: [
            *(Sample(e, *[d(*s) for s in shapes]) for e, *shapes in EINSUMS),
            Sample("ij,kj->ik", [d(2, 3), d(4, 3)]),
        ],
        lambda e, *xs: np.einsum(e, *(xs[0] if isinstance(xs[0], list) else xs)),
        torch="einsum",
        verbs=("einsum",),
        tolerance={**PRODUCT_TOLERANCE, "float32": (1e-5, 1e-5)},
        without={"dtypes": "torch.einsum does not promote"},
        bad=(
            Bad(
                Sample("ij,jk->ik", np.zeros((2, 3)), np.zeros((2, 3))),
                ShapeError,
                "einsum.*label 'j' is 3 in one place and 2",
            ),
            Bad(Sample("ij->ik", np.zeros((2, 3))), ShapeError, "einsum.*output label 'k' is in no term"),
            Bad(Sample("ij,jk->ik", np.zeros((2, 3))), ShapeError, "einsum.*2 terms for 1 operands"),
            Bad(Sample("ijk->i", np.zeros((2, 3))), ShapeError, "einsum.*3 labels for 2 axes"),
            Bad(Sample("ij->ii", np.zeros((2, 3))), ShapeError, "einsum.*twice in the output"),
            Bad(
                Sample("ii->i", np.zeros((2, 2))),
                ShapeError,
                "einsum.*a label appears twice in 'ii'; take the diagonal",
                torch="takes the diagonal itself",
            ),
        ),
    ),
]
