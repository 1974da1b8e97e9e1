"""Pooling by a loop over the kh*kw window positions, each a whole-array operation; never over pixels.

No padded copy is made: for every window position the outputs whose input lies inside the image form a rectangle, and the
others see padding, which neither wins a maximum nor adds to a sum.  Images go in blocks that stay in the cache through all
positions.
"""
from collections.abc import Iterator
from typing import Any

from minidl.kernels.plain.arrays import Array, blocks, wide, widen, window
from minidl.kernels.registry import plain


def _axis(n: int, k: int, stride: int, before: int, dilation: int, outputs: int) -> list[tuple[int, slice, slice, int]]:
    """For each window position u that meets the image: (u, outputs, inputs, first input), along one axis."""
    found = []
    for u in range(k):
        first = u * dilation - before  # the input that output 0 sees at u
        low = max(0, -(first // stride))
        high = min(outputs, (n - 1 - first) // stride + 1)
        if low < high:
            found.append((u, slice(low, high), window(first + low * stride, high - low, stride), first))
    return found


def _axes(geom: Any) -> tuple[list[tuple[int, slice, slice, int]], list[tuple[int, slice, slice, int]]]:
    (sh, sw), (top, _, left, _), (dh, dw) = geom.stride, geom.padding, geom.dilation
    return (_axis(geom.H, geom.kh, sh, top, dh, geom.out_h), _axis(geom.W, geom.kw, sw, left, dw, geom.out_w))


def _positions(geom: Any) -> Iterator[tuple[int, tuple[Any, ...], tuple[Any, ...]]]:
    """Each window position as (number, index of the outputs that have it inside the image, index of the inputs)."""
    rows, columns = _axes(geom)
    for u, out_rows, in_rows, _ in rows:
        for v, out_columns, in_columns, _ in columns:
            yield u * geom.kw + v, (..., out_rows, out_columns), (..., in_rows, in_columns)


def _index_of(xp: Any, geom: Any) -> tuple[Array, Array]:
    """Flat input index of window position p at output (i, j): ``corner[i, j] + step[p]``, padding included."""
    (sh, sw), (top, _, left, _), (dh, dw) = geom.stride, geom.padding, geom.dilation
    corner = (xp.arange(geom.out_h) * sh - top)[:, None] * geom.W + (xp.arange(geom.out_w) * sw - left)
    step = (xp.arange(geom.kh) * dh)[:, None] * geom.W + xp.arange(geom.kw) * dw
    return corner, step.reshape(-1)


def _lowest(xp: Any, dtype: Any) -> Any:
    return -xp.inf if dtype.kind in "fV" else xp.iinfo(dtype).min


@plain("max_pool2d")
def max_pool2d(xp: Any, x: Array, geom: Any) -> tuple[Array, Array]:
    shape = (*x.shape[:2], geom.out_h, geom.out_w)
    y = xp.full(shape, _lowest(xp, x.dtype), x.dtype)
    indices = xp.empty(shape, xp.int64)
    corner, step = _index_of(xp, geom)
    first = _first_inside(xp, geom)
    for images in blocks(x.shape[0], x[:1].nbytes):
        winner = _winners(xp, x[images], y[images], first, geom)
        indices[images] = step[winner]
        indices[images] += corner
    return y, indices


def _winners(xp: Any, x: Array, y: Array, first: Array, geom: Any) -> Array:
    """Raises y to the maxima and returns the window position of each."""
    winner = xp.empty(y.shape, xp.uint8 if geom.kh * geom.kw <= 256 else xp.int32)
    winner[...] = first  # stays where all values are -inf
    for number, outputs, inputs in _positions(geom):
        candidate, best, at = xp.ascontiguousarray(x[inputs]), y[outputs], winner[outputs]
        won = (candidate > best).astype(winner.dtype)  # > and not >=: the first maximum wins
        won *= winner.dtype.type(number)
        xp.maximum(at, won, out=at)  # numbers grow, so the last to win is the largest: 0.25 of the time of a masked copy
        xp.maximum(best, candidate, out=best)
    if x.dtype.kind in "fV" and xp.isnan(y).any():  # maximum propagates NaN, > ignores it
        for number, outputs, inputs in reversed(list(_positions(geom))):
            xp.copyto(winner[outputs], number, where=xp.isnan(x[inputs]))
    return winner


def _first_inside(xp: Any, geom: Any) -> Array:
    """The first window position that is inside the image, for each output: (oh, ow)."""
    first = []
    for positions, outputs in zip(_axes(geom), (geom.out_h, geom.out_w), strict=True):
        along = xp.zeros(outputs, xp.int64)
        for u, inside, _, _ in reversed(positions):
            along[inside] = u
        first.append(along)
    return first[0][:, None] * geom.kw + first[1]


@plain("max_pool2d_grad")
def max_pool2d_grad(xp: Any, gy: Array, indices: Array, geom: Any) -> Array:
    gx = xp.zeros((*gy.shape[:2], geom.H, geom.W), wide(xp, gy.dtype))
    corner, step = _index_of(xp, geom)
    for images in blocks(gy.shape[0], 4 * gy[:1].nbytes):
        taken, given, into = indices[images], gy[images], gx[images]
        for number, outputs, inputs in _positions(geom):
            won = taken[outputs] == corner[outputs[1:]] + step[number]
            into[inputs] += xp.where(won, given[outputs], gy.dtype.type(0))  # not a product: 0 * inf is NaN
    return gx.astype(gy.dtype, copy=False)


@plain("max_pool2d_take")
def max_pool2d_take(xp: Any, x: Array, indices: Array, geom: Any) -> Array:
    n, c, h, w = x.shape
    flat = indices.reshape(n, c, indices.shape[2] * indices.shape[3])
    return xp.take_along_axis(x.reshape(n, c, h * w), flat, axis=2).reshape(indices.shape)


def divisor(xp: Any, geom: Any, count_include_pad: bool, dtype: Any) -> Array:
    """How many values each window averages over: (oh, ow)."""
    (sh, sw), (top, bottom, left, right), (dh, dw) = geom.stride, geom.padding, geom.dilation
    counts = []
    for n, k, stride, before, after, dilation, outputs in (
        (geom.H, geom.kh, sh, top, bottom, dh, geom.out_h),
        (geom.W, geom.kw, sw, left, right, dw, geom.out_w),
    ):
        at = (xp.arange(outputs) * stride - before)[:, None] + xp.arange(k) * dilation
        # The padding counts if asked for; what ceil mode adds beyond it never does.
        inside = at < n + after if count_include_pad else (at >= 0) & (at < n)
        counts.append(inside.sum(axis=1))
    return (counts[0][:, None] * counts[1]).astype(dtype)


@plain("avg_pool2d")
def avg_pool2d(xp: Any, x: Array, geom: Any, count_include_pad: bool = True) -> Array:
    y = xp.zeros((*x.shape[:2], geom.out_h, geom.out_w), wide(xp, x.dtype))
    for images in blocks(x.shape[0], x[:1].nbytes):
        for _, outputs, inputs in _positions(geom):
            y[images][outputs] += x[images][inputs]
    y /= divisor(xp, geom, count_include_pad, y.dtype)
    return y.astype(x.dtype, copy=False)


@plain("avg_pool2d_grad")
def avg_pool2d_grad(xp: Any, gy: Array, geom: Any, count_include_pad: bool = True) -> Array:
    share = gy / divisor(xp, geom, count_include_pad, wide(xp, gy.dtype))
    gx = xp.zeros((*gy.shape[:2], geom.H, geom.W), share.dtype)
    for images in blocks(gy.shape[0], gx[:1].nbytes):
        for _, outputs, inputs in _positions(geom):
            gx[images][inputs] += share[images][outputs]
    return gx.astype(gy.dtype, copy=False)


def _bins(n: int, outputs: int) -> list[slice]:
    """Output i of an adaptive pooling covers floor(i*n/outputs) to ceil((i+1)*n/outputs); neighbours may overlap."""
    return [slice(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]


def _bin_sizes(xp: Any, in_hw: tuple[int, int], out_hw: tuple[int, int], dtype: Any) -> Array:
    high, across = (
        xp.asarray([part.stop - part.start for part in _bins(n, outputs)], dtype)
        for n, outputs in zip(in_hw, out_hw, strict=True)
    )
    return high[:, None] * across


@plain("adaptive_avg_pool2d")
def adaptive_avg_pool2d(xp: Any, x: Array, out_hw: tuple[int, int]) -> Array:
    n, c, h, w = x.shape
    oh, ow = out_hw
    (values,) = widen(xp, x)
    rows = xp.empty((n, c, oh, w), values.dtype)  # sums are separable: rows first, then columns
    for i, part in enumerate(_bins(h, oh)):
        rows[:, :, i] = values[:, :, part].sum(axis=2)
    y = xp.empty((n, c, oh, ow), values.dtype)
    for j, part in enumerate(_bins(w, ow)):
        y[:, :, :, j] = rows[:, :, :, part].sum(axis=3)
    y /= _bin_sizes(xp, (h, w), (oh, ow), y.dtype)
    return y.astype(x.dtype, copy=False)


@plain("adaptive_avg_pool2d_grad")
def adaptive_avg_pool2d_grad(xp: Any, gy: Array, in_hw: tuple[int, int]) -> Array:
    n, c, oh, ow = gy.shape
    share = gy / _bin_sizes(xp, in_hw, (oh, ow), wide(xp, gy.dtype))
    rows = xp.zeros((n, c, oh, in_hw[1]), share.dtype)
    for j, part in enumerate(_bins(in_hw[1], ow)):
        rows[:, :, :, part] += share[:, :, :, j, None]
    gx = xp.zeros((n, c, *in_hw), share.dtype)
    for i, part in enumerate(_bins(in_hw[0], oh)):
        gx[:, :, part] += rows[:, :, i, None]
    return gx.astype(gy.dtype, copy=False)


@plain("adaptive_max_pool2d")
def adaptive_max_pool2d(xp: Any, x: Array, out_hw: tuple[int, int]) -> tuple[Array, Array]:
    n, c, h, w = x.shape
    indices = xp.empty((n, c, *out_hw), xp.int64)
    for i, rows in enumerate(_bins(h, out_hw[0])):
        for j, columns in enumerate(_bins(w, out_hw[1])):
            high, across = rows.stop - rows.start, columns.stop - columns.start
            best = x[:, :, rows, columns].reshape(n, c, high * across).argmax(axis=2)
            indices[:, :, i, j] = (rows.start + best // across) * w + columns.start + best % across
    return max_pool2d_take(xp, x, indices, None), indices


@plain("adaptive_max_pool2d_grad")
def adaptive_max_pool2d_grad(xp: Any, gy: Array, indices: Array, in_hw: tuple[int, int]) -> Array:
    n, c, oh, ow = gy.shape
    (values,) = widen(xp, gy)
    gx = xp.zeros((n * c, in_hw[0] * in_hw[1]), values.dtype)
    planes = xp.arange(n * c)
    values, indices = values.reshape(n * c, oh * ow), indices.reshape(n * c, oh * ow)
    for k in range(oh * ow):  # one output at a time: within it no two planes share an element, so += adds each once
        gx[planes, indices[:, k]] += values[:, k]
    return gx.reshape(n, c, *in_hw).astype(gy.dtype, copy=False)
