"""Launches of conv.cu, conv_mma.cu and im2col.cu: convolution, its gradients, and windows as columns."""
from typing import Any

from minidl.kernels.cuda import source
from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_first, channels_last

FILE, TENSOR, IM2COL = "conv.cu", "conv_mma.cu", "im2col.cu"
TILE_M, TILE_N = 64, 64                              # as in conv.cu: outputs of a block of 256 threads
MAX_BLOCKS_YZ = 65535


def _numbers(geom: Any) -> tuple[int, ...]:
    """C, H, W, O, kh, kw, strides, top, left, dilations, groups, oh, ow: what the convolution kernels take."""
    return (geom.C, geom.H, geom.W, geom.O, geom.kh, geom.kw, *geom.stride, geom.padding[0], geom.padding[2], *geom.dilation,
            geom.groups, geom.out_h, geom.out_w)  # fmt: skip


def _window(geom: Any) -> tuple[int, ...]:
    """The same without filters, as im2col and col2im take it."""
    return (geom.C, geom.H, geom.W, geom.kh, geom.kw, *geom.stride, geom.padding[0], geom.padding[2], *geom.dilation,
            geom.out_h, geom.out_w)  # fmt: skip


def _tiles(rows: int, columns: int, groups: int) -> tuple[int, int, int]:
    return -(-rows // TILE_M), -(-columns // TILE_N), groups


def _filters_first(gpu: Any, w: Array) -> Array:
    """w (O, C/groups, kh, kw) as (O, kh, kw, C/groups)."""
    return gpu.xp.ascontiguousarray(w.transpose(0, 2, 3, 1))


def _channels_first(gpu: Any, w: Array, geom: Any) -> Array:
    """w (O, C/groups, kh, kw) as (groups, C/groups, kh, kw, O/groups)."""
    split = w.reshape(geom.groups, geom.O // geom.groups, *w.shape[1:])
    return gpu.xp.ascontiguousarray(split.transpose(0, 2, 3, 4, 1))


def _takes(a: Array, b: Array, *others: Any) -> bool:
    bias, geom = (None, others[0]) if hasattr(others[0], "groups") else others[:2]
    return same_dtype(a, b, bias) and a.size > 0 and b.size > 0 and geom.groups <= MAX_BLOCKS_YZ


def _takes_tensor(a: Array, b: Array, *others: Any) -> bool:
    """16-bit arrays whose channels, in and out, come in groups of 8: a 16-byte copy never crosses a pixel."""
    geom = others[0] if hasattr(others[0], "groups") else others[1]
    by_eights = geom.C // geom.groups % 8 == 0 and geom.O // geom.groups % 8 == 0
    return _takes(a, b, *others) and by_eights and a.dtype.name in source.TENSOR_CORES[TENSOR][0]


@cuda("conv2d", "naive", _takes)
def conv2d_naive(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    x, w = channels_last(gpu, x), _filters_first(gpu, w)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.O), x.dtype)
    b = None if b is None else gpu.xp.ascontiguousarray(b)
    launch(gpu, FILE, "conv_naive", (x, w, b, y, y.size, *_numbers(geom), int(relu)), dtype=x.dtype, work=y.size)
    return channels_first(gpu, y)


def _conv(gpu: Any, kernel: tuple[str, str, int], x: Array, w: Array, b: Array | None, geom: Any, relu: bool) -> Array:
    file, entry, threads = kernel
    x, w = channels_last(gpu, x), _filters_first(gpu, w)
    b = None if b is None else gpu.xp.ascontiguousarray(b)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.O), x.dtype)
    pixels = y.size // geom.O
    grid = _tiles(pixels, geom.O // geom.groups, geom.groups)
    if pixels:
        launch(gpu, file, entry, (x, w, b, y, pixels, *_numbers(geom), int(relu)), dtype=x.dtype, grid=grid, block=(threads,))
    return channels_first(gpu, y)


@cuda("conv2d", "cuda", _takes)
def conv2d(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    return _conv(gpu, (FILE, "conv", 256), x, w, b, geom, relu)


@cuda("conv2d", "tensor", _takes_tensor)
def conv2d_tensor(gpu: Any, x: Array, w: Array, b: Array | None, geom: Any, precision: str = "fast", relu: bool = False) -> Array:
    return _conv(gpu, (TENSOR, "conv_tensor", 128), x, w, b, geom, relu)


@cuda("conv2d_input_grad", "naive", _takes)
def conv2d_input_grad_naive(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    gy, w = channels_last(gpu, gy), _channels_first(gpu, w, geom)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    launch(gpu, FILE, "conv_input_grad_naive", (gy, w, gx, gx.size, *_numbers(geom)), dtype=gy.dtype, work=gx.size)
    return channels_first(gpu, gx)


def _input_grad(gpu: Any, kernel: tuple[str, str, int], gy: Array, w: Array, geom: Any) -> Array:
    file, entry, threads = kernel
    gy, w = channels_last(gpu, gy), _channels_first(gpu, w, geom)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    pixels = gx.size // geom.C
    grid = _tiles(pixels, geom.C // geom.groups, geom.groups)
    launch(gpu, file, entry, (gy, w, gx, pixels, *_numbers(geom)), dtype=gy.dtype, grid=grid, block=(threads,))
    return channels_first(gpu, gx)


@cuda("conv2d_input_grad", "cuda", _takes)
def conv2d_input_grad(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    return _input_grad(gpu, (FILE, "conv_input_grad", 256), gy, w, geom)


@cuda("conv2d_input_grad", "tensor", _takes_tensor)
def conv2d_input_grad_tensor(gpu: Any, gy: Array, w: Array, geom: Any, precision: str = "fast") -> Array:
    return _input_grad(gpu, (TENSOR, "conv_input_grad_tensor", 128), gy, w, geom)


def _from_filters_first(gw: Array, dtype: Any) -> Array:
    return gw.transpose(0, 3, 1, 2).astype(dtype, order="C")


@cuda("conv2d_weight_grad", "naive", _takes)
def conv2d_weight_grad_naive(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    gy, x = channels_last(gpu, gy), channels_last(gpu, x)
    gw = gpu.xp.empty((geom.O, geom.kh, geom.kw, geom.C // geom.groups), _sums(gpu, x.dtype))
    arguments = (gy, x, gw, gw.size, gy.size // geom.O, *_numbers(geom))
    launch(gpu, FILE, "conv_weight_grad_naive", arguments, dtype=x.dtype, work=gw.size)
    return _from_filters_first(gw, x.dtype)


def _weight_grad(gpu: Any, kernel: tuple[str, str, int], gy: Array, x: Array, geom: Any) -> Array:
    file, entry, threads = kernel
    gy, x = channels_last(gpu, gy), channels_last(gpu, x)
    shape = geom.O, geom.kh, geom.kw, geom.C // geom.groups
    pixels, columns = gy.size // geom.O, shape[1] * shape[2] * shape[3]
    across = _tiles(geom.O // geom.groups, columns, geom.groups)
    parts = _parts(gpu, pixels, across[0] * across[1] * across[2])
    per_part = -(-pixels // parts)
    partial = gpu.xp.empty((parts, *shape), _sums(gpu, x.dtype))
    grid = (across[0], across[1], geom.groups * parts)
    arguments = (gy, x, partial, pixels, per_part, *_numbers(geom))
    launch(gpu, file, entry, arguments, dtype=x.dtype, grid=grid, block=(threads,))
    if parts == 1:
        return _from_filters_first(partial[0], x.dtype)
    gw = gpu.xp.empty(shape, partial.dtype)
    launch(gpu, FILE, "add_parts", (partial, gw, gw.size, parts), dtype=x.dtype, work=gw.size)
    return _from_filters_first(gw, x.dtype)


@cuda("conv2d_weight_grad", "cuda", _takes)
def conv2d_weight_grad(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    return _weight_grad(gpu, (FILE, "conv_weight_grad", 256), gy, x, geom)


@cuda("conv2d_weight_grad", "tensor", _takes_tensor)
def conv2d_weight_grad_tensor(gpu: Any, gy: Array, x: Array, geom: Any, precision: str = "fast") -> Array:
    return _weight_grad(gpu, (TENSOR, "conv_weight_grad_tensor", 128), gy, x, geom)


def _parts(gpu: Any, pixels: int, blocks: int) -> int:
    """Into how many parts the pixels are cut: enough blocks for every processor, but at least 256 pixels each."""
    return max(1, min(2 * gpu.multiprocessors // blocks, -(-pixels // 256)))


def _sums(gpu: Any, dtype: Any) -> Any:
    return gpu.xp.float32 if dtype.itemsize == 2 else dtype


def _im2col(gpu: Any, entry: str, work: int, x: Array, geom: Any) -> Array:
    x = gpu.xp.ascontiguousarray(x)
    cols = gpu.xp.empty((len(x), geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w), x.dtype)
    launch(gpu, IM2COL, entry, (x, cols, work or cols.size, *_window(geom)), dtype=x.dtype, work=work or cols.size)
    return cols


def _takes_windows(x: Array, geom: Any) -> bool:
    return same_dtype(x) and x.size > 0


@cuda("im2col", "naive", _takes_windows)
def im2col_naive(gpu: Any, x: Array, geom: Any) -> Array:
    return _im2col(gpu, "im2col_naive", 0, x, geom)


@cuda("im2col", "cuda", _takes_windows)
def im2col(gpu: Any, x: Array, geom: Any) -> Array:
    return _im2col(gpu, "im2col", len(x) * geom.C * geom.kh * geom.out_h * geom.out_w, x, geom)


@cuda("col2im", "naive", _takes_windows)
def col2im_naive(gpu: Any, cols: Array, geom: Any) -> Array:
    cols = gpu.xp.ascontiguousarray(cols)
    x = gpu.xp.zeros((len(cols), geom.C, geom.H, geom.W), _sums(gpu, cols.dtype))
    launch(gpu, IM2COL, "col2im_naive", (cols, x, cols.size, *_window(geom)), dtype=cols.dtype, work=cols.size)
    return x.astype(cols.dtype, copy=False)


@cuda("col2im", "cuda", _takes_windows)
def col2im(gpu: Any, cols: Array, geom: Any) -> Array:
    cols = gpu.xp.ascontiguousarray(cols)
    x = gpu.xp.empty((len(cols), geom.C, geom.H, geom.W), cols.dtype)
    launch(gpu, IM2COL, "col2im", (cols, x, x.size, *_window(geom)), dtype=cols.dtype, work=x.size)
    return x
