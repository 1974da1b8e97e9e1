"""Pooling over windows of images."""
from __future__ import annotations

from minidl.autograd.function import Function


class MaxPool2d(Function, verb="max_pool2d"):
    """(the largest element of each window, its flat index into H * W); the first of equals wins and gets the gradient."""
    primary = True

    def forward(self, F, x, *, geom):
        self.geom = geom
        y, self.indices = F.max_pool2d(x, geom=geom)
        return y, self.indices

    def backward(self, F, gy, indices):
        return (F.max_pool2d_grad(gy, indices, geom=self.geom),)


class MaxPool2dGrad(Function, verb="max_pool2d_grad"):
    """gy scattered to the winners."""

    def forward(self, F, gy, indices, *, geom):
        self.geom = geom
        return F.max_pool2d_grad(gy, indices, geom=geom)

    def backward(self, F, gx, indices):
        return F.max_pool2d_take(gx, indices, geom=self.geom), None


class MaxPool2dTake(Function, verb="max_pool2d_take"):
    """x read at the winners."""

    def forward(self, F, x, indices, *, geom):
        self.geom = geom
        return F.max_pool2d_take(x, indices, geom=geom)

    def backward(self, F, gy, indices):
        return F.max_pool2d_grad(gy, indices, geom=self.geom), None


class AvgPool2d(Function, verb="avg_pool2d"):
    """The mean of each window."""

    def forward(self, F, x, *, geom, count_include_pad):
        self.options = {"geom": geom, "count_include_pad": count_include_pad}
        return F.avg_pool2d(x, **self.options)

    def backward(self, F, gy):
        return (F.avg_pool2d_grad(gy, **self.options),)


class AvgPool2dGrad(Function, verb="avg_pool2d_grad"):
    """gy spread over the windows."""

    def forward(self, F, gy, *, geom, count_include_pad):
        self.options = {"geom": geom, "count_include_pad": count_include_pad}
        return F.avg_pool2d_grad(gy, **self.options)

    def backward(self, F, gx):
        return (F.avg_pool2d(gx, **self.options),)


class AdaptiveAvgPool2d(Function, verb="adaptive_avg_pool2d"):
    """Means over windows chosen so that the result has a given size."""

    def forward(self, F, x, *, out_hw):
        self.in_hw = x.shape[2:]
        return F.adaptive_avg_pool2d(x, out_hw=out_hw)

    def backward(self, F, gy):
        return (F.adaptive_avg_pool2d_grad(gy, in_hw=self.in_hw),)


class AdaptiveAvgPool2dGrad(Function, verb="adaptive_avg_pool2d_grad"):
    """gy spread over the windows."""

    def forward(self, F, gy, *, in_hw):
        self.out_hw = gy.shape[2:]
        return F.adaptive_avg_pool2d_grad(gy, in_hw=in_hw)

    def backward(self, F, gx):
        return (F.adaptive_avg_pool2d(gx, out_hw=self.out_hw),)


class AdaptiveMaxPool2d(Function, verb="adaptive_max_pool2d"):
    """(maxima over the windows of adaptive_avg_pool2d, their flat indices into H * W)."""
    primary = True

    def forward(self, F, x, *, out_hw):
        self.in_hw = x.shape[2:]
        y, self.indices = F.adaptive_max_pool2d(x, out_hw=out_hw)
        return y, self.indices

    def backward(self, F, gy, indices):
        return (F.adaptive_max_pool2d_grad(gy, indices, in_hw=self.in_hw),)


class AdaptiveMaxPool2dGrad(Function, verb="adaptive_max_pool2d_grad"):
    """gy scattered to the winners."""

    def forward(self, F, gy, indices, *, in_hw):
        return F.adaptive_max_pool2d_grad(gy, indices, in_hw=in_hw)

    def backward(self, F, gx, indices):
        n, c, h, w = indices.shape
        pixels = F.reshape(gx, shape=(n, c, gx.shape[2] * gx.shape[3]))
        winners = F.gather(pixels, F.reshape(indices, shape=(n, c, h * w)), axis=2)
        return F.reshape(winners, shape=(n, c, h, w)), None
