"""Convolution, pooling and resizing: the public functions, and the verbs behind their gradients."""

from __future__ import annotations

import itertools

import numpy as np

from minidl.autograd.function import tensors
from minidl.errors import DTypeError, ShapeError
from minidl.nn import functional as F
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry
from tests.opdb.base import Bad, Draw, Op, Sample, transpose_of

NEEDS_AXES = {"scalar": "images have axes"}
NO_INTEGERS = {**NEEDS_AXES, "int64": "minidl pools floating point only"}
# Sums of up to 24 products of normal numbers: an error of a few units in the last place of numbers of size 5.
SUMS = {"float32": (2e-5, 1e-5), "float16": (2e-2, 2e-2)}


def pair(v):
    return (v, v) if isinstance(v, int) else tuple(v)


def margins(padding, kernel, dilation):
    """((top, bottom), (left, right))"""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, tuple) and isinstance(padding[0], tuple):
        return padding
    return tuple((p, p) for p in pair(padding))


# --------------------------------------------------------------------------------------------- the formulas, as loops
def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    if x.ndim == 3:
        return conv2d(x[None], w, b, stride, padding, dilation, groups)[0]
    (sh, sw), (dh, dw), (kh, kw) = pair(stride), pair(dilation), w.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), *margins(padding, (kh, kw), (dh, dw))))
    out_h, out_w = (
        (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(x.shape[2:], (dh, dw), (kh, kw), (sh, sw), strict=True)
    )
    y = np.zeros((len(x), len(w), out_h, out_w))
    own, per = len(w) // groups, w.shape[1]
    for n, o, i, j in np.ndindex(y.shape):
        first = o // own * per
        window = x[
            n, first : first + per, i * sh : i * sh + dh * (kh - 1) + 1 : dh, j * sw : j * sw + dw * (kw - 1) + 1 : dw
        ]
        y[n, o, i, j] = np.sum(window * w[o]) + (0 if b is None else b[o])
    return y


def conv_transpose2d(x, w, b=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """What it is the transpose of, applied to unit vectors."""
    if x.ndim == 3:
        return conv_transpose2d(x[None], w, b, stride, padding, output_padding, groups, dilation)[0]
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(
            x.shape[2:], pair(stride), pair(padding), pair(dilation), w.shape[2:], pair(output_padding), strict=True
        )
    ]
    shape = (len(x), w.shape[1] * groups, *sizes)
    y = transpose_of(lambda u: conv2d(u, w, None, stride, padding, dilation, groups), shape, x)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def unfold(x, kernel, dilation=1, padding=0, stride=1):
    """One filter for each pixel of the window: a convolution whose weights are a unit matrix."""
    kh, kw = pair(kernel)
    channels = x.shape[1]
    w = np.eye(channels * kh * kw).reshape(-1, channels, kh, kw)
    y = conv2d(x, w, None, stride, padding, dilation)
    return y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])


