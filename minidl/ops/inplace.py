"""Changing a tensor in place, views included, without making a gradient wrong.

A write notes its time on the storage (see :mod:`minidl.autograd.node`), so a backward pass that needs what was overwritten
raises InplaceError.  When the write itself is to be differentiated, the operation runs on a copy, the result is written over
the tensor, and the tensor takes the new node as its edge.  A write through a view reaches its root: the root's new edge is
a :class:`ViewWrite`, which sends the gradient of the written region to the value and the rest to the old root; then every
living view of the root gets its edge anew.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.autograd.function import Function, functions, tensors
from minidl.autograd.node import Leaf, Retain, stamp
from minidl.config import grad_mode
from minidl.errors import DTypeError, InplaceError, ShapeError
from minidl.ops.index import array_index, frozen_index
from minidl.tensor import RANK, Tensor, as_operand


class ViewWrite(Function, verb="view_write"):
    """A copy of x with the region that ``path`` (verbs of views, with options) leads to overwritten by v."""

    def forward(self, F, x, v, *, path):
        self.path = path
        y = F.copy(x)
        F.copyto(region(F, y, path), v)
        self.mask = region_mask(F, y, path)
        return y

    def backward(self, F, gy, mask):
        return (self.needs[0] and F.masked_fill(gy, mask, value=0.0),
                self.needs[1] and region(F, gy, self.path))


class Overwrite(Function, verb="overwrite"):
    """What is left of x when all of it was overwritten by something that needs no gradient: a gradient of zero."""

    __slots__ = ()

    def forward(self, F, x):
        return F.zeros_like(x)

    def backward(self, F, gy):
        return (F.zeros_like(gy),)


def region(F: Any, x: Any, path: Any) -> Any:
    """The part of x that a chain of views leads to."""
    for verb, options in path:
        x = getattr(F, verb)(x, **options)
    return x


def region_mask(F: Any, x: Any, path: Any) -> Any:
    """A bool array of x's shape and memory order, true in the region."""
    mask = F.astype(F.zeros_like(x), dtype=F.bool)
    F.copyto(region(F, mask, path), True)
    return mask


def inplace(name: str, t: Tensor, operation: Callable[..., Tensor], *others: Any) -> Tensor:
    """t <- operation(t, *others), in t's own memory; returns t.

    Raises:
        InplaceError: t is a leaf that needs a gradient (or a view of one), or an expanded view.
        ShapeError, DTypeError: the result does not fit into t.
    """
    F, array = t.F, t.data
    if not F.writeable(array):
        raise InplaceError(f"{name}: this tensor of shape {t.shape} is an expanded or read-only view, several of whose "
                           "elements may be one in memory; clone() it first")
    if not _recording(t, others):
        out = operation(Tensor(array, F), *others)
        _write(name, t, out)
        return t
    root, path = _origin(t)
    if type(root.edge) is Leaf or type(t.edge) is Leaf:
        what = "a leaf" if root is t else "a view of a leaf"
        raise InplaceError(f"{name}: {what} that needs a gradient cannot be changed in place; use the out-of-place form, or "
                           "no_grad()")
    if not t.is_floating_point():
        raise DTypeError(f"{name}: a tensor of {t.dtype} cannot take a value that needs a gradient; convert it with "
                         ".float() first")
    out = operation(Tensor(F.copy(array), F, t.edge), *others)           # its node keeps the copy, never what is overwritten
    _check_fits(name, t, out)
    out = out.to(t.dtype)                            # recorded, so that the gradient comes back in each operand's dtype
    mask = region_mask(F, root.data, path) if path else None
    _write(name, t, out)
    if root is t:
        _move(t, out.edge or Overwrite(F, (t.edge,), ()))
    else:
        node = ViewWrite.__new__(ViewWrite)
        node.__init__(F, [root.edge, out.edge], (mask,))                 # type: ignore[misc]
        node.path = path                                                 # type: ignore[attr-defined]
        _move(root, node)
    _refresh_views(root)
    return t


def _recording(t: Tensor, others: Any) -> bool:
    return grad_mode.get() and (t.edge is not None or any(isinstance(o, Tensor) and o.edge is not None for o in others))


