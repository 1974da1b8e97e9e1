"""Convolution and its gradients: which kernel computes which shape."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.kernels.cpu import direct, memory
from minidl.kernels.cpu.direct import Operand
from minidl.kernels.cpu.dispatch import takes_conv2d, takes_conv2d_input_grad, takes_conv2d_weight_grad, vector
from minidl.kernels.cpu.layout import channels_first, channels_last
from minidl.kernels.cpu.plans import forward_plan, input_grad_plan


def _groups(geom: Any) -> Iterator[tuple[int, int, int, int]]:
    """(first input channel, input channels, first output channel, output channels) of each group."""
    c, o = geom.C // geom.groups, geom.O // geom.groups
    for group in range(geom.groups):
        yield group * c, c, group * o, o


@vector("conv2d", takes_conv2d)
def conv2d(x: Any, w: Any, b: Any, geom: Any, precision: str = "fast") -> Any:
    y = memory.empty((len(x), geom.out_h, geom.out_w, geom.O))
    if y.size:
        w, images = np.ascontiguousarray(w), channels_last(x)
        plan = forward_plan(geom._replace(N=0))      # one plan for every size of the batch
        for c, inputs, o, outputs in _groups(geom):
            bias = None if b is None else b[o : o + outputs]
            direct.convolve(plan, Operand(images, c, inputs), w[o : o + outputs], bias, Operand(y, o, outputs), False)
    return channels_first(y)


@vector("conv2d_input_grad", takes_conv2d_input_grad)
def conv2d_input_grad(gy: Any, w: Any, geom: Any, precision: str = "fast") -> Any:
    gx = memory.empty((len(gy), geom.H, geom.W, geom.C))
    if gx.size:
        w, gradients = np.ascontiguousarray(w), channels_last(gy)
        plan = input_grad_plan(geom._replace(N=0))
        for c, inputs, o, outputs in _groups(geom):
            direct.convolve(plan, Operand(gradients, o, outputs), w[o : o + outputs], None, Operand(gx, c, inputs), True)
    return channels_first(gx)


@vector("conv2d_weight_grad", takes_conv2d_weight_grad)
def conv2d_weight_grad(gy: Any, x: Any, geom: Any, precision: str = "fast") -> Any:
    gw = np.zeros((geom.O, geom.C // geom.groups, geom.kh, geom.kw), np.float32)
    if gy.size and x.size:
        images, gradients = channels_last(x), channels_last(gy)
        plan = forward_plan(geom._replace(N=0))
        for c, inputs, o, outputs in _groups(geom):
            direct.weight_gradient(plan, Operand(images, c, inputs), Operand(gradients, o, outputs), gw[o : o + outputs])
    return gw
