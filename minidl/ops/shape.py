"""Operations that move elements without computing: reshape, transpose, expand, concatenate, pad, ..."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidl.autograd.function import Function, View, common_backend, tensors
from minidl.errors import ConfigError, ShapeError
from minidl.ops.axes import axes, axis, inverse
from minidl.ops.checks import expect_tensors
from minidl.tensor import Tensor, promote


# ----------------------------------------------------------------------------------------------------------------- views
class Reshape(View, verb="reshape"):
    """The same elements, in row order, under another shape."""

    def forward(self, F, x, *, shape):
        self.shape = x.shape
        return F.reshape(x, shape=shape)

    def backward(self, F, gy):
        return (F.reshape(gy, shape=self.shape),)


class Transpose(View, verb="transpose"):
    """The axes in another order."""

    def forward(self, F, x, *, axes):
        self.axes = axes
        return F.transpose(x, axes=axes)

    def backward(self, F, gy):
        return (F.transpose(gy, axes=inverse(self.axes)),)


class BroadcastTo(View, verb="broadcast_to"):
    """Axes added in front, and axes of length 1 stretched, without copying."""

    def forward(self, F, x, *, shape):
        self.shape = x.shape
        return F.broadcast_to(x, shape=shape)

    def backward(self, F, gy):
        return (F.sum_to(gy, shape=self.shape),)


class SumTo(Function, verb="sum_to"):
    """The transpose of :class:`BroadcastTo`."""

    def forward(self, F, x, *, shape):
        self.shape = x.shape
        return F.sum_to(x, shape=shape)

    def backward(self, F, gy):
        return (F.broadcast_to(gy, shape=self.shape),)


# ---------------------------------------------------------------------------------------------------------------- copies
class Copy(Function, verb="copy"):
    """A copy."""

    def forward(self, F, x):
        return F.copy(x)

    def backward(self, F, gy):
        return (gy,)


class Contiguous(Function, verb="contiguous"):
    """A copy whose memory is in row order."""

    def forward(self, F, x):
        return F.contiguous(x)

    def backward(self, F, gy):
        return (gy,)


class Concatenate(Function, verb="concatenate"):
    """Arrays one after the other along an existing axis."""

    def forward(self, F, *xs, axis):
        self.axis = axis
        self.sizes = [x.shape[axis] for x in xs]
        return F.concatenate(*xs, axis=axis)

    def backward(self, F, gy):
        grads, start = [], 0
        for need, n in zip(self.needs, self.sizes, strict=True):
            grads.append(need and F.getitem(gy, index=(slice(None),) * self.axis + (slice(start, start + n),)))
            start += n
        return grads


class Stack(Function, verb="stack"):
    """Arrays of equal shape along a new axis."""

    def forward(self, F, *xs, axis):
        self.axis = axis
        return F.stack(*xs, axis=axis)

    def backward(self, F, gy):
        lead = (slice(None),) * self.axis
        return [need and F.getitem(gy, index=(*lead, i)) for i, need in enumerate(self.needs)]


class Flip(Function, verb="flip"):
    """The order along some axes reversed."""

    def forward(self, F, x, *, axes):
        self.axes = axes
        return F.flip(x, axes=axes)

    def backward(self, F, gy):
        return (F.flip(gy, axes=self.axes),)


class Roll(Function, verb="roll"):
    """Elements shifted along axes; those that fall off come in at the other end."""

    def forward(self, F, x, *, shift, axis):
        self.shift, self.axis = shift, axis
        return F.roll(x, shift=shift, axis=axis)

    def backward(self, F, gy):
        back = tuple(-s for s in self.shift) if isinstance(self.shift, tuple) else -self.shift
        return (F.roll(gy, shift=back, axis=self.axis),)


class Pad(Function, verb="pad"):
    """A constant around x: ``widths`` holds (before, after) for each axis; negative ones crop."""

    def forward(self, F, x, *, widths, value):
        self.widths = widths
        return F.pad(x, widths=widths, value=value)

    def backward(self, F, gy):
        return (F.pad(gy, widths=[(-lo, -hi) for lo, hi in self.widths], value=0.0),)


class Triangle(Function, verb="triangle"):
    """The lower or upper triangle of the last two axes, zeros elsewhere."""

    def forward(self, F, x, *, diagonal, lower):
        self.diagonal, self.lower = diagonal, lower
        return F.triangle(x, diagonal=diagonal, lower=lower)

    def backward(self, F, gy):
        return (F.triangle(gy, diagonal=self.diagonal, lower=self.lower),)


# ------------------------------------------------------------------------------------------------------------- functions
def sizes_of(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3), ((2, 3),) and ([2, 3],) alike."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    return tuple(int(n) for n in shape)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same elements, in row order, under another shape; one entry may be -1.  A view where it can be.

    Raises:
        ShapeError: the numbers of elements differ.
    """
    expect_tensors("reshape", x)
    sizes = sizes_of(shape)
    known = math.prod(n for n in sizes if n != -1)
    unknown = sizes.count(-1)
    n = x.data.size
    if unknown > 1 or any(s < -1 for s in sizes):
        raise ShapeError(f"reshape: {sizes} is no shape; at most one entry may be -1, the others at least 0")
    if unknown and (known == 0 or n % known) or not unknown and known != n:
        raise ShapeError(f"reshape: shape {x.shape} has {n} elements, which do not fit {sizes}"
                         + (f" ({known} elements)" if not unknown else ""))
    return tensors.reshape(x, shape=tuple(n // known if s == -1 else s for s in sizes))


view = reshape


def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    """x under the shape of ``other``."""
    return reshape(x, other.shape)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes ``start_dim`` to ``end_dim`` merged into one."""
    if not x.ndim:
        return x.reshape(1)
    first, last = axis("flatten", start_dim, x.ndim), axis("flatten", end_dim, x.ndim)
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return tensors.reshape(x, shape=(*x.shape[:first], math.prod(x.shape[first:last + 1]), *x.shape[last + 1:]))


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """The axis ``dim`` split into ``sizes``, one of which may be -1."""
    d = axis("unflatten", dim, x.ndim)
    known = math.prod(n for n in sizes if n != -1)
    if -1 in sizes:
        sizes = [x.shape[d] // max(known, 1) if n == -1 else n for n in sizes]
    if math.prod(sizes) != x.shape[d]:
        raise ShapeError(f"unflatten: axis {dim} of length {x.shape[d]} does not split into {tuple(sizes)}")
    return tensors.reshape(x, shape=(*x.shape[:d], *sizes, *x.shape[d + 1:]))


def permute(x: Tensor, *dims: Any) -> Tensor:
    """The axes in the order ``dims``.  A view."""
    order = tuple(axis("permute", d, x.ndim) for d in sizes_of(dims))
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"permute: {order} is no order of the {x.ndim} axes of shape {x.shape}; name each once")
    return tensors.transpose(x, axes=order)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged.  A view."""
    order = list(range(x.ndim))
    a, b = axis("transpose", dim0, x.ndim), axis("transpose", dim1, x.ndim)
    if order:
        order[a], order[b] = order[b], order[a]
    return tensors.transpose(x, axes=tuple(order))


swapaxes = transpose


def t(x: Tensor) -> Tensor:
    """A matrix transposed; a vector or number as it is."""
    if x.ndim > 2:
        raise ShapeError(f"t: needs at most two axes, found shape {x.shape}; use transpose(dim0, dim1) or mT")
    return tensors.transpose(x, axes=tuple(range(x.ndim))[::-1])


def movedim(x: Tensor, source: Any, destination: Any) -> Tensor:
    """An axis, or each of several, moved to another place; the others keep their order.  A view."""
    old, new = (axes("movedim", d, x.ndim) or () for d in (source, destination))
    if len(old) != len(new):
        raise ShapeError(f"movedim: {len(old)} axes for {len(new)} places; give one for each")
    order = [i for i in range(x.ndim) if i not in old]
    for place, i in sorted(zip(new, old, strict=True)):
        order.insert(place, i)
    return tensors.transpose(x, axes=tuple(order))


def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    """Without the axes of length 1 (all of them, or ``dim`` if it is one).  A view."""
    if dim is None:
        return tensors.reshape(x, shape=tuple(n for n in x.shape if n != 1))
    if not x.ndim:
        return x
    drop = {axis("squeeze", d, x.ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    return tensors.reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in drop or n != 1))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new axis of length 1 at ``dim``.  A view."""
    d = axis("unsqueeze", dim, x.ndim + 1)
    return tensors.reshape(x, shape=(*x.shape[:d], 1, *x.shape[d:]))


def expand(x: Tensor, *shape: Any) -> Tensor:
    """Axes of length 1 stretched, and new ones in front, without copying; -1 keeps an axis.  The view cannot be written to."""
    sizes = sizes_of(shape)
    if len(sizes) < x.ndim:
        raise ShapeError(f"expand: {sizes} has fewer axes than shape {x.shape}")
    lead = len(sizes) - x.ndim
    full = tuple(x.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(sizes))
    for i, n in enumerate(x.shape):
        if n not in (1, full[i + lead]):
            raise ShapeError(f"expand: shape {x.shape} does not stretch to {sizes}: axis {i} has length {n}, only 1 can be "
                             "stretched")
    if any(n < 0 for n in full):
        raise ShapeError(f"expand: {sizes} is no shape for a tensor of shape {x.shape}; -1 keeps an axis that it has")
    return tensors.broadcast_to(x, shape=full)


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """x expanded to the shape of ``other``."""
    return expand(x, other.shape)


broadcast_to = expand


def clone(x: Tensor) -> Tensor:
    """A copy; gradients pass through it."""
    return tensors.copy(x)


def contiguous(x: Tensor) -> Tensor:
    """x with its memory in row order: itself, or a copy."""
    return x if x.is_contiguous() else tensors.contiguous(x)


def meshgrid(*xs: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """The coordinates of a grid: for n vectors n views of shape (length 1, ..., length n), each varying along its own axis alone.

    Args:
        xs: vectors or numbers, also as one list.
        indexing: "ij": the first vector runs along axis 0, down the rows; "xy": along axis 1, across the columns, and the second
            along axis 0.

    Raises:
        ShapeError: one has several axes.  ConfigError: another ``indexing``.

    >>> import minidl
    >>> down, across = minidl.meshgrid(minidl.arange(2), minidl.arange(3))
    >>> across
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    xs = tuple(xs[0]) if len(xs) == 1 and isinstance(xs[0], (list, tuple)) else xs
    expect_tensors("meshgrid", *xs)
    if indexing not in ("ij", "xy"):
        raise ConfigError(f"meshgrid: indexing must be 'ij' or 'xy', found {indexing!r}")
    if not xs or any(x.ndim > 1 for x in xs):
        raise ShapeError(f"meshgrid: needs vectors, found {len(xs)} tensors of shapes {', '.join(str(x.shape) for x in xs)}")
    common_backend("meshgrid", xs)
    order = [1, 0, *range(2, len(xs))] if indexing == "xy" and len(xs) > 1 else list(range(len(xs)))
    shape = tuple(xs[i].numel() for i in order)
    return tuple(expand(reshape(x, [x.numel() if k == i else 1 for k in order]), shape) for i, x in enumerate(xs))


def _same_dtype(name: str, xs: Any) -> list[Tensor]:
    xs = list(xs)
    if not xs:
        raise ShapeError(f"{name}: needs at least one tensor, found none")
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected Tensors, found {type(x).__name__}; wrap it in minidl.tensor()")
    dtype = xs[0].dtype
    for x in xs[1:]:
        if x.dtype != dtype:
            dtype = promote(x.F, x.F.empty((1,), dtype), x.F.empty((1,), x.dtype))
    return [x.to(dtype) for x in xs]


def cat(xs: Any, dim: int = 0) -> Tensor:
    """Tensors one after the other along the existing axis ``dim``.

    Raises:
        ShapeError: no tensors, or shapes that differ on another axis.
    """
    xs = _same_dtype("cat", xs)
    d = axis("cat", dim, xs[0].ndim)
    first = xs[0].shape
    for i, x in enumerate(xs):
        if x.ndim == 0:
            raise ShapeError("cat: 0-d tensors have no axis to join; use stack")
        if x.shape[:d] + x.shape[d + 1:] != first[:d] + first[d + 1:]:
            raise ShapeError(f"cat: tensor {i} has shape {x.shape}, tensor 0 has {first}; they may differ on axis {d} alone")
    return tensors.concatenate(*xs, axis=d)


concat = concatenate = cat


def stack(xs: Any, dim: int = 0) -> Tensor:
    """Tensors of equal shape along the new axis ``dim``."""
    xs = _same_dtype("stack", xs)
    d = axis("stack", dim, xs[0].ndim + 1)
    for i, x in enumerate(xs):
        if x.shape != xs[0].shape:
            raise ShapeError(f"stack: tensor {i} has shape {x.shape}, tensor 0 has {xs[0].shape}; they must be equal")
    return tensors.stack(*xs, axis=d)


def split(x: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views along ``dim``: pieces of one size (the last may be shorter), or of the sizes listed."""
    d = axis("split", dim, x.ndim)
    n = x.shape[d]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size <= 0:
            raise ShapeError(f"split: the size must be at least 1, found {size}")
        sizes = [size] * (n // size) + ([n % size] if n % size or not n else [])
    else:
        sizes = list(split_size_or_sections)
        if math.fsum(sizes) != n or any(s < 0 for s in sizes):
            raise ShapeError(f"split: the sizes {sizes} do not add up to the length {n} of axis {d}")
    pieces, start = [], 0
    for size in sizes:
        pieces.append(tensors.getitem(x, index=(slice(None),) * d + (slice(start, start + size),)))
        start += size
    return tuple(pieces)


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` views of equal size (the last may be shorter) along ``dim``."""
    if chunks < 1:
        raise ShapeError(f"chunk: needs at least 1 chunk, found {chunks}")
    n = x.shape[axis("chunk", dim, x.ndim)]
    return split(x, -(-n // chunks) if n else [0] * chunks, dim)


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The views at each position of ``dim``."""
    d = axis("unbind", dim, x.ndim)
    return tuple(tensors.getitem(x, index=(slice(None),) * d + (i,)) for i in range(x.shape[d]))


def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The positions ``start`` to start + length - 1 along ``dim``.  A view.

    Raises:
        ShapeError: they are not all there.
    """
    d = axis("narrow", dim, x.ndim)
    n = x.shape[d] if x.ndim else 0
    first = start + n if start < 0 else start
    if not 0 <= first <= first + length <= n:
        raise ShapeError(f"narrow: {length} positions from {start} are not in axis {dim} of shape {x.shape}")
    return tensors.getitem(x, index=(slice(None),) * d + (slice(first, first + length),))


def diag(x: Tensor, diagonal: int = 0) -> Tensor:
    """Of a matrix its diagonal as a vector; of a vector the matrix with that diagonal and zeros elsewhere.

    ``diagonal`` is 0 for the main one, 1 for the one above it, -1 for the one below it.

    Raises:
        ShapeError: x is neither a vector nor a matrix.
    """
    expect_tensors("diag", x)
    if x.ndim not in (1, 2):
        raise ShapeError(f"diag: expected a vector or a matrix, found shape {x.shape}")
    right, down = max(diagonal, 0), max(-diagonal, 0)
    if x.ndim == 1:
        n = x.shape[0]
        return triu(tril(pad(x.unsqueeze(0).expand(n, n), (right, down, down, right)), diagonal), diagonal)
    n = max(min(x.shape[0] - down, x.shape[1] - right), 0)
    return tensors.getitem(x, index=tuple(x.F.arange(first, first + n, 1, x.F.int64) for first in (down, right)))


def flip(x: Tensor, *at: Any, dims: Any = ()) -> Tensor:
    """The order along axes reversed: ``flip(x, 0, 1)`` or ``flip(x, dims=(0, 1))``."""
    return tensors.flip(x, axes=axes("flip", sizes_of(at or (dims,)), x.ndim) or ())


def roll(x: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted along ``dims`` (along the flattened tensor without them), round the corner."""
    if dims is None:
        return tensors.roll(x, shift=shifts, axis=None)
    if isinstance(dims, int) and isinstance(shifts, int):
        return tensors.roll(x, shift=shifts, axis=axis("roll", dims, x.ndim))
    shifts, dims = ((v,) if isinstance(v, int) else tuple(v) for v in (shifts, dims))
    if len(shifts) != len(dims):
        raise ShapeError(f"roll: {len(shifts)} shifts for {len(dims)} dims; give one for each")
    return tensors.roll(x, shift=shifts, axis=tuple(axis("roll", d, x.ndim) for d in dims))


def repeat(x: Tensor, *times: Any) -> Tensor:
    """The tensor tiled: ``times`` copies along each axis, new axes in front."""
    counts = sizes_of(times)
    if len(counts) < x.ndim:
        raise ShapeError(f"repeat: {counts} has fewer entries than shape {x.shape} has axes")
    if any(c < 0 for c in counts):
        raise ShapeError(f"repeat: the numbers of copies must be at least 0, found {counts}")
    shape = (1,) * (len(counts) - x.ndim) + x.shape
    apart = [m for n in shape for m in (1, n)]
    stretched = tuple(m for c, n in zip(counts, shape, strict=True) for m in (c, n))
    tiled = tensors.broadcast_to(tensors.reshape(x, shape=tuple(apart)), shape=stretched)
    return tensors.reshape(tiled, shape=tuple(c * n for c, n in zip(counts, shape, strict=True)))


def tile(x: Tensor, *dims: Any) -> Tensor:
    """:func:`repeat`, but ``dims`` may have fewer entries than x has axes: those in front then stay as they are."""
    counts = sizes_of(dims)
    return repeat(x, (1,) * (x.ndim - len(counts)) + counts)


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes, up to the ``diagonal``-th diagonal; zeros above it."""
    return _triangle("tril", x, diagonal, True)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two axes, from the ``diagonal``-th diagonal; zeros below it."""
    return _triangle("triu", x, diagonal, False)


def _triangle(name: str, x: Tensor, diagonal: int, lower: bool) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"{name}: needs at least two axes, found shape {x.shape}")
    return tensors.triangle(x, diagonal=diagonal, lower=lower)


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """x with a margin: ``pad`` holds (before, after) for the last axis, then for the one before it, and so on.

    Args:
        mode: "constant" (``value``, 0 by default; negative widths crop), "reflect" (mirrored without the edge), "replicate"
            (the edge repeated) or "circular" (from the other side).

    Raises:
        ShapeError: an odd number of widths, more than axes, or wider than the mode can fill.
    """
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ShapeError(f"pad: {tuple(pad)} for shape {x.shape}; give (before, after) for some of the last axes")
    widths = [(0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        widths[x.ndim - 1 - i] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    if mode == "constant":
        for n, (lo, hi) in zip(x.shape, widths, strict=True):
            if n + lo + hi < 0:
                raise ShapeError(f"pad: {tuple(pad)} crops more than there is of shape {x.shape}")
        return tensors.pad(x, widths=widths, value=value or 0)
    if mode not in ("reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode {mode!r} is not known; use constant, reflect, replicate or circular")
    for d, (lo, hi) in enumerate(widths):
        if lo or hi:
            n = x.shape[d]
            most = n - 1 if mode == "reflect" else n if mode == "circular" else None
            if lo < 0 or hi < 0 or most is not None and max(lo, hi) > most or n == 0:
                raise ShapeError(f"pad: {mode} cannot fill ({lo}, {hi}) beside an axis of length {n}"
                                 + (f"; at most {most}" if most is not None else ""))
            x = tensors.getitem(x, index=(slice(None),) * d + (_source(mode, n, lo, hi),))
    return x


def _source(mode: str, n: int, lo: int, hi: int) -> list[int]:
    """Which element fills each place of a padded axis."""
    places = range(-lo, n + hi)
    if mode == "replicate":
        return [min(max(i, 0), n - 1) for i in places]
    if mode == "circular":
        return [i % n for i in places]
    return [-i if i < 0 else 2 * (n - 1) - i if i >= n else i for i in places]