def fold(cols, size, kernel, dilation=1, padding=0, stride=1):
    kh, kw = pair(kernel)
    shape = (len(cols), cols.shape[1] // (kh * kw), *pair(size))
    return transpose_of(lambda u: unfold(u, kernel, dilation, padding, stride), shape, cols)


def windows(shape, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    """(i, j, rows, columns) of every window; rows and columns may lie outside the image."""
    ranges = []
    for n, k, s, p, d in zip(
        shape[-2:], pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), strict=True
    ):
        count = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= n + p:
            count -= 1
        ranges.append([range(i * s - p, i * s - p + d * (k - 1) + 1, d) for i in range(count)])
    for (i, rows), (j, columns) in itertools.product(enumerate(ranges[0]), enumerate(ranges[1])):
        yield i, j, rows, columns


def max_pool2d(x, kernel, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    found = list(windows(x.shape, kernel, stride, padding, dilation, ceil_mode))
    h, w = x.shape[-2:]
    y = np.zeros((*x.shape[:-2], found[-1][0] + 1, found[-1][1] + 1))
    indices = np.zeros(y.shape, int)
    for lead in np.ndindex(x.shape[:-2]):
        for i, j, rows, columns in found:
            best = None
            for r, c in itertools.product(rows, columns):
                if 0 <= r < h and 0 <= c < w:
                    v = x[(*lead, r, c)]
                    if best is None or v > best or np.isnan(v) and not np.isnan(best):
                        best, indices[(*lead, i, j)] = v, r * w + c
            y[(*lead, i, j)] = best
    return [y, indices] if return_indices else y


def avg_pool2d(x, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    found = list(windows(x.shape, kernel, stride, padding, 1, ceil_mode))
    (h, w), (ph, pw) = x.shape[-2:], pair(padding)
    y = np.zeros((*x.shape[:-2], found[-1][0] + 1, found[-1][1] + 1))
    for i, j, rows, columns in found:
        inside = [(r, c) for r, c in itertools.product(rows, columns) if 0 <= r < h and 0 <= c < w]
        padded = [(r, c) for r, c in itertools.product(rows, columns) if r < h + ph and c < w + pw]
        total = sum(x[..., r, c] for r, c in inside)
        y[..., i, j] = total / len(padded if count_include_pad else inside)
    return y


def adaptive_windows(n, out):
    return [range(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def adaptive(reduce):
    def pool(x, size):
        size = [
            n if s is None else s
            for n, s in zip(x.shape[-2:], (size, size) if size is None or isinstance(size, int) else size, strict=True)
        ]
        rows, columns = (adaptive_windows(n, s) for n, s in zip(x.shape[-2:], size, strict=True))
        y = np.zeros((*x.shape[:-2], *size))
        for i, j in np.ndindex(*size):
            y[..., i, j] = reduce(
                x[..., rows[i].start : rows[i].stop, columns[j].start : columns[j].stop], axis=(-2, -1)
            )
        return y

    return pool


def keys(d, a=-0.75):
    """Keys' cubic at the distance d."""
    d = abs(d)
    return (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def interpolate(x, size=None, scale_factor=None, mode="nearest", align_corners=False):
    h, w = x.shape[2:]
    factors = (scale_factor, scale_factor) if isinstance(scale_factor, (int, float)) else scale_factor
    out = pair(size) if size is not None else (int(h * factors[0]), int(w * factors[1]))
    if mode == "area":
        return adaptive(np.mean)(x, out)
    steps = (h / out[0], w / out[1]) if size is not None else (1 / factors[0], 1 / factors[1])
    y = np.zeros((*x.shape[:2], *out))
    for i, j in np.ndindex(*out):
        if mode == "nearest":
            y[..., i, j] = x[..., min(int(i * steps[0]), h - 1), min(int(j * steps[1]), w - 1)]
            continue
        shares = []  # for each axis, how much of each pixel
        for at, n, m, step in ((i, h, out[0], steps[0]), (j, w, out[1], steps[1])):
            place = at * (n - 1) / max(m - 1, 1) if align_corners else (at + 0.5) * step - 0.5
            share = np.zeros(n)
            for k in range(-3, n + 3):  # pixels beyond the border are those at the border
                weight = keys(place - k) if mode == "bicubic" else max(1 - abs(place - k), 0)
                share[min(max(k, 0), n - 1)] += weight
            shares.append(share)
        y[..., i, j] = np.einsum("ncij,i,j->nc", x, *shares)
    return y


# ------------------------------------------------------------------------------------------------------------ samples
def _convs(d: Draw):
    yield Sample(d(1, 2, 4, 4), d(3, 2, 3, 3), d(3))
    yield Sample(d(2, 2, 3, 4), d(2, 1, 2, 2), d(2), stride=(2, 1), padding=(1, 0), groups=2)
    yield Sample(d(1, 2, 5, 4), d(2, 2, 2, 2), stride=2, dilation=(2, 1))
    yield Sample(d(1, 2, 3, 3), d(1, 2, 2, 3), padding="same", dilation=(1, 2))
    yield Sample(d(1, 1, 3, 3), d(2, 1, 2, 2), padding=((1, 0), (0, 2)))
    yield Sample(d(1, 1, 3, 3), d(2, 1, 2, 2), padding="valid")
    yield Sample(d(2, 3, 4), d(2, 2, 1, 1), d(2))
    yield Sample(d(0, 2, 4, 4), d(3, 2, 3, 3), d(3))


def _transposed_convs(d: Draw):
    yield Sample(d(1, 2, 2, 3), d(2, 3, 2, 2), d(3))
    yield Sample(d(1, 2, 2, 2), d(2, 1, 3, 2), stride=(2, 1), padding=(1, 0), output_padding=(1, 0), groups=2)
    yield Sample(d(1, 1, 2, 2), d(1, 2, 2, 2), stride=2, dilation=(1, 2))
    yield Sample(d(2, 2, 3), d(2, 1, 2, 2), d(1))
    yield Sample(d(0, 2, 2, 3), d(2, 3, 2, 2), d(3))


GEOM = conv2d_geometry((1, 2, 3, 4), (2, 1, 2, 2), stride=(1, 2), padding=(1, 0), groups=2)
EMPTY_GEOM = GEOM._replace(N=0)
OPTIONS = {"stride": (1, 2), "padding": (1, 0), "groups": 2}
POOL = pool2d_geometry((1, 2, 4, 3), 2, (2, 1), 1, 1, False, "pool")
EMPTY_POOL = POOL._replace(N=0)


def _with_geom(geom, empty, *shapes):
    """A sample for one image, and one for a batch of none; shapes hold N for the batch axis."""

    def samples(d: Draw):
        for g in (geom, empty):
            yield Sample(*[d(*(g.N if n == "N" else n for n in shape)) for shape in shapes], geom=g)

    return samples


OUT = ("N", GEOM.O, GEOM.out_h, GEOM.out_w)
IN = ("N", GEOM.C, GEOM.H, GEOM.W)
WEIGHT = (GEOM.O, GEOM.C // GEOM.groups, GEOM.kh, GEOM.kw)


def _input_grad(gy, w, geom):
    return transpose_of(lambda u: conv2d(u, w, None, **OPTIONS), (geom.N, geom.C, geom.H, geom.W), gy)


def _weight_grad(gy, x, geom):
    return transpose_of(lambda u: conv2d(x, u, None, **OPTIONS), WEIGHT, gy)


def _conv_error(x, w, match, b=None, error=ShapeError, torch="", **options):
    return Bad(Sample(np.zeros(x), np.zeros(w), None if b is None else np.zeros(b), **options), error, match, torch)


def _pools(d: Draw):
    yield Sample(d.distinct(1, 2, 4, 4), 2)
    yield Sample(d.distinct(1, 1, 5, 4), 3, 2, 1)
    yield Sample(d.distinct(1, 1, 4, 5), (2, 3), (1, 2), (1, 0))
    yield Sample(d.distinct(2, 3, 4), 2, 1)
    yield Sample(d.distinct(1, 1, 5, 5), 2, ceil_mode=True)
    yield Sample(d.distinct(1, 1, 5, 5), 3, 2, 1, ceil_mode=True)
    yield Sample(d(0, 2, 4, 4), 2)


def _max_pools(d: Draw):
    yield from _pools(d)
    yield Sample(d.distinct(1, 1, 5, 5), 2, 1, 0, 2)
    yield Sample(d.distinct(1, 2, 4, 4), 2, return_indices=True)
    yield Sample(np.array([[[[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]]]), 3, 1, smooth=False)
    yield Sample(
        np.array([[[[1.0, np.nan], [2.0, -np.inf]], [[-np.inf] * 2] * 2]]), 2, 1, 1, smooth=False, return_indices=True
    )


def _avg_pools(d: Draw):
    yield from _pools(d)
    yield Sample(d(1, 1, 3, 4), 2, 2, 1, count_include_pad=False)
    yield Sample(d(1, 1, 5, 5), 3, 2, 1, ceil_mode=True, count_include_pad=False)


POOL_ERRORS = (
    Bad(Sample(np.zeros((1, 1, 2, 2)), 3), ShapeError, r"pool2d"),
    Bad(Sample(np.zeros((1, 1, 4, 4)), 2, 2, 2), ShapeError, r"pool2d.*padding"),
    Bad(Sample(np.zeros((1, 1, 4, 4)), 0), ShapeError, r"pool2d.*kernel"),
    Bad(Sample(np.zeros((4, 4)), 2), ShapeError, r"pool2d.*\(4, 4\)"),
    Bad(Sample(np.zeros((1, 1, 4, 4), bool), 2), DTypeError, "pool2d: needs a floating-point tensor, found bool"),
)


def _adaptive(d: Draw):
    yield Sample(d.distinct(1, 2, 4, 5), (2, 3))
    yield Sample(d.distinct(1, 1, 4, 4), 1)
    yield Sample(d.distinct(2, 3, 5), (None, 2))
    yield Sample(d.distinct(1, 1, 2, 2), 3)
    yield Sample(d(0, 2, 4, 4), 2)


ADAPTIVE_ERRORS = (
    Bad(Sample(np.zeros((4, 4)), 2), ShapeError, r"adaptive.*\(4, 4\)"),
    Bad(Sample(np.zeros((1, 1, 4, 4)), (1, 2, 3)), ShapeError, "output_size must be one or two"),
    Bad(Sample(np.zeros((1, 1, 4, 4)), -1), ShapeError, "output_size must be"),
    Bad(Sample(np.zeros((1, 1, 0, 4)), 2), ShapeError, "with pixels in it"),
)


def _flat_index(gy, indices, image, geom=None):
    """gy added at the flat indices of each image."""
    gx = np.zeros((*gy.shape[:2], *image))
    for at in np.ndindex(gy.shape):
        gx[at[0], at[1]].reshape(-1)[indices[at]] += gy[at]
    return gx


def _taken(x, indices, geom=None):
    y = np.zeros(indices.shape)
    for at in np.ndindex(indices.shape):
        y[at] = x[at[0], at[1]].reshape(-1)[indices[at]]
    return y


def _winners(d: Draw, batch):
    """Indices as max_pool2d returns them: each inside its window."""
    return max_pool2d(d(batch, POOL.C, POOL.H, POOL.W), 2, (2, 1), 1, return_indices=True)[1]


OPS = [
    Op(
        "F.conv2d",
        F.conv2d,
        _convs,
        conv2d,
        torch="nn.functional.conv2d",
        verbs=("conv2d",),
        composites=("channel_sum",),
        tolerance=SUMS,
        without={**NEEDS_AXES, "torch": "PyTorch has no padding of unequal sides"},
        bad=(
            _conv_error(
                (1, 3, 8, 8),
                (4, 2, 3, 3),
                r"conv2d: input \(1, 3, 8, 8\) and weight \(4, 2, 3, 3\): the weight expects 2 input channels.*the input has 3 \(axis 1\)",
            ),
            _conv_error((1, 4, 8, 8), (3, 2, 3, 3), "conv2d.*groups", groups=2),
            _conv_error((1, 1, 2, 2), (1, 1, 3, 3), r"conv2d.*\(1, 1, 2, 2\)"),
            _conv_error((1, 1, 4, 4), (1, 1, 3, 3), "bias has shape", b=2),
            _conv_error((1, 1, 4, 4), (1, 1, 3, 3), "stride", stride=0),
            _conv_error((1, 1, 4, 4), (1, 1, 3, 3), "padding", padding=-1),
            _conv_error((1, 1, 4, 4), (1, 1, 3, 3), "same.*stride 1", padding="same", stride=2),
            _conv_error((4, 4), (1, 1, 3, 3), "must have 4 axes"),
            _conv_error((1, 1, 7, 7), (1, 1, 3, 3), "2.33", stride=3, strict=True),
        ),
    ),
    Op(
        "F.conv2d(relu)",
        lambda x, w, b=None: F.conv2d(x, w, b, padding=1, relu=True),
        lambda d: [
            Sample(d(2, 2, 3, 4), d(3, 2, 3, 3), d(3)),
            Sample(d(2, 3, 4), d(2, 2, 2, 2)),
            Sample(d(0, 2, 3, 3), d(1, 2, 3, 3), d(1)),
        ],
        lambda x, w, b=None: np.maximum(conv2d(x, w, b, padding=1), 0),
        torch=lambda torch: lambda x, w, b=None: torch.relu(torch.nn.functional.conv2d(x, w, b, padding=1)),
        verbs=("conv2d",),
        composites=("channel_sum", "relu_grad"),
        tolerance=SUMS,
        without=NEEDS_AXES,
    ),
    Op(
        "F.conv_transpose2d",
        F.conv_transpose2d,
        _transposed_convs,
        conv_transpose2d,
        torch="nn.functional.conv_transpose2d",
        tolerance=SUMS,
        without=NEEDS_AXES,
        bad=(
            _conv_error((1, 3, 4, 4), (2, 4, 3, 3), "conv_transpose2d.*3.*2"),
            _conv_error((1, 2, 4, 4), (2, 4, 3, 3), "bias has shape", b=3),
            _conv_error((1, 2, 4, 4), (2, 4, 3, 3), "output_padding|output padding", output_padding=2, stride=2),
            _conv_error((1, 3, 4, 4), (3, 4, 3, 3), "groups", groups=2),
        ),
    ),
    Op(
        "conv2d_input_grad",
        lambda gy, w, geom: tensors.conv2d_input_grad(gy, w, geom=geom),
        _with_geom(GEOM, EMPTY_GEOM, OUT, WEIGHT),
        _input_grad,
        verbs=("conv2d_input_grad",),
        tolerance=SUMS,
        without=NEEDS_AXES,
    ),
    Op(
        "conv2d_weight_grad",
        lambda gy, x, geom: tensors.conv2d_weight_grad(gy, x, geom=geom),
        _with_geom(GEOM, EMPTY_GEOM, OUT, IN),
        _weight_grad,
        verbs=("conv2d_weight_grad",),
        tolerance=SUMS,
        without=NEEDS_AXES,
    ),
    Op(
        "F.unfold",
        F.unfold,
        lambda d: [Sample(d(1, 2, 3, 4), 2), Sample(d(1, 1, 5, 5), (2, 3), 2, 1, (2, 1)), Sample(d(0, 2, 3, 4), 2)],
        unfold,
        torch="nn.functional.unfold",
        verbs=("im2col",),
        without=NEEDS_AXES,
        bad=(
            Bad(Sample(np.zeros((1, 1, 2, 2)), 3), ShapeError, "unfold"),
            Bad(Sample(np.zeros((2, 2)), 1), ShapeError, "unfold.*4 axes"),
        ),
    ),
    Op(
        "F.fold",
        F.fold,
        lambda d: [
            Sample(d(1, 8, 6), (3, 4), 2),
            Sample(d(1, 6, 9), (5, 5), (2, 3), 2, 1, (2, 1)),
            Sample(d(0, 8, 6), (3, 4), 2),
        ],
        fold,
        torch="nn.functional.fold",
        verbs=("col2im",),
        tolerance=SUMS,
        without=NEEDS_AXES,
        bad=(
            Bad(
                Sample(np.zeros((1, 7, 6)), (3, 4), 2),
                ShapeError,
                r"fold: expected \(N, C \* 2 \* 2, windows\), found shape \(1, 7, 6\)",
            ),
            Bad(Sample(np.zeros((1, 8, 5)), (3, 4), 2), ShapeError, "3x4 has 6 windows, the input has 5"),
        ),
    ),
    Op(
        "F.max_pool2d",
        F.max_pool2d,
        _max_pools,
        max_pool2d,
        torch="nn.functional.max_pool2d",
        verbs=("max_pool2d",),
        without=NO_INTEGERS,
        bad=POOL_ERRORS,
    ),
    Op(
        "max_pool2d_grad",
        lambda gy, i, geom: tensors.max_pool2d_grad(gy, i, geom=geom),
        lambda d: [Sample(d(g.N, g.C, g.out_h, g.out_w), _winners(d, g.N), geom=g) for g in (POOL, EMPTY_POOL)],
        lambda gy, i, geom: _flat_index(gy, i, (geom.H, geom.W)),
        verbs=("max_pool2d_grad",),
        without=NEEDS_AXES,
        tolerance=SUMS,
    ),
    Op(
        "max_pool2d_take",
        lambda x, i, geom: tensors.max_pool2d_take(x, i, geom=geom),
        lambda d: [Sample(d(g.N, g.C, g.H, g.W), _winners(d, g.N), geom=g) for g in (POOL, EMPTY_POOL)],
        _taken,
        verbs=("max_pool2d_take",),
        without=NEEDS_AXES,
    ),
    Op(
        "F.avg_pool2d",
        F.avg_pool2d,
        _avg_pools,
        avg_pool2d,
        torch="nn.functional.avg_pool2d",
        verbs=("avg_pool2d",),
        without=NO_INTEGERS,
        bad=POOL_ERRORS,
    ),
    Op(
        "avg_pool2d_grad",
        lambda gy, geom: tensors.avg_pool2d_grad(gy, geom=geom, count_include_pad=False),
        _with_geom(POOL, EMPTY_POOL, ("N", POOL.C, POOL.out_h, POOL.out_w)),
        lambda gy, geom: transpose_of(
            lambda u: avg_pool2d(u, 2, (2, 1), 1, count_include_pad=False), (geom.N, geom.C, geom.H, geom.W), gy
        ),
        verbs=("avg_pool2d_grad",),
        without=NEEDS_AXES,
    ),
    Op(
        "F.adaptive_avg_pool2d",
        F.adaptive_avg_pool2d,
        _adaptive,
        adaptive(np.mean),
        torch="nn.functional.adaptive_avg_pool2d",
        verbs=("adaptive_avg_pool2d",),
        without=NEEDS_AXES,
        bad=ADAPTIVE_ERRORS,
    ),
    Op(
        "adaptive_avg_pool2d_grad",
        lambda gy, in_hw: tensors.adaptive_avg_pool2d_grad(gy, in_hw=in_hw),
        lambda d: [Sample(d(1, 2, 2, 3), (4, 5)), Sample(d(0, 2, 2, 3), (4, 5))],
        lambda gy, in_hw: transpose_of(lambda u: adaptive(np.mean)(u, gy.shape[2:]), (*gy.shape[:2], *in_hw), gy),
        verbs=("adaptive_avg_pool2d_grad",),
        without=NEEDS_AXES,
    ),
    Op(
        "F.adaptive_max_pool2d",
        F.adaptive_max_pool2d,
        _adaptive,
        adaptive(np.max),
        torch="nn.functional.adaptive_max_pool2d",
        verbs=("adaptive_max_pool2d",),
        without=NEEDS_AXES,
        bad=ADAPTIVE_ERRORS,
    ),
    Op(
        "adaptive_max_pool2d_grad",
        lambda gy, i, in_hw: tensors.adaptive_max_pool2d_grad(gy, i, in_hw=in_hw),
        lambda d: [
            # Any pixel of each bin: those of the upper ones begin in row 0, of the lower in row 2; the columns are 0-1, 1-3, 3-4.
            Sample(d(1, 2, 2, 3), 5 * d.integers(0, 2, 1, 2, 2, 3) + np.array([[0, 1, 3], [10, 11, 13]]), (4, 5)),
            Sample(d(0, 2, 2, 3), np.zeros((0, 2, 2, 3), int), (4, 5)),
        ],
        _flat_index,
        verbs=("adaptive_max_pool2d_grad",),
        without=NEEDS_AXES,
        tolerance=SUMS,
    ),
    Op(
        "F.interpolate",
        F.interpolate,
        lambda d: [
            Sample(d(1, 2, 3, 2), (5, 4)),
            Sample(d(1, 1, 4, 4), scale_factor=0.5),
            Sample(d(1, 1, 3, 2), (5, 4), mode="bilinear"),
            Sample(d(1, 1, 3, 4), (5, 2), mode="bilinear", align_corners=True),
            Sample(d(1, 1, 2, 2), scale_factor=(2, 1.5), mode="bilinear"),
            Sample(d(1, 1, 3, 5), scale_factor=(1.5, 0.7)),
            Sample(d(1, 1, 3, 2), scale_factor=(1.5, 1.8), mode="bilinear"),
            Sample(d(1, 1, 5, 6), (2, 4), mode="area"),
            Sample(d(1, 2, 3, 2), (5, 4), mode="bicubic"),
            Sample(d(1, 1, 5, 6), (2, 3), mode="bicubic"),
            Sample(d(1, 1, 3, 4), (5, 2), mode="bicubic", align_corners=True),
            Sample(d(1, 1, 3, 2), scale_factor=(1.5, 1.8), mode="bicubic"),
            Sample(d(1, 1, 1, 4), (1, 7), mode="bicubic", align_corners=True),
            Sample(d(0, 1, 2, 2), 4),
        ],
        interpolate,
        torch=lambda torch: (
            lambda x, size=None, scale_factor=None, mode="nearest", align_corners=None: torch.nn.functional.interpolate(
                x, size, scale_factor, mode, align_corners
            )
        ),
        without={**NEEDS_AXES, "dtypes": "PyTorch interpolates floating point and bytes only"},
        bad=(
            Bad(Sample(np.zeros((1, 1, 2, 2))), ShapeError, "give size or scale_factor"),
            Bad(Sample(np.zeros((1, 1, 2, 2)), 4, 2.0), ShapeError, "give size or scale_factor"),
            Bad(Sample(np.zeros((1, 1, 2, 2)), 4, mode="sinc"), ValueError, "mode 'sinc' is not known"),
            Bad(Sample(np.zeros((1, 1, 2, 2)), 0), ShapeError, "interpolate.*at least 1"),
            Bad(Sample(np.zeros((1, 1, 2, 2), int), 3, mode="bilinear"), DTypeError, "interpolate: needs a floating-point tensor"),
        ),
    ),
]
