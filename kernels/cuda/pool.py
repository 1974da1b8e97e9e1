"""Launches of pool.cu: max and average pooling, adaptive or not, with their gradients."""
from typing import Any

from minidl.kernels.cuda.launch import Array, cuda, launch, same_dtype
from minidl.kernels.cuda.layout import channels_first, channels_last

FILE = "pool.cu"


def _geometry(geom: Any) -> tuple[int, ...]:
    """C, H, W, kh, kw, strides, top, left, dilations, oh, ow: what the max-pooling kernels take."""
    return (geom.C, geom.H, geom.W, geom.kh, geom.kw, *geom.stride, geom.padding[0], geom.padding[2], *geom.dilation,
            geom.out_h, geom.out_w)  # fmt: skip


def _max_pool(gpu: Any, entry: str, x: Array, geom: Any) -> tuple[Array, Array]:
    x = channels_last(gpu, x)
    shape = (len(x), geom.out_h, geom.out_w, geom.C)
    y, indices = gpu.xp.empty(shape, x.dtype), gpu.xp.empty(shape, gpu.xp.int64)
    launch(gpu, FILE, entry, (x, y, indices, y.size, *_geometry(geom)), dtype=x.dtype, work=y.size)
    return channels_first(gpu, y), channels_first(gpu, indices)


def _takes(x: Array, *others: Any, **options: Any) -> bool:
    return same_dtype(x)


@cuda("max_pool2d", "naive", _takes)
def max_pool2d_naive(gpu: Any, x: Array, geom: Any) -> tuple[Array, Array]:
    return _max_pool(gpu, "max_pool_naive", x, geom)


@cuda("max_pool2d", "cuda", _takes)
def max_pool2d(gpu: Any, x: Array, geom: Any) -> tuple[Array, Array]:
    return _max_pool(gpu, "max_pool", x, geom)


@cuda("max_pool2d_grad", "naive", _takes)
def max_pool2d_grad_naive(gpu: Any, gy: Array, indices: Array, geom: Any) -> Array:
    dtype = gpu.xp.float32 if gy.dtype.itemsize == 2 else gy.dtype
    gx = gpu.xp.zeros((len(gy), geom.H, geom.W, geom.C), dtype)
    given, taken = channels_last(gpu, gy), channels_last(gpu, indices)
    launch(gpu, FILE, "max_pool_grad_naive", (given, taken, gx, gy.size, geom.C, geom.H, geom.W, geom.out_h, geom.out_w),
           dtype=gy.dtype, work=gy.size)  # fmt: skip
    return channels_first(gpu, gx.astype(gy.dtype, copy=False))


@cuda("max_pool2d_grad", "cuda", _takes)
def max_pool2d_grad(gpu: Any, gy: Array, indices: Array, geom: Any) -> Array:
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    given, taken = channels_last(gpu, gy), channels_last(gpu, indices)
    launch(gpu, FILE, "max_pool_grad", (given, taken, gx, gx.size, *_geometry(geom)), dtype=gy.dtype, work=gx.size)
    return channels_first(gpu, gx)


def _takes_average(x: Array, geom: Any, count_include_pad: bool = True) -> bool:
    return same_dtype(x) and tuple(geom.dilation) == (1, 1)


def _average_geometry(geom: Any, count_include_pad: bool) -> tuple[int, ...]:
    return (geom.C, geom.H, geom.W, geom.kh, geom.kw, *geom.stride, *geom.padding, geom.out_h, geom.out_w, int(count_include_pad))


@cuda("avg_pool2d", "cuda", _takes_average)
def avg_pool2d(gpu: Any, x: Array, geom: Any, count_include_pad: bool = True) -> Array:
    x = channels_last(gpu, x)
    y = gpu.xp.empty((len(x), geom.out_h, geom.out_w, geom.C), x.dtype)
    launch(gpu, FILE, "avg_pool", (x, y, y.size, *_average_geometry(geom, count_include_pad)), dtype=x.dtype, work=y.size)
    return channels_first(gpu, y)


@cuda("avg_pool2d_grad", "cuda", _takes_average)
def avg_pool2d_grad(gpu: Any, gy: Array, geom: Any, count_include_pad: bool = True) -> Array:
    gy = channels_last(gpu, gy)
    gx = gpu.xp.empty((len(gy), geom.H, geom.W, geom.C), gy.dtype)
    arguments = (gy, gx, gx.size, *_average_geometry(geom, count_include_pad))
    launch(gpu, FILE, "avg_pool_grad", arguments, dtype=gy.dtype, work=gx.size)
    return channels_first(gpu, gx)


@cuda("max_pool2d_take", "cuda", _takes)
def max_pool2d_take(gpu: Any, x: Array, indices: Array, geom: Any) -> Array:
    plane_in, plane_out, c = x.shape[2] * x.shape[3], indices.shape[2] * indices.shape[3], x.shape[1]
    x, indices = channels_last(gpu, x), channels_last(gpu, indices)
    y = gpu.xp.empty(indices.shape, x.dtype)
    launch(gpu, FILE, "max_pool_take", (x, indices, y, y.size, c, plane_in, plane_out), dtype=x.dtype, work=y.size)
    return channels_first(gpu, y)


def _adaptive(
    gpu: Any, entry: str, inputs: tuple[Array, ...], out_hw: tuple[int, int], *geometry: int, indices: bool = False
) -> Any:
    """Runs a kernel of the form (inputs, outputs, n, C, geometry); its outputs have ``out_hw`` pixels."""
    inputs = tuple(channels_last(gpu, a) for a in inputs)
    c, dtype = inputs[0].shape[-1], inputs[0].dtype
    shape = (len(inputs[0]), *out_hw, c)
    outputs = [gpu.xp.empty(shape, kind) for kind in (dtype, gpu.xp.int64)[: 1 + indices]]
    size = outputs[0].size
    launch(gpu, FILE, entry, (*inputs, *outputs, size, c, *geometry), dtype=dtype, work=size)
    found = tuple(channels_first(gpu, y) for y in outputs)
    return found if indices else found[0]


@cuda("adaptive_avg_pool2d", "cuda", _takes)
def adaptive_avg_pool2d(gpu: Any, x: Array, out_hw: tuple[int, int]) -> Array:
    return _adaptive(gpu, "adaptive_avg_pool", (x,), out_hw, *x.shape[2:], *out_hw)


@cuda("adaptive_avg_pool2d_grad", "cuda", _takes)
def adaptive_avg_pool2d_grad(gpu: Any, gy: Array, in_hw: tuple[int, int]) -> Array:
    return _adaptive(gpu, "adaptive_avg_pool_grad", (gy,), in_hw, *in_hw, *gy.shape[2:])


@cuda("adaptive_max_pool2d", "cuda", _takes)
def adaptive_max_pool2d(gpu: Any, x: Array, out_hw: tuple[int, int]) -> tuple[Array, Array]:
    return _adaptive(gpu, "adaptive_max_pool", (x,), out_hw, *x.shape[2:], *out_hw, indices=True)


@cuda("adaptive_max_pool2d_grad", "cuda", _takes)
def adaptive_max_pool2d_grad(gpu: Any, gy: Array, indices: Array, in_hw: tuple[int, int]) -> Array:
    return _adaptive(gpu, "adaptive_max_pool_grad", (gy, indices), in_hw, *in_hw, *gy.shape[2:])
