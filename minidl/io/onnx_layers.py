"""How the verbs of layers - convolution, pooling, normalisation - are said in ONNX; see :mod:`minidl.io.onnx_ops`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.io.onnx_ops import Graph, Value, rule


def _window(geom: Any, pads: list[int]) -> dict[str, Any]:
    return {
        "kernel_shape": [geom.kh, geom.kw],
        "strides": list(geom.stride),
        "dilations": list(geom.dilation),
        "pads": pads,
    }


def _pads(geom: Any) -> list[int]:
    top, bottom, left, right = geom.padding
    return [top, left, bottom, right]


@rule("conv2d")
def _conv2d(g: Graph, x: Value, w: Value, b: Value | None, *, geom: Any, relu: bool = False) -> str:
    y = g.op("Conv", x, w, b, group=geom.groups, **_window(geom, _pads(geom)))
    return g.op("Relu", y) if relu else y


@rule("conv2d_input_grad")
def _conv_transpose2d(g: Graph, x: Value, w: Value, *, geom: Any) -> str:
    """The transposed convolution; ``geom`` is that of the convolution that it transposes."""
    pads = _pads(geom)
    extra = [
        size - ((out - 1) * step - pads[k] - pads[k + 2] + spread * (kernel - 1) + 1)
        for k, (size, out, step, spread, kernel) in enumerate(
            zip((geom.H, geom.W), (geom.out_h, geom.out_w), geom.stride, geom.dilation, (geom.kh, geom.kw), strict=True)
        )
    ]
    return g.op("ConvTranspose", x, w, group=geom.groups, output_padding=extra, **_window(geom, pads))


def _pool_pads(geom: Any) -> list[int]:
    """Padding with which the last window of ceil mode fits in; without ceil mode, what was asked for."""
    pads = _pads(geom)
    for k, (size, out, step, spread, kernel) in enumerate(
        zip((geom.H, geom.W), (geom.out_h, geom.out_w), geom.stride, geom.dilation, (geom.kh, geom.kw), strict=True)
    ):
        needed = (out - 1) * step + spread * (kernel - 1) + 1 - size - pads[k]
        pads[k + 2] = max(pads[k + 2], needed)
    return pads


@rule("max_pool2d")
def _max_pool2d(g: Graph, x: Value, *, geom: Any) -> list[str | None]:
    return [g.op("MaxPool", x, **_window(geom, _pool_pads(geom))), None]


@rule("avg_pool2d")
def _avg_pool2d(g: Graph, x: Value, *, geom: Any, count_include_pad: bool = True) -> str:
    options = _window(geom, _pool_pads(geom))
    del options["dilations"]  # windows of means are never spread, and AveragePool has the attribute since opset 19 only
    y = g.op("AveragePool", x, count_include_pad=int(count_include_pad), **options)
    if not count_include_pad:
        return y
    # In ceil mode the last window may reach past the padding, and that part does not count.
    rows = _counted(geom.out_h, geom.kh, geom.stride[0], geom.padding[0], geom.H + geom.padding[1])
    columns = _counted(geom.out_w, geom.kw, geom.stride[1], geom.padding[2], geom.W + geom.padding[3])
    counted = np.outer(rows, columns)
    window = geom.kh * geom.kw
    return y if (counted == window).all() else g.op("Mul", y, g.array((window / counted).astype(x.dtype)))


def _counted(outputs: int, kernel: int, stride: int, before: int, end: int) -> Any:
    """How much of each window lies before ``end``, where the padding after the image ends."""
    return np.array([min(i * stride - before + kernel, end) - (i * stride - before) for i in range(outputs)])


def _bins(n: int, outputs: int) -> list[tuple[int, int]]:
    """Output i of an adaptive pooling covers floor(i*n/outputs) to ceil((i+1)*n/outputs)."""
    return [(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]


@rule("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(g: Graph, x: Value, *, out_hw: tuple[int, int]) -> str:
    h, w = x.shape[2:]
    if out_hw == (1, 1):
        return g.op("GlobalAveragePool", x)
    if out_hw == (h, w):
        return g.op("Identity", x)
    if h % out_hw[0] == 0 and w % out_hw[1] == 0:
        window = [h // out_hw[0], w // out_hw[1]]
        return g.op("AveragePool", x, kernel_shape=window, strides=window)
    # Windows of unequal size: means along the rows, then along the columns, each a product with a matrix.
    rows, columns = (_mean_matrix(n, outputs, x.dtype) for n, outputs in ((h, out_hw[0]), (w, out_hw[1])))
    return g.op("MatMul", g.op("MatMul", g.array(rows), x), g.array(columns.T.copy()))


def _mean_matrix(n: int, outputs: int, dtype: Any) -> Any:
    matrix = np.zeros((outputs, n), dtype)
    for i, (start, stop) in enumerate(_bins(n, outputs)):
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


@rule("adaptive_max_pool2d")
def _adaptive_max_pool2d(g: Graph, x: Value, *, out_hw: tuple[int, int]) -> list[str | None]:
    name = x.name
    for axis, outputs in zip((2, 3), out_hw, strict=True):
        parts = [
            g.op(
                "ReduceMax",
                g.op("Slice", name, g.ints([start]), g.ints([stop]), g.ints([axis])),
                g.ints([axis]),
                keepdims=1,
            )
            for start, stop in _bins(x.shape[axis], outputs)
        ]
        name = parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=axis)
    return [name, None]


# --------------------------------------------------------------------------------------------------------- normalisation
def _affine(g: Graph, x: Value, w: Value | None, b: Value | None, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Scale and shift, ones and zeros where a layer has none."""
    return w or g.array(np.ones(shape, x.dtype)), b or g.array(np.zeros(shape, x.dtype))


