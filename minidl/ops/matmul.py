"""Products of matrices."""
from __future__ import annotations

import math
from typing import Any

from minidl.autograd.autocast import is_autocast_enabled, is_castable
from minidl.autograd.function import Function, tensors
from minidl.errors import DTypeError, ShapeError
from minidl.ops.checks import expect_tensors
from minidl.tensor import Tensor, promote


class MatMul(Function, verb="matmul"):
    """a @ b for arrays with at least two axes; the leading ones broadcast."""

    def forward(self, F, a, b):
        self.shapes = a.shape, b.shape
        return F.matmul(a, b)

    def backward(self, F, gy, a, b):
        sa, sb = self.shapes
        return (self.needs[0] and F.sum_to(F.matmul(gy, F.transpose(b, axes=_swapped(len(sb)))), shape=sa),
                self.needs[1] and F.sum_to(F.matmul(F.transpose(a, axes=_swapped(len(sa))), gy), shape=sb))


def _swapped(n: int) -> tuple[int, ...]:
    return (*range(n - 2), n - 1, n - 2)


class Linear(Function, verb="linear"):
    """x @ w.T + b for x with at least two axes."""

    def forward(self, F, x, w, b):
        return F.linear(x, w, b)

    def backward(self, F, gy, x, w):
        return (self.needs[0] and F.matmul(gy, w),
                self.needs[1] and F.linear_weight_grad(gy, x),
                self.needs[2] and _bias_grad(F, gy))


def _bias_grad(F: Any, gy: Any) -> Any:
    return F.channel_sum(gy if gy.ndim == 2 else F.reshape(gy, shape=(math.prod(gy.shape[:-1]), gy.shape[-1])))


class LinearWeightGrad(Function, verb="linear_weight_grad"):
    """gy.T @ x, over all leading axes: the gradient of :class:`Linear` with respect to w."""

    def forward(self, F, gy, x):
        return F.linear_weight_grad(gy, x)

    def backward(self, F, gw, gy, x):
        return (self.needs[0] and F.linear(x, gw, None), self.needs[1] and F.matmul(gy, gw))


class Einsum(Function, verb="einsum"):
    """Einstein's summation, every label explicit and none twice in one operand."""

    def forward(self, F, *xs, equation):
        self.equation = equation
        self.shapes = [x.shape for x in xs]
        return F.einsum(*xs, equation=equation)

    def backward(self, F, gy, *xs):
        left, out = self.equation.split("->")
        labels = left.split(",")
        grads: list[Any] = []
        for i, mine in enumerate(labels):
            if not self.needs[i]:
                grads.append(None)
                continue
            others = [labels[k] for k in range(len(labels)) if k != i]
            arrays = [xs[k] for k in range(len(labels)) if k != i]
            known = set(out).union(*others)
            reached = "".join(c for c in mine if c in known)
            g = F.einsum(gy, *arrays, equation=f"{','.join([out, *others])}->{reached}")
            # A label of this operand alone was summed over: its gradient is the same along that axis.
            shape = self.shapes[i]
            g = F.reshape(g, shape=tuple(n if c in known else 1 for c, n in zip(mine, shape, strict=True)))
            grads.append(F.broadcast_to(g, shape=shape))
        return grads


