"""Normalisation: batch (Ioffe and Szegedy 2015), layer (Ba et al. 2016), group (Wu and He 2018), local response
(Krizhevsky et al. 2012).

Statistics take two passes, the mean and then the mean of centred squares: E[x^2] - E[x]^2 loses all its digits when the
mean is large against the spread.  float32 sums are pairwise within a plane or row, and float64 across planes and blocks.
Arrays are walked in blocks that fit the cache, with no temporary of the size of the input.
"""
from typing import Any

from minidl.kernels.plain.arrays import Array, blocks, wide, widen
from minidl.kernels.registry import plain


def _planes(x: Array) -> Array:
    """(N, C, ...) as (N, C, S)."""
    n, c = x.shape[:2]
    size = 1
    for axis in x.shape[2:]:
        size *= axis
    return x.reshape(n, c, size)


def _affine(xp: Any, x: Array, centre: Array, scale: Array, shift: Array | None) -> Array:
    """(x - centre) * scale + shift per channel of (N, C, S), in x's dtype."""
    acc = wide(xp, x.dtype)
    y = xp.empty(x.shape, x.dtype)
    for part in blocks(x.shape[0], x[:1].nbytes):
        centred = xp.subtract(x[part], centre, dtype=acc)
        centred *= scale
        if shift is not None:
            centred += shift
        y[part] = centred
    return y