def _per_channel(g: Graph, y: str, w: Value | None, b: Value | None, ndim: int) -> str:
    for kind, t in (("Mul", w), ("Add", b)):
        if t is not None:
            y = g.op(kind, y, g.op("Unsqueeze", t, g.ints(list(range(1, ndim - 1)))) if ndim > 2 else t)
    return y


@rule("batch_norm_inference")
def _batch_norm_inference(
    g: Graph, x: Value, w: Value | None, b: Value | None, mean: Value, var: Value, *, eps: float
) -> str:
    w, b = _affine(g, x, w, b, (x.shape[1],))
    return g.op("BatchNormalization", x, w, b, mean, var, epsilon=float(eps))


@rule("batch_norm_relu_inference")
def _batch_norm_relu_inference(
    g: Graph, x: Value, w: Value | None, b: Value | None, mean: Value, var: Value, residual: Value | None, *, eps: float
) -> str:
    y = _batch_norm_inference(g, x, w, b, mean, var, eps=eps)
    return g.op("Relu", y if residual is None else g.op("Add", y, residual))


@rule("batch_norm")
def _batch_norm(g: Graph, x: Value, w: Value | None, b: Value | None, *, eps: float) -> list[str | None]:
    """With the statistics of the batch: a layer without running ones."""
    axes = g.ints([axis for axis in range(x.ndim) if axis != 1])
    centred = g.op("Sub", x, g.op("ReduceMean", x, axes, keepdims=1))
    var = g.op("ReduceMean", g.op("Mul", centred, centred), axes, keepdims=1)
    y = g.op("Div", centred, g.op("Sqrt", g.op("Add", var, g.scalar(eps, x))))
    return [_per_channel(g, y, w, b, x.ndim), None, None]


@rule("batch_norm_relu")
def _batch_norm_relu(
    g: Graph, x: Value, w: Value | None, b: Value | None, residual: Value | None, *, eps: float
) -> list[str | None]:
    y = _batch_norm(g, x, w, b, eps=eps)[0]
    return [g.op("Relu", y if residual is None else g.op("Add", y, residual)), None, None]


@rule("layer_norm")
def _layer_norm(g: Graph, x: Value, w: Value | None, b: Value | None, *, ndim: int, eps: float) -> list[str | None]:
    w, b = _affine(g, x, w, b, x.shape[x.ndim - ndim :])
    return [g.op("LayerNormalization", x, w, b, axis=-ndim, epsilon=float(eps)), None, None]


@rule("group_norm")
def _group_norm(g: Graph, x: Value, w: Value | None, b: Value | None, *, groups: int, eps: float) -> list[str | None]:
    """An instance norm over (N, groups, the rest): GroupNormalization came with opset 21."""
    flat = g.op("Reshape", x, g.ints([0, groups, -1]))
    ones, zeros = _affine(g, x, None, None, (groups,))
    y = g.reshape(g.op("InstanceNormalization", flat, ones, zeros, epsilon=float(eps)), x.shape)
    return [_per_channel(g, y, w, b, x.ndim), None, None]


@rule("local_response_norm")
def _local_response_norm(g: Graph, x: Value, *, size: int, alpha: float, beta: float, k: float) -> str:
    """ONNX divides alpha by the size, too; runtimes take images and odd sizes only, so the others are spelled out."""
    if x.ndim == 4 and size % 2:
        name: str = g.op("LRN", x, size=size, alpha=float(alpha), beta=float(beta), bias=float(k))
        return name
    n = x.shape[1]
    pads = [0, size // 2] + [0] * (x.ndim - 1) + [(size - 1) // 2] + [0] * (x.ndim - 2)
    padded = g.op("Pad", g.op("Mul", x, x), g.ints(pads), g.scalar(0, x))
    total = g.op("Slice", padded, g.ints([0]), g.ints([n]), g.ints([1]))
    for i in range(1, size):
        total = g.op("Add", total, g.op("Slice", padded, g.ints([i]), g.ints([i + n]), g.ints([1])))
    base = g.op("Add", g.op("Mul", total, g.scalar(alpha / size, x)), g.scalar(k, x))
    y: str = g.op("Div", x, g.op("Pow", base, g.scalar(beta, x)))
    return y