def _pair(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    for t in (a, b):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected two Tensors, found {type(a).__name__} and {type(b).__name__}")
    if a.dtype != b.dtype and not (is_autocast_enabled() and is_castable(a) and is_castable(b)):
        if "b" in (a.dtype.kind, b.dtype.kind):
            raise DTypeError(f"{name}: does not take bool")
        dtype = promote(a.F, a.data, b.data)
        a, b = a.to(dtype), b.to(dtype)
    return a, b


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product over the last two axes; leading axes broadcast, and dtypes are promoted (PyTorch refuses unequal ones).

    A tensor of one axis is a row on the left and a column on the right, and that axis is dropped from the result.

    Raises:
        ShapeError: the inner sizes differ, or the leading axes do not broadcast.
    """
    if type(a) is not Tensor or type(b) is not Tensor or a.data.dtype is not b.data.dtype:
        a, b = _pair("matmul", a, b)
    sa, sb = a.data.shape, b.data.shape
    if not sa or not sb:
        raise ShapeError(f"matmul: needs tensors with axes, found shapes {sa} and {sb}; use * to multiply with a number")
    inner = sb[-2] if len(sb) > 1 else sb[0]
    if sa[-1] != inner:
        hint = "; transpose one of them" if inner == sa[0] or sa[-1] == sb[-1] else ""
        raise ShapeError(f"matmul: shapes {sa} and {sb}: the inner sizes {sa[-1]} and {inner} must be equal{hint}")
    for m, n in zip(sa[-3::-1], sb[-3::-1], strict=False):
        if m != n and 1 not in (m, n):
            raise ShapeError(f"matmul: shapes {sa} and {sb}: the leading axes {sa[:-2]} and {sb[:-2]} do not broadcast")
    if len(sa) > 1 and len(sb) > 1:
        return tensors.matmul(a, b)
    if len(sa) == 1:
        a = tensors.reshape(a, shape=(1, *sa))
    if len(sb) == 1:
        b = tensors.reshape(b, shape=(*sb, 1))
    y = tensors.matmul(a, b)
    shape = y.shape[:-2] + (y.shape[-2:-1] if len(sa) > 1 else ()) + (y.shape[-1:] if len(sb) > 1 else ())
    return tensors.reshape(y, shape=shape)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of two vectors of equal length."""
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"dot: needs two vectors, found shapes {a.shape} and {b.shape}; use matmul")
    return matmul(a, b)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a[i] * b[j] for two vectors."""
    expect_tensors("outer", a, b)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"outer: needs two vectors, found shapes {a.shape} and {b.shape}")
    return a.reshape(-1, 1) * b


def mm(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices."""
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"mm: needs two matrices, found shapes {a.shape} and {b.shape}; use matmul")
    return matmul(a, b)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """The products of two batches of matrices: (n, i, j) @ (n, j, k)."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
        raise ShapeError(f"bmm: needs two batches of matrices of equal size, found shapes {a.shape} and {b.shape}; use matmul")
    return matmul(a, b)


def einsum(equation: str, *operands: Any) -> Tensor:
    """Einstein's summation: ``einsum("bik,bkj->bij", a, b)``; the operands may also be one list.

    Without ``->`` the labels that appear once are kept, in alphabetical order.  ``...`` stands for leading axes that
    broadcast.  A label may not appear twice in one operand (take the diagonal first).

    Raises:
        ShapeError: the equation does not fit the operands.
    """
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    shapes = [t.shape for t in operands]

    def wrong(why: str) -> ShapeError:
        return ShapeError(f"einsum: {equation!r} with shapes {', '.join(map(str, shapes))}: {why}")

    if len(terms) != len(operands):
        raise wrong(f"{len(terms)} terms for {len(operands)} operands")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    lead = max((len(s) - len(t.replace("...", "")) for s, t in zip(shapes, terms, strict=True) if "..." in t), default=0)
    stars = "".join(spare[:max(lead, 0)])
    tensors_: list[Tensor] = []
    for i, (term, t) in enumerate(zip(terms, operands, strict=True)):
        if "..." in term:
            here = len(t.shape) - len(term) + 3
            if here < 0:
                raise wrong(f"term {term!r} has more labels than axes")
            t = t.reshape(*_with_ones(t.shape, term, lead - here))
            terms[i] = term = term.replace("...", stars)
        if len(term) != t.ndim:
            raise wrong(f"term {term!r} has {len(term)} labels for {t.ndim} axes")
        if len(set(term)) != len(term):
            raise wrong(f"a label appears twice in {term!r}; take the diagonal first")
        tensors_.append(t)
    counts = "".join(terms)
    once = sorted(c for c in set(counts) - set(stars) if counts.count(c) == 1)
    out = out.replace("...", stars) if arrow else stars + "".join(once)
    sizes: dict[str, int] = {}
    for term, t in zip(terms, tensors_, strict=True):
        for c, n in zip(term, t.shape, strict=True):
            if sizes.setdefault(c, n) != n:
                if c not in stars or 1 not in (n, sizes[c]):
                    raise wrong(f"label {c!r} is {sizes[c]} in one place and {n} in another")
                sizes[c] = max(n, sizes[c])
    if missing := set(out) - set(sizes):
        raise wrong(f"the output label {sorted(missing)[0]!r} is in no term")
    if len(set(out)) != len(out):
        raise wrong("a label appears twice in the output")
    full = [t.expand(*[sizes[c] for c in term]) if stars else t for term, t in zip(terms, tensors_, strict=True)]
    return tensors.einsum(*full, equation=f"{','.join(terms)}->{out}")


def _with_ones(shape: tuple[int, ...], term: str, missing: int) -> tuple[int, ...]:
    before = term.index("...")
    return shape[:before] + (1,) * missing + shape[before:]
