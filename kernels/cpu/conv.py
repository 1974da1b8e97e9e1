"""Convolution and its gradients: which kernel computes which shape."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.kernels.cpu import direct, engine, grouped, memory, shallow, winograd, winograd_grad, winograd_shapes
from minidl.kernels.cpu.direct import operand
from minidl.kernels.cpu.dispatch import takes_conv2d, takes_conv2d_input_grad, takes_conv2d_weight_grad, vector
from minidl.kernels.cpu.im2col import col2im, im2col
from minidl.kernels.cpu.layout import channels_first, channels_last
from minidl.kernels.cpu.plans import forward_plan, input_grad_plan

__all__ = ["col2im", "conv2d", "conv2d_input_grad", "conv2d_weight_grad", "im2col"]

FEW_GROUPS = 4                                       # each group of a Winograd convolution is a launch of its own


def _groups(geom: Any) -> Iterator[tuple[int, int, int, int]]:
    """(first input channel, input channels, first output channel, output channels) of each group."""
    c, o = geom.C // geom.groups, geom.O // geom.groups
    for group in range(geom.groups):
        yield group * c, c, group * o, o


def _any_batch(geom: Any) -> Any:
    """The geometry without the size of the batch, so that one plan serves all sizes."""
    return geom._replace(N=0)


def _shape(geom: Any) -> winograd_shapes.Shape:
    top, _, left, _ = geom.padding
    return winograd_shapes.Shape(geom.H, geom.W, top, left, geom.out_h, geom.out_w)


def _transposed_shape(geom: Any) -> winograd_shapes.Shape:
    """The input gradient as a convolution of gy with the filters turned by 180 degrees."""
    top, _, left, _ = geom.padding
    return winograd_shapes.Shape(geom.out_h, geom.out_w, geom.kh - 1 - top, geom.kw - 1 - left, geom.H, geom.W)


@vector("conv2d", takes_conv2d)
def conv2d(x: Any, w: Any, b: Any, geom: Any, precision: str = "fast", relu: bool = False) -> Any:
    y = memory.empty((len(x), geom.out_h, geom.out_w, geom.O))
    if y.size and grouped.suits(geom):
        grouped.convolve(forward_plan(_any_batch(geom)), channels_last(x), np.ascontiguousarray(w), b, y, False)
        if relu:
            np.maximum(y, 0, out=y)
    elif y.size and shallow.suits(geom):
        shallow.convolve(geom._replace(N=len(x)), x, w, b, y, relu)
    elif y.size:
        w, images = np.ascontiguousarray(w), channels_last(x)
        form = winograd_shapes.suits(geom) if precision == "fast" and geom.groups <= FEW_GROUPS else None
        if form:
            for c, inputs, o, outputs in _groups(geom):
                bias = None if b is None else b[o : o + outputs]
                source, target = operand(images, c, inputs), operand(y, o, outputs)
                winograd.convolve(_shape(geom), form, source, w[o : o + outputs], bias, target, False, relu)
        else:
            dense, source = direct.thinned(geom, operand(images, 0, geom.C // geom.groups))
            target = operand(y, 0, geom.O // geom.groups)
            direct.convolve(forward_plan(_any_batch(dense)), source, w, b, target, False, relu, geom.groups)
    return channels_first(y)


@vector("conv2d_input_grad", takes_conv2d_input_grad)
def conv2d_input_grad(gy: Any, w: Any, geom: Any, precision: str = "fast") -> Any:
    gx = memory.empty((len(gy), geom.H, geom.W, geom.C))
    if gx.size and grouped.suits(geom):
        grouped.convolve(input_grad_plan(_any_batch(geom)), channels_last(gy), np.ascontiguousarray(w), None, gx, True)
    elif gx.size:
        w, gradients = np.ascontiguousarray(w), channels_last(gy)
        form = winograd_shapes.suits(geom, transposed=True) if precision == "fast" and geom.groups <= FEW_GROUPS else None
        if form:
            for c, inputs, o, outputs in _groups(geom):
                source, target = operand(gradients, o, outputs), operand(gx, c, inputs)
                winograd.convolve(_transposed_shape(geom), form, source, w[o : o + outputs], None, target, True)
        else:
            source, target = operand(gradients, 0, geom.O // geom.groups), operand(gx, 0, geom.C // geom.groups)
            direct.convolve(input_grad_plan(_any_batch(geom)), source, w, None, target, True, groups=geom.groups)
    return channels_first(gx)


@vector("conv2d_weight_grad", takes_conv2d_weight_grad)
def conv2d_weight_grad(gy: Any, x: Any, geom: Any, precision: str = "fast") -> Any:
    gw = memory.empty((geom.O, geom.C // geom.groups, geom.kh, geom.kw))
    if not gy.size or not x.size:
        gw.fill(0)
    elif grouped.suits(geom):
        grouped.weight_gradient(forward_plan(_any_batch(geom)), channels_last(x), channels_last(gy), gw)
    elif shallow.suits(geom):
        shallow.weight_gradient(geom._replace(N=len(x)), x, channels_last(gy), gw)
    else:
        fast = precision == "fast" and geom.groups <= FEW_GROUPS
        form = winograd_shapes.suits(geom, lanes=engine.host_isa().width) if fast else None
        geom, images, gradients = direct.merged(geom, channels_last(x), channels_last(gy))
        if form:
            for c, inputs, o, outputs in _groups(geom):
                source, gradient = operand(images, c, inputs), operand(gradients, o, outputs)
                winograd_grad.weight_gradient(_shape(geom), form, source, gradient, gw[o : o + outputs])
        else:
            dense, source = direct.thinned(geom, operand(images, 0, geom.C // geom.groups))
            gradient = operand(gradients, 0, geom.O // geom.groups)
            direct.weight_gradient(forward_plan(_any_batch(dense)), source, gradient, gw, geom.groups)
    return gw
