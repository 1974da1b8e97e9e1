"""Reading and writing by index: slices, integers, masks, gather and scatter, embedding."""
from __future__ import annotations

from typing import Any

from minidl.autograd.autocast import is_autocast_enabled
from minidl.autograd.function import Function, View, common_backend, plain, tensors
from minidl.config import grad_mode
from minidl.errors import DTypeError, ShapeError
from minidl.ops.axes import axis
from minidl.ops.checks import expect_tensors
from minidl.tensor import Tensor, as_operand


class GetItem(View, verb="getitem"):
    """x[index]: a view for slices and integers, a copy for masks and lists."""

    def forward(self, F, x, *, index):
        self.shape, self.index = x.shape, index
        return F.getitem(x, index=index)

    def backward(self, F, gy):
        return (F.getitem_grad(gy, shape=self.shape, index=self.index),)


class GetItemGrad(Function, verb="getitem_grad"):
    """gy added into zeros where x[index] was read."""

    def forward(self, F, gy, *, shape, index):
        self.index = index
        return F.getitem_grad(gy, shape=shape, index=index)

    def backward(self, F, gx):
        return (F.getitem(gx, index=self.index),)


class SetItem(Function, verb="setitem"):
    """A copy of x with copy[index] = v.  An index that names an element twice has no gradient worth the name."""

    def forward(self, F, x, v, *, index):
        self.index, self.shape = index, v.shape
        return F.setitem(x, v, index=index)

    def backward(self, F, gy):
        return self.needs[0] and F.zero_at(gy, index=self.index), self.needs[1] and self._value_grad(F, gy)

    def _value_grad(self, F, gy):
        g = F.getitem(gy, index=self.index)
        extra = max(len(self.shape) - len(g.shape), 0)                   # axes of length 1 in front, which the write dropped
        return F.reshape(F.sum_to(g, shape=self.shape[extra:]), shape=self.shape)


class ZeroAt(Function, verb="zero_at"):
    """A copy of x with zeros at ``index``."""

    def forward(self, F, x, *, index):
        self.index = index
        return F.zero_at(x, index=index)

    def backward(self, F, gy):
        return (F.zero_at(gy, index=self.index),)


class Gather(Function, verb="gather"):
    """x read along an axis at ``index``, an array of as many axes."""

    def forward(self, F, x, index, *, axis):
        self.shape, self.axis = x.shape, axis
        return F.gather(x, index, axis=axis)

    def backward(self, F, gy, index):
        return F.scatter_add(F.broadcast_to(F.zeros_like(F.sum(gy)), shape=self.shape), gy, index, axis=self.axis), None


class ScatterAdd(Function, verb="scatter_add"):
    """A copy of x with v added along an axis at ``index``."""

    def forward(self, F, x, v, index, *, axis):
        self.axis = axis
        return F.scatter_add(x, v, index, axis=axis)

    def backward(self, F, gy, index):
        return gy, self.needs[1] and F.gather(gy, index, axis=self.axis), None


class Scatter(Function, verb="scatter"):
    """A copy of x with v written along an axis at ``index``."""

    def forward(self, F, x, v, index, *, axis):
        self.axis = axis
        return F.scatter(x, v, index, axis=axis)

    def backward(self, F, gy, index):
        gv = F.gather(gy, index, axis=self.axis)
        return self.needs[0] and F.scatter(gy, F.zeros_like(gv), index, axis=self.axis), gv, None


class Embedding(Function, verb="embedding"):
    """Rows of w."""

    def forward(self, F, w, index):
        self.num = w.shape[0]
        return F.embedding(w, index)

    def backward(self, F, gy, index):
        return F.embedding_grad(gy, index, num=self.num), None


class EmbeddingGrad(Function, verb="embedding_grad"):
    """gy added into the rows that it came from."""

    def forward(self, F, gy, index, *, num):
        return F.embedding_grad(gy, index, num)

    def backward(self, F, gw, index):
        return F.embedding(gw, index), None


nonzero_, one_hot_, unique_, bincount_ = (plain(v) for v in ("nonzero", "one_hot", "unique", "bincount"))


# ------------------------------------------------------------------------------------------------------------- functions
def _array_index(i: Any, x: Tensor) -> Any:
    """One entry of an index with its tensors replaced by their arrays."""
    if isinstance(i, Tensor):
        if i.data.dtype.kind not in "iub":
            raise DTypeError(f"index: tensors must hold integers or bool, found {i.dtype}; convert with .long()")
        return i.data
    if isinstance(i, float) or isinstance(i, str):
        raise TypeError(f"index: {i!r} is no index; use integers, slices, None, ..., lists, or tensors of integers or bool")
    return i