@plain("batch_norm")
def batch_norm(xp: Any, x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    planes, acc = _planes(x), wide(xp, x.dtype)
    n, c, size = planes.shape
    count = max(1, n * size)
    parts = blocks(n, planes[:1].nbytes)
    total = xp.zeros(c, xp.float64)
    for part in parts:
        total += planes[part].sum(axis=2, dtype=acc).sum(axis=0, dtype=xp.float64)
    mean = (total / count).astype(acc)
    total = xp.zeros(c, xp.float64)
    for part in parts:
        centred = xp.subtract(planes[part], mean[:, None], dtype=acc)
        centred *= centred
        total += centred.sum(axis=2).sum(axis=0, dtype=xp.float64)
    invstd = (1 / xp.sqrt(total / count + eps)).astype(acc)
    w, b = widen(xp, w, b)
    scale = invstd if w is None else invstd * w
    y = _affine(xp, planes, mean[:, None], scale[:, None], None if b is None else b[:, None])
    return y.reshape(x.shape), mean, invstd


@plain("batch_norm_grad")
def batch_norm_grad(
    xp: Any, gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array
) -> tuple[Array, Array, Array]:
    planes, gradients, acc = _planes(x), _planes(gy), wide(xp, x.dtype)
    n, c, size = planes.shape
    count = max(1, n * size)
    parts = blocks(n, 2 * planes[:1].nbytes)
    gb, gw = xp.zeros(c, xp.float64), xp.zeros(c, xp.float64)
    for part in parts:
        g = gradients[part].astype(acc, copy=False)
        centred = xp.subtract(planes[part], mean[:, None], dtype=acc)
        centred *= g
        gb += g.sum(axis=2).sum(axis=0, dtype=xp.float64)
        gw += centred.sum(axis=2).sum(axis=0, dtype=xp.float64)
    gw *= invstd
    # gx = scale * (gy - mean(gy) - xhat * mean(gy * xhat)), with what depends on the channel only taken out of the loop.
    scale = invstd.astype(xp.float64) if w is None else invstd.astype(xp.float64) * w
    by_x, constant = -scale * invstd * gw / count, -scale * gb / count
    scale, by_x, constant = (values.astype(acc)[:, None] for values in (scale, by_x, constant))
    gx = xp.empty(planes.shape, gy.dtype)
    for part in parts:
        centred = xp.subtract(planes[part], mean[:, None], dtype=acc)
        centred *= by_x
        centred += constant
        centred += gradients[part] * scale
        gx[part] = centred
    dtype = acc if w is None else w.dtype
    return gx.reshape(x.shape), gw.astype(dtype), gb.astype(dtype)


@plain("batch_norm_relu")
def batch_norm_relu(
    xp: Any, x: Array, w: Array | None, b: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    y, mean, invstd = batch_norm(xp, x, w, b, eps)
    if residual is not None:
        y += residual
    return xp.maximum(y, y.dtype.type(0), out=y), mean, invstd


@plain("batch_norm_relu_grad")
def batch_norm_relu_grad(
    xp: Any, gy: Array, x: Array, w: Array | None, b: Array | None, y: Array, mean: Array, invstd: Array, residual: bool
) -> tuple[Array, ...]:
    g = xp.multiply(gy, y > 0)
    grads = batch_norm_grad(xp, g, x, w, mean, invstd)
    return (*grads, g) if residual else grads


@plain("batch_norm_inference")
def batch_norm_inference(
    xp: Any, x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, eps: float
) -> Array:
    acc = wide(xp, x.dtype)
    w, b, mean, var = (None if a is None else a.astype(acc, copy=False) for a in (w, b, mean, var))
    scale = 1 / xp.sqrt(var + acc.type(eps))
    if w is not None:
        scale *= w
    y = _affine(xp, _planes(x), mean[:, None], scale[:, None], None if b is None else b[:, None])
    return y.reshape(x.shape)


@plain("batch_norm_relu_inference")
def batch_norm_relu_inference(
    xp: Any, x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, residual: Array | None, eps: float
) -> Array:
    y = batch_norm_inference(xp, x, w, b, mean, var, eps)
    if residual is not None:
        y += residual
    return xp.maximum(y, y.dtype.type(0), out=y)


def _row_statistics(xp: Any, rows: Array, eps: float) -> tuple[Array, Array]:
    """Mean and 1/std of each row of (R, D), as (R, 1)."""
    acc = wide(xp, rows.dtype)
    mean, invstd = xp.empty((len(rows), 1), acc), xp.empty((len(rows), 1), acc)
    for part in blocks(len(rows), rows[:1].nbytes):
        rough = rows[part].mean(axis=1, keepdims=True, dtype=acc)
        centred = xp.subtract(rows[part], rough, dtype=acc)
        # The sum of a row of large numbers is rounded coarsely; what that cost the mean shows in the centred ones.
        missed = centred.mean(axis=1, keepdims=True)
        mean[part] = rough + missed
        centred -= missed
        centred *= centred
        invstd[part] = 1 / xp.sqrt(centred.mean(axis=1, keepdims=True) + acc.type(eps))
    return mean, invstd


def _row_grad(xp: Any, gxhat: Array, xhat: Array, invstd: Array) -> Array:
    """invstd * (gxhat - mean(gxhat) - xhat * mean(gxhat * xhat)) over rows; overwrites xhat."""
    along = (gxhat * xhat).mean(axis=1, keepdims=True)
    xhat *= along
    gx = gxhat - gxhat.mean(axis=1, keepdims=True)
    gx -= xhat
    gx *= invstd
    return gx


@plain("running_stats_")
def running_stats_(
    xp: Any, running_mean: Array, running_var: Array, mean: Array, invstd: Array, *, count: int, momentum: float, eps: float,
    unbiased: bool,
) -> None:  # fmt: skip
    var = xp.maximum(1 / xp.square(invstd) - invstd.dtype.type(eps), 0)   # rounding may leave a little less than nothing
    if unbiased:
        var *= invstd.dtype.type(count / (count - 1))
    for running, new in ((running_mean, mean), (running_var, var)):
        (kept,) = widen(xp, running)
        running[...] = kept * kept.dtype.type(1 - momentum) + new * new.dtype.type(momentum)


@plain("layer_norm")
def layer_norm(
    xp: Any, x: Array, w: Array | None, b: Array | None, ndim: int, eps: float
) -> tuple[Array, Array, Array]:
    outer, inner = x.shape[: x.ndim - ndim], x.shape[x.ndim - ndim :]
    rows = _rows(x, ndim)
    mean, invstd = _row_statistics(xp, rows, eps)
    w, b = (None if a is None else a.reshape(-1) for a in widen(xp, w, b))
    y = xp.empty(rows.shape, x.dtype)
    for part in blocks(len(rows), rows[:1].nbytes):
        centred = xp.subtract(rows[part], mean[part], dtype=mean.dtype)
        centred *= invstd[part]
        if w is not None:
            centred *= w
        if b is not None:
            centred += b
        y[part] = centred
    kept = outer + (1,) * len(inner)
    return y.reshape(x.shape), mean.reshape(kept), invstd.reshape(kept)


@plain("layer_norm_grad")
def layer_norm_grad(
    xp: Any, gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array, ndim: int
) -> tuple[Array, Array, Array]:
    inner, acc = x.shape[x.ndim - ndim :], wide(xp, x.dtype)
    rows, gradients = _rows(x, ndim), _rows(gy, ndim)
    mean, invstd = mean.reshape(-1, 1), invstd.reshape(-1, 1)
    filters = None if w is None else w.astype(acc, copy=False).reshape(-1)
    gw, gb = xp.zeros(rows.shape[1], xp.float64), xp.zeros(rows.shape[1], xp.float64)
    gx = xp.empty(rows.shape, gy.dtype)
    for part in blocks(len(rows), 2 * rows[:1].nbytes):
        g = gradients[part].astype(acc, copy=False)
        xhat = xp.subtract(rows[part], mean[part], dtype=acc)
        xhat *= invstd[part]
        gw += (g * xhat).sum(axis=0)
        gb += g.sum(axis=0)
        gx[part] = _row_grad(xp, g if filters is None else g * filters, xhat, invstd[part])
    dtype = acc if w is None else w.dtype
    return gx.reshape(x.shape), gw.astype(dtype).reshape(inner), gb.astype(dtype).reshape(inner)


def _rows(x: Array, ndim: int) -> Array:
    """(*outer, *inner) as (R, D)."""
    size = 1
    for axis in x.shape[x.ndim - ndim :]:
        size *= axis
    return x.reshape(x.size // max(1, size), size)


def _grouped(x: Array, groups: int) -> Array:
    """(N, C, ...) as (N*groups, D)."""
    n, c = x.shape[:2]
    size = c // groups
    for axis in x.shape[2:]:
        size *= axis
    return x.reshape(n * groups, size)


def _per_channel(values: Array, ndim: int) -> Array:
    return values.reshape(1, -1, *(1,) * (ndim - 2))


@plain("group_norm")
def group_norm(
    xp: Any, x: Array, w: Array | None, b: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    rows = _grouped(x, groups)
    mean, invstd = _row_statistics(xp, rows, eps)
    y = xp.subtract(rows, mean, dtype=mean.dtype)
    y *= invstd
    y = y.reshape(x.shape)
    w, b = widen(xp, w, b)
    if w is not None:
        y *= _per_channel(w, x.ndim)
    if b is not None:
        y += _per_channel(b, x.ndim)
    kept = x.shape[0], groups
    return y.astype(x.dtype, copy=False), mean.reshape(kept), invstd.reshape(kept)


@plain("group_norm_grad")
def group_norm_grad(
    xp: Any, gy: Array, x: Array, w: Array | None, mean: Array, invstd: Array, groups: int
) -> tuple[Array, Array, Array]:
    acc = wide(xp, x.dtype)
    rows, invstd = _grouped(x, groups), invstd.reshape(-1, 1)
    xhat = xp.subtract(rows, mean.reshape(-1, 1), dtype=acc)
    xhat *= invstd
    g = gy.astype(acc, copy=False)
    dtype = acc if w is None else w.dtype
    gw = _planes(g * xhat.reshape(x.shape)).sum(axis=2).sum(axis=0, dtype=xp.float64).astype(dtype)
    gb = _planes(g).sum(axis=2).sum(axis=0, dtype=xp.float64).astype(dtype)
    if w is not None:
        g = g * _per_channel(w.astype(acc, copy=False), x.ndim)
    gx = _row_grad(xp, _grouped(g, groups), xhat, invstd)
    return gx.reshape(x.shape).astype(gy.dtype, copy=False), gw, gb


def _neighbours(xp: Any, values: Array, before: int, after: int) -> Array:
    """Sum over channels c - before .. c + after, clipped to those that exist."""
    c = values.shape[1]
    total = xp.zeros(values.shape, values.dtype)
    for offset in range(-before, after + 1):
        low, high = max(0, -offset), min(c, c - offset)
        if low < high:
            total[:, low:high] += values[:, low + offset : high + offset]
    return total


def _power(xp: Any, base: Array, beta: float) -> Array:
    """base ** -beta; AlexNet's 0.75 takes two square roots, which are several times as fast as a power."""
    if beta == 0.75:
        root = xp.sqrt(base)
        root *= xp.sqrt(root)
        return 1 / root
    return base ** base.dtype.type(-beta)


@plain("local_response_norm")
def local_response_norm(xp: Any, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    (values,) = widen(xp, x)
    base = _neighbours(xp, values * values, size // 2, (size - 1) // 2)
    base *= base.dtype.type(alpha / size)
    base += base.dtype.type(k)
    return (values * _power(xp, base, beta)).astype(x.dtype, copy=False)


@plain("local_response_norm_grad")
def local_response_norm_grad(
    xp: Any, gy: Array, x: Array, size: int, alpha: float, beta: float, k: float
) -> Array:
    values, g = widen(xp, x, gy)
    base = _neighbours(xp, values * values, size // 2, (size - 1) // 2)
    base *= base.dtype.type(alpha / size)
    base += base.dtype.type(k)
    direct = g * _power(xp, base, beta)
    # Channel c feeds the sums of the channels whose window holds it: the window mirrored.
    through = _neighbours(xp, direct * values / base, (size - 1) // 2, size // 2)
    through *= values
    through *= values.dtype.type(2 * beta * alpha / size)
    return (direct - through).astype(gy.dtype, copy=False)
