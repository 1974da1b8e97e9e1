"""Convolution as a matrix product: unroll the windows into columns (im2col), multiply by the filters, done.

Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006.

The unrolled input is kh*kw times as large as the input, so it is never made whole: a few images at a time are unrolled into
the same scratch array, small enough to stay in the cache until the product has read it.

The columns of a chunk form one matrix (C*kh*kw, images*pixels): one product per chunk, whatever the size of the maps, and
the weight gradient is one product as well.

Groups are separate convolutions on slices of the channels, so a grouped convolution gives the very bits of its parts.
"""
from collections.abc import Iterator
from typing import Any, NamedTuple

from minidl.kernels.plain.arrays import Array, widen, window
from minidl.kernels.registry import plain

# Smaller chunks pay for more calls, larger ones miss the cache; 2 and 4 MiB were within noise of each other on most shapes.
CHUNK_BYTES = 4 << 20


class _Shape(NamedTuple):
    """The part of a geometry that one group of channels needs."""

    H: int
    W: int
    kh: int
    kw: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    out_h: int
    out_w: int

    @property
    def padded(self) -> tuple[int, int]:
        top, bottom, left, right = self.padding
        return self.H + top + bottom, self.W + left + right

    @property
    def pixels(self) -> int:
        return self.out_h * self.out_w

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution that visits every pixel: the input already is its own columns."""
        same_size = (self.H, self.W) == (self.out_h, self.out_w)  # an output padding makes H larger
        return same_size and (self.kh, self.kw, self.stride, self.padding) == (1, 1, (1, 1), (0, 0, 0, 0))

    def offsets(self) -> Iterator[tuple[int, int, slice, slice]]:
        """Each kernel position with the rows and columns of the padded input that it meets, over all outputs."""
        for u in range(self.kh):
            rows = window(u * self.dilation[0], self.out_h, self.stride[0])
            for v in range(self.kw):
                yield u, v, rows, window(v * self.dilation[1], self.out_w, self.stride[1])


def _shape(geom: Any) -> _Shape:
    return _Shape(geom.H, geom.W, geom.kh, geom.kw, tuple(geom.stride), tuple(geom.padding), tuple(geom.dilation),
                  geom.out_h, geom.out_w)


def _chunk(images: int, bytes_per_image: int) -> int:
    return max(1, min(images, CHUNK_BYTES // max(1, bytes_per_image)))


def _chunks(xp: Any, x: Array, s: _Shape) -> Iterator[tuple[slice, Array]]:
    """Unroll x (N, C, H, W) a few images at a time: yields which, and their columns (C*kh*kw, n*pixels), then overwritten."""
    n, c = x.shape[:2]
    step = _chunk(n, c * s.kh * s.kw * s.pixels * x.dtype.itemsize)
    top, left = s.padding[0], s.padding[2]
    for start in range(0, n, step):
        part = x[start : start + step].swapaxes(0, 1)
        m = part.shape[1]
        if start == 0 or m != step:  # the last chunk may be smaller
            cols = xp.empty((c, s.kh, s.kw, m, s.out_h, s.out_w), x.dtype)
            padded = xp.zeros((c, m, *s.padded), x.dtype) if any(s.padding) else None
        if padded is not None:
            padded[:, :, top : top + s.H, left : left + s.W] = part  # the border stays zero from chunk to chunk
            part = padded
        for u, v, rows, columns in s.offsets():
            cols[:, u, v] = part[:, :, rows, columns]
        yield slice(start, start + m), cols.reshape(c * s.kh * s.kw, m * s.pixels)


def _flat(xp: Any, part: Array) -> Array:
    """(n, C, h, w) as a contiguous matrix (C, n*h*w)."""
    n, c, h, w = part.shape
    return xp.ascontiguousarray(part.swapaxes(0, 1)).reshape(c, n * h * w)


def _forward(xp: Any, x: Array, w: Array, b: Array | None, s: _Shape, y: Array) -> None:
    """One group: x (N, C, H, W) with w (O, C, kh, kw) into y (N, O, oh, ow), whose planes are contiguous."""
    n, o = y.shape[:2]
    filters = w.reshape(o, -1)
    if s.is_pointwise:
        xp.matmul(filters, x.reshape(n, x.shape[1], s.pixels), out=y.reshape(n, o, s.pixels))
        if b is not None:
            y += b[:, None, None]
        return
    for images, cols in _chunks(xp, x, s):
        product = filters @ cols
        if b is not None:
            product += b[:, None]
        y[images] = product.reshape(o, -1, s.out_h, s.out_w).swapaxes(0, 1)


def _input_grad(xp: Any, gy: Array, w: Array, s: _Shape, gx: Array) -> None:
    """One group: gy (N, O, oh, ow) with w (O, C, kh, kw) into gx (N, C, H, W), whose planes are contiguous."""
    n, c = gx.shape[:2]
    o = gy.shape[1]
    filters = w.reshape(o, -1).T
    if s.is_pointwise:
        xp.matmul(filters, gy.reshape(n, o, s.pixels), out=gx.reshape(n, c, s.pixels))
        return
    reach_h, reach_w = s.dilation[0] * (s.kh - 1), s.dilation[1] * (s.kw - 1)
    top, _, left, _ = s.padding
    border = reach_h - top, s.H - s.out_h + top, reach_w - left, s.W - s.out_w + left
    if s.stride == (1, 1) and o <= c and min(border) >= 0:
        # With stride 1 it is a convolution of gy with the filters turned by 180 degrees.  Unrolling gy (O channels) writes
        # each column once where adding columns up (C channels) reads and writes.
        back = s._replace(H=s.out_h, W=s.out_w, padding=border, out_h=s.H, out_w=s.W)
        _forward(xp, gy, w[:, :, ::-1, ::-1].swapaxes(0, 1), None, back, gx)
        return
    step = _chunk(n, filters.shape[0] * s.pixels * gy.dtype.itemsize)
    for start in range(0, n, step):
        part = gy[start : start + step]
        cols = (filters @ _flat(xp, part)).reshape(c, s.kh, s.kw, part.shape[0], s.out_h, s.out_w)
        gx[start : start + step] = _add_up(xp, cols, s).swapaxes(0, 1)


def _add_up(xp: Any, cols: Array, s: _Shape) -> Array:
    """Columns (C, kh, kw, n, oh, ow) added back into the images (C, n, H, W) that they were cut from."""
    padded = xp.zeros((cols.shape[0], cols.shape[3], *s.padded), cols.dtype)
    for u, v, rows, columns in s.offsets():
        padded[:, :, rows, columns] += cols[:, u, v]
    top, left = s.padding[0], s.padding[2]
    return padded[:, :, top : top + s.H, left : left + s.W]


def _weight_grad(xp: Any, gy: Array, x: Array, s: _Shape, gw: Array) -> None:
    """One group: gy (N, O, oh, ow) with x (N, C, H, W), added to gw (O, C, kh, kw)."""
    filters = gw.reshape(gw.shape[0], -1)
    for images, cols in _chunks(xp, x, s):
        # cols @ gy.T, not gy @ cols.T: BLAS then copies the small operand, not the large one.
        filters += (cols @ _flat(xp, gy[images]).T).T


def _is_depthwise(geom: Any) -> bool:
    """One input channel per group: the matrices are too thin for BLAS, and adding shifted images is faster."""
    return geom.C == geom.groups and geom.O <= 2 * geom.groups


def _depthwise(xp: Any, x: Array, s: _Shape, multiple: int) -> Iterator[tuple[slice, Array]]:
    """x (N, C, H, W) a few images at a time, padded: yields which, and (n, C, 1, Hp, Wp)."""
    n, c = x.shape[:2]
    top, left = s.padding[0], s.padding[2]
    step = _chunk(n, c * (multiple * s.pixels + s.padded[0] * s.padded[1]) * x.dtype.itemsize)
    for start in range(0, n, step):
        part = x[start : start + step]
        padded = xp.zeros((part.shape[0], c, 1, *s.padded), x.dtype)
        padded[:, :, 0, top : top + s.H, left : left + s.W] = part
        yield slice(start, start + part.shape[0]), padded


def _groups(geom: Any) -> Iterator[tuple[slice, slice]]:
    """The input and output channels of each group."""
    c, o = geom.C // geom.groups, geom.O // geom.groups
    for g in range(geom.groups):
        yield slice(g * c, (g + 1) * c), slice(g * o, (g + 1) * o)


@plain("conv2d")
def conv2d(
    xp: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False
) -> Array:
    dtype, s = x.dtype, _shape(geom)
    x, w, b = widen(xp, x, w, b)
    y = xp.empty((x.shape[0], geom.O, s.out_h, s.out_w), x.dtype)
    if _is_depthwise(geom):
        multiple = geom.O // geom.groups
        filters = w.reshape(geom.C, multiple, s.kh, s.kw)
        for images, padded in _depthwise(xp, x, s, multiple):
            total = y[images].reshape(-1, geom.C, multiple, s.out_h, s.out_w)
            total[...] = 0 if b is None else b.reshape(geom.C, multiple, 1, 1)
            for u, v, rows, columns in s.offsets():
                total += padded[..., rows, columns] * filters[:, :, u, v, None, None]
    else:
        for inputs, outputs in _groups(geom):
            _forward(xp, x[:, inputs], w[outputs], None if b is None else b[outputs], s, y[:, outputs])
    if relu:
        xp.maximum(y, 0, out=y)
    return y.astype(dtype, copy=False)


@plain("conv2d_input_grad")
def conv2d_input_grad(xp: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    dtype, s = gy.dtype, _shape(geom)
    gy, w = widen(xp, gy, w)
    gx = xp.empty((gy.shape[0], geom.C, s.H, s.W), gy.dtype)
    if _is_depthwise(geom):
        multiple = geom.O // geom.groups
        filters = w.reshape(geom.C, multiple, s.kh, s.kw)
        top, left = s.padding[0], s.padding[2]
        step = _chunk(len(gy), geom.C * (multiple * s.pixels + s.padded[0] * s.padded[1]) * gy.dtype.itemsize)
        for start in range(0, len(gy), step):
            part = gy[start : start + step].reshape(-1, geom.C, multiple, s.out_h, s.out_w)
            padded = xp.zeros((len(part), geom.C, *s.padded), gy.dtype)
            for u, v, rows, columns in s.offsets():
                for m in range(multiple):
                    padded[:, :, rows, columns] += part[:, :, m] * filters[:, m, u, v, None, None]
            gx[start : start + step] = padded[:, :, top : top + s.H, left : left + s.W]
    else:
        for inputs, outputs in _groups(geom):
            _input_grad(xp, gy[:, outputs], w[outputs], s, gx[:, inputs])
    return gx.astype(dtype, copy=False)


@plain("conv2d_weight_grad")
def conv2d_weight_grad(xp: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    dtype, s = gy.dtype, _shape(geom)
    gy, x = widen(xp, gy, x)
    gw = xp.zeros((geom.O, geom.C // geom.groups, s.kh, s.kw), gy.dtype)
    if _is_depthwise(geom):
        multiple = geom.O // geom.groups
        filters = gw.reshape(geom.C, multiple, s.kh, s.kw)
        for images, padded in _depthwise(xp, x, s, multiple):
            part = gy[images].reshape(-1, geom.C, multiple, s.out_h, s.out_w)
            for u, v, rows, columns in s.offsets():
                filters[:, :, u, v] += (part * padded[..., rows, columns]).sum(axis=(0, 3, 4))
    else:
        for inputs, outputs in _groups(geom):
            _weight_grad(xp, gy[:, outputs], x[:, inputs], s, gw[outputs])
    return gw.astype(dtype, copy=False)


@plain("im2col")
def im2col(xp: Any, x: Array, geom: Any) -> Array:
    s = _shape(geom)
    n, c = x.shape[:2]
    top, left = s.padding[0], s.padding[2]
    padded = xp.zeros((n, c, *s.padded), x.dtype)
    padded[:, :, top : top + s.H, left : left + s.W] = x
    cols = xp.empty((n, c, s.kh, s.kw, s.out_h, s.out_w), x.dtype)
    for u, v, rows, columns in s.offsets():
        cols[:, :, u, v] = padded[:, :, rows, columns]
    return cols.reshape(n, c * s.kh * s.kw, s.pixels)


@plain("col2im")
def col2im(xp: Any, cols: Array, geom: Any) -> Array:
    dtype, s = cols.dtype, _shape(geom)
    n, c = cols.shape[0], geom.C
    (cols,) = widen(xp, cols)
    cols = cols.reshape(n, c, s.kh, s.kw, s.out_h, s.out_w).transpose(1, 2, 3, 0, 4, 5)
    return xp.ascontiguousarray(_add_up(xp, cols, s).swapaxes(0, 1)).astype(dtype, copy=False)