def array_index(index: Any, x: Tensor) -> Any:
    if type(index) is tuple:
        return tuple([_array_index(i, x) for i in index])
    return _array_index(index, x)


def frozen_index(index: Any, F: Any) -> Any:
    """The index as a recorded operation keeps it: arrays and lists copied, since nothing watches later changes."""
    if type(index) is tuple:
        return tuple([frozen_index(i, F) for i in index])
    if isinstance(index, list):
        return F.array(index) if index else F.zeros(0, F.int64)
    return F.copy(index) if isinstance(index, F.xp.ndarray) else index


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index] as NumPy means it: integers and slices (a view), None, ..., lists, integer and bool tensors (a copy).

    PyTorch means the same, but for an integer and a list apart, x[0, :, [1, 2]]: the list's axis comes first here.

    Raises:
        IndexError: out of range, or more indices than axes.
    """
    index = array_index(index, x)
    if x.edge is not None and grad_mode.get():
        index = frozen_index(index, x.F)
    try:
        return tensors.getitem(x, index=index)
    except IndexError as e:
        raise IndexError(f"index: {e}; the tensor has shape {x.shape}") from None


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """y[i][j] = x[i][index[i][j]] (for dim 1): of ``index``'s shape, which may be shorter than x's along other axes.

    Raises:
        ShapeError: the numbers of axes differ, or index is longer than x along another axis.
        IndexError: an index is out of range.
    """
    d = _check_gather("gather", x, dim, index)
    return tensors.gather(x, index, axis=d)


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of x with ``src`` added where :func:`gather` with this index would read.

    Raises:
        As :func:`scatter`.
    """
    return _scatter("scatter_add", x, dim, index, src)


def scatter(x: Tensor, dim: int, index: Tensor, src: Any = None, *, value: float | None = None) -> Tensor:
    """A copy of x with ``src`` (a tensor, or a number, also as ``value``) written where :func:`gather` with the index would read.

    Where the index names an element twice, the last write counts on the CPU, any of them on a GPU; the gradient then is that
    of neither.  ``zeros(n, classes).scatter_(1, labels.unsqueeze(1), 1)`` writes one-hot rows.

    Raises:
        ShapeError: the numbers of axes differ, or ``src`` is smaller than the index.  IndexError: an index is out of range.
        DTypeError: ``src`` is of another dtype than x.
    """
    expect_tensors("scatter", x, index)
    if not isinstance(src, Tensor):
        src = as_operand(value if src is None else src, x, "scatter").expand(index.shape)
    return _scatter("scatter", x, dim, index, src)