def _move(t: Tensor, edge: Any) -> None:
    """Give t another edge; what ``retain_grad`` asked for is asked of the new one."""
    old, t.edge = t.edge, edge
    if old is not None and edge is not None and old is not edge and old.hooks:
        kept = [hook for hook in old.hooks if type(hook) is Retain]
        if kept:
            old.hooks = [hook for hook in old.hooks if type(hook) is not Retain]
            edge.hooks = (edge.hooks or []) + kept


def _check_fits(name: str, t: Tensor, out: Tensor) -> None:
    if out.shape != t.shape:
        raise ShapeError(f"{name}: the result has shape {out.shape}, which does not fit into a tensor of shape {t.shape}; "
                         "use the out-of-place form")
    if out.dtype != t.dtype and RANK[out.dtype.kind] > RANK[t.dtype.kind]:
        raise DTypeError(f"{name}: the result is {out.dtype}, which does not fit into a tensor of {t.dtype}; use the "
                         "out-of-place form")


def _write(name: str, t: Tensor, out: Tensor) -> None:
    _check_fits(name, t, out)
    t.F.copyto(t.data, out.data)
    stamp(t.data, t.F)


def _origin(t: Tensor) -> tuple[Tensor, list[Any]]:
    """The tensor whose memory t is a view of, and the chain of views that leads to t."""
    path: list[Any] = []
    while hasattr(t, "origin"):
        if t.origin is None:
            raise InplaceError("a view made under no_grad() cannot take a value that needs a gradient: the tensor it is a view "
                               "of would not know; make the view outside no_grad(), or clone() it")
        t, verb, options, _ = t.origin
        path.append((verb, options))
    return t, path[::-1]


def _refresh_views(root: Tensor) -> None:
    """Give every living view of ``root`` the edge that it would have if it were made now."""
    for reference in list(getattr(root, "views", None) or ()):
        view = reference()
        if view is not None and getattr(view, "origin", None) is not None:
            parent, verb, options, _ = view.origin
            _move(view, functions[verb].unlinked(parent, **options).edge)


# -------------------------------------------------------------------------------------------------------------- methods
def copy_(t: Tensor, source: Any) -> Tensor:
    """Overwrite t with ``source``, broadcast and converted to t's dtype."""
    source = as_operand(source, t, "copy_")
    if source.F is not t.F:
        source = source.to(t.device)
    shape = t.shape

    def copied(_: Tensor, s: Tensor) -> Tensor:
        return s.to(t.dtype).expand(shape)
    return inplace("copy_", t, copied, source)


def fill_(t: Tensor, value: Any) -> Tensor:
    """Overwrite every element with ``value``."""
    return copy_(t, value)


def zero_(t: Tensor) -> Tensor:
    """Overwrite every element with 0."""
    return copy_(t, 0)


def setitem(t: Tensor, index: Any, value: Any) -> None:
    """t[index] = value; the value is broadcast and converted to t's dtype.

    Raises:
        IndexError: out of range.  ShapeError: the value does not fit the place.  InplaceError: as :func:`inplace`.
    """
    index = array_index(index, t)
    value = as_operand(value, t, "index")
    value = value.to(t.device).to(t.dtype)
    try:
        if (recording := _recording(t, (value,))) or not t.F.writeable(t.data):
            index = frozen_index(index, t.F) if recording else index
            inplace("index", t, lambda a, v: tensors.setitem(a, v, index=index), value)
        else:
            t.F.assign(t.data, index, value.data)
            stamp(t.data, t.F)
    except IndexError as e:
        raise IndexError(f"index: {e}; the tensor has shape {t.shape}") from None
    except ValueError as e:
        if isinstance(e, ShapeError):
            raise
        raise ShapeError(f"index: a value of shape {value.shape} does not fit the place {t[index].shape} that the index "
                         "names") from None


def in_place(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The in-place form of an operation: ``add_ = in_place(add)``."""
    name = operation.__name__ + "_"

    def method(t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def run(a: Tensor, *rest: Any) -> Tensor:
            return operation(a, *rest[:len(args)], **dict(zip(kwargs, rest[len(args):], strict=True)))
        return inplace(name, t, run, *args, *kwargs.values())            # named ones may need a gradient, too
    method.__name__ = name
    method.__doc__ = f"The in-place form of :func:`{operation.__name__}`."
    return method
