"""Convolution.  Forward, input gradient and weight gradient close under differentiation: each one's backward is the others."""
from __future__ import annotations

from minidl.autograd.function import Function


class Conv2d(Function, verb="conv2d"):
    """The cross-correlation of a batch of images with filters; see :func:`minidl.nn.functional.conv2d`."""

    def forward(self, F, x, w, b, *, geom, relu=False):
        self.geom = geom
        y = F.conv2d(x, w, b, geom=geom, relu=relu)
        self.rectified = y if relu else None         # where it is 0, so is the gradient
        return y

    def backward(self, F, gy, x, w, rectified):
        if rectified is not None:
            gy = F.relu_grad(gy, rectified)
        return (self.needs[0] and F.conv2d_input_grad(gy, w, geom=self.geom),
                self.needs[1] and F.conv2d_weight_grad(gy, x, geom=self.geom),
                self.needs[2] and F.channel_sum(gy))


class Conv2dInputGrad(Function, verb="conv2d_input_grad"):
    """The transpose of x -> conv2d(x, w): also the transposed convolution."""

    def forward(self, F, gy, w, *, geom):
        self.geom = geom
        return F.conv2d_input_grad(gy, w, geom=geom)

    def backward(self, F, gx, gy, w):
        return (self.needs[0] and F.conv2d(gx, w, None, geom=self.geom),
                self.needs[1] and F.conv2d_weight_grad(gy, gx, geom=self.geom))


class Conv2dWeightGrad(Function, verb="conv2d_weight_grad"):
    """The transpose of w -> conv2d(x, w)."""

    def forward(self, F, gy, x, *, geom):
        self.geom = geom
        return F.conv2d_weight_grad(gy, x, geom=geom)

    def backward(self, F, gw, gy, x):
        return (self.needs[0] and F.conv2d(x, gw, None, geom=self.geom),
                self.needs[1] and F.conv2d_input_grad(gy, gw, geom=self.geom))


class Im2Col(Function, verb="im2col"):
    """Every window of the images as a column."""

    def forward(self, F, x, *, geom):
        self.geom = geom
        return F.im2col(x, geom=geom)

    def backward(self, F, gy):
        return (F.col2im(gy, geom=self.geom),)


class Col2Im(Function, verb="col2im"):
    """The transpose of :class:`Im2Col`: overlapping windows add up."""

    def forward(self, F, cols, *, geom):
        self.geom = geom
        return F.col2im(cols, geom=geom)

    def backward(self, F, gy):
        return (F.im2col(gy, geom=self.geom),)