def _scatter(name: str, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    expect_tensors(name, src)
    d = _check_gather(name, x, dim, index)
    if src.ndim != x.ndim or any(i > n for i, n in zip(index.shape, src.shape, strict=True)):
        raise ShapeError(f"{name}: index of shape {index.shape} needs a src at least as large, found {src.shape}")
    if src.dtype != x.dtype and not is_autocast_enabled():
        raise DTypeError(f"{name}: src is {src.dtype}, the tensor {x.dtype}; they must agree, convert one with .to(dtype)")
    if index.shape != src.shape:
        src = src[tuple(slice(0, n) for n in index.shape)]
    return getattr(tensors, name)(x, src, index, axis=d)


def _check_gather(name: str, x: Tensor, dim: int, index: Tensor) -> int:
    expect_tensors(name, x, index)
    if index.data.dtype.kind not in "iu":
        raise DTypeError(f"{name}: the index must hold integers, found {index.dtype}; convert with .long()")
    d = axis(name, dim, x.ndim)
    if index.ndim != x.ndim or any(i > n for k, (i, n) in enumerate(zip(index.shape, x.shape, strict=True)) if k != d):
        raise ShapeError(f"{name}: index of shape {index.shape} does not fit a tensor of shape {x.shape}; it needs as many axes, "
                         f"none of them longer except axis {d}")
    check_range(name, index, x.shape[d] if x.ndim else 1)
    return d


def check_range(name: str, index: Tensor, n: int) -> None:
    """Raise IndexError unless every index is in 0 .. n-1 (negative ones are not counted from the end here, as in PyTorch)."""
    if index.data.size:
        low, high = int(index.F.amin(index.data)), int(index.F.amax(index.data))
        if low < 0 or high >= n:
            raise IndexError(f"{name}: index {low if low < 0 else high} is out of range; there are {n}, numbered from 0")


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The positions ``index`` (a vector) along ``dim``."""
    expect_tensors("index_select", x, index)
    d = axis("index_select", dim, x.ndim)
    common_backend("index_select", (x, index))
    if index.data.dtype.kind not in "iu":
        raise DTypeError(f"index_select: the index must hold integers, found {index.dtype}; convert with .long()")
    if index.ndim != 1:
        raise ShapeError(f"index_select: the index must be a vector, found shape {index.shape}")
    check_range("index_select", index, x.shape[d])
    return getitem(x, (slice(None),) * d + (index,))


def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """The elements where the bool tensor ``mask`` (which broadcasts to x) is true, as a vector."""
    expect_tensors("masked_select", x, mask)
    if mask.data.dtype.kind != "b":
        raise DTypeError(f"masked_select: the mask must be bool, found {mask.dtype}")
    common_backend("masked_select", (x, mask))
    return getitem(x, mask.expand(x.shape))


def nonzero(x: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero: int64, one row each; with ``as_tuple`` a vector for each axis of x."""
    places = nonzero_(x)
    return tuple(places[:, i] for i in range(places.shape[1])) if as_tuple else places


def unique(x: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
           dim: int | None = None) -> Any:
    """The different elements, in ascending order; each NaN is different from all others.

    Args:
        sorted: PyTorch's permission to leave them in any order; they are sorted all the same.
        return_inverse: also where each element of x is in the result: int64, of x's shape.
        return_counts: also how often each is in x: int64.
        dim: compare the slices along this axis instead of the elements.

    Returns:
        The values, or a tuple of them and what else was asked for, in the order of the arguments.

    >>> import minidl
    >>> minidl.unique(minidl.tensor([3, 1, 3]), return_counts=True)
    (tensor([1, 3]), tensor([1, 2]))
    """
    expect_tensors("unique", x)
    return unique_(x, axis=None if dim is None else axis("unique", dim, x.ndim), inverse=return_inverse, counts=return_counts)


def bincount(x: Tensor, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, ... the largest element (at least ``minlength`` numbers) is in the integer vector x: int64.

    Raises:
        DTypeError: x holds no integers.  ShapeError: it is no vector.  IndexError: an element is negative.
    """
    expect_tensors("bincount", x)
    if x.data.dtype.kind not in "iu":
        raise DTypeError(f"bincount: counts integers, found {x.dtype}; convert with .long()")
    if x.ndim != 1:
        raise ShapeError(f"bincount: needs a vector, found shape {x.shape}; use flatten()")
    if x.numel() and int(x.F.amin(x.data)) < 0:
        raise IndexError(f"bincount: counts the numbers from 0, found {int(x.F.amin(x.data))}")
    return bincount_(x, minlength=minlength)


def repeat_interleave(x: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """Each position along ``dim`` (of the flattened tensor without one) repeated in place: [1, 2] twice is [1, 1, 2, 2].

    Args:
        repeats: how often: a number, or an integer vector with one for each position.

    Raises:
        ShapeError: there are not as many repeats as positions, or one is negative.
    """
    expect_tensors("repeat_interleave", x)
    if dim is None:
        x, dim = x.flatten(), 0
    d = axis("repeat_interleave", dim, x.ndim)
    counts = repeats if isinstance(repeats, Tensor) else Tensor(x.F.asarray(repeats), x.F)
    common_backend("repeat_interleave", (x, counts))
    if counts.data.dtype.kind not in "iu":
        raise DTypeError(f"repeat_interleave: the counts must be integers, found {counts.dtype}; convert with .long()")
    if counts.ndim > 1 or counts.numel() not in (1, x.shape[d]) or counts.numel() and int(counts.F.amin(counts.data)) < 0:
        raise ShapeError(f"repeat_interleave: axis {d} of shape {x.shape} needs one count of at least 0, or one for each of its "
                         f"{x.shape[d]} positions, found {counts.tolist()}")
    places = x.F.repeat(x.F.arange(0, x.shape[d], 1, x.F.int64), counts=counts.tolist())
    return getitem(x, (slice(None),) * d + (Tensor(places, x.F),))


def one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    """int64 of shape (*labels.shape, num_classes): 1 at each label, else 0.

    Args:
        num_classes: by default the largest label plus 1.

    Raises:
        DTypeError: labels are not integers.  IndexError: a label is out of range.
    """
    expect_tensors("one_hot", labels)
    if labels.data.dtype.kind not in "iu":
        raise DTypeError(f"one_hot: labels must be integers, found {labels.dtype}; convert with .long()")
    if num_classes < 0:
        if not labels.numel():
            raise ShapeError("one_hot: no labels to count the classes from; pass num_classes")
        num_classes = int(labels.F.amax(labels.data)) + 1
    check_range("one_hot", labels, num_classes)
    return one_hot_(labels, num_classes=num_classes)
