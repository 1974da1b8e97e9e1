"""From PyTorch's ``dim`` to axes, with the errors that belong to it."""
from __future__ import annotations

from typing import Any

from minidl.errors import ShapeError


def axis(name: str, dim: Any, ndim: int) -> int:
    """One axis counted from the front.

    Raises:
        IndexError (ShapeError): ``dim`` is not an axis of a tensor with ``ndim`` axes.
    """
    if not isinstance(dim, int):
        raise TypeError(f"{name}: dim must be an integer, found {dim!r}")
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise DimError(f"{name}: dim {dim} is out of range for a tensor with {ndim} axes; use {-n} to {n - 1}")
    return dim % n


def axes(name: str, dim: Any, ndim: int) -> tuple[int, ...] | None:
    """One or several axes counted from the front; None (and the empty tuple, as in PyTorch) stand for all."""
    if dim is None or dim == () or dim == []:
        return None
    found = tuple(axis(name, d, ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(found)) != len(found):
        raise DimError(f"{name}: an axis appears twice in dim={dim}")
    return found if ndim else None


def broadcast(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that tensors of these shapes broadcast to.

    Raises:
        ShapeError: on some axis they have two lengths besides 1.
    """
    full: list[int] = []
    for i in range(-max(map(len, shapes)), 0):
        lengths = {s[i] for s in shapes if len(s) >= -i} - {1}
        if len(lengths) > 1:
            raise ShapeError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast: axis {i} has the lengths "
                             f"{' and '.join(map(str, sorted(lengths)))}; they must be equal or 1")
        full.append(lengths.pop() if lengths else 1)
    return tuple(full)


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes ``order``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


class DimError(ShapeError, IndexError):
    """A ``dim`` that the tensor does not have; PyTorch raises IndexError here."""
