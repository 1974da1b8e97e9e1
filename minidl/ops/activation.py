"""Activation functions.  The gradient at a kink is that of the left side, as in PyTorch."""
from __future__ import annotations

import math

from minidl.autograd.function import Function, Unary, composite


class Relu(Unary, verb="relu"):
    """max(x, 0).  Gradient at 0, and where x is NaN: 0.  (PyTorch lets it pass where x is NaN.)"""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.relu_grad(gy, y),)


@composite("relu_grad")
def relu_grad(F, gy, y):
    return F.masked_fill(gy, F.logical_not(F.gt(y, 0.0)), value=0.0)


class LeakyRelu(Function, verb="leaky_relu"):
    """x where x > 0, else slope * x.  Gradient at 0: slope (Maas et al. 2013)."""

    def forward(self, F, x, *, slope):
        self.slope = slope
        return F.leaky_relu(x, slope=slope)

    def backward(self, F, gy, x):
        return (F.where(F.gt(x, 0.0), gy, F.mul(gy, self.slope)),)


class Elu(Function, verb="elu"):
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2016)."""

    def forward(self, F, x, *, alpha):
        self.alpha = alpha
        return F.elu(x, alpha=alpha)

    def backward(self, F, gy, x):
        negative = F.mul(F.exp(F.minimum(x, F.zeros_like(x))), self.alpha)
        return (F.where(F.gt(x, 0.0), gy, F.mul(gy, negative)),)


class Gelu(Function, verb="gelu"):
    """x * Phi(x), Phi the normal distribution's; approximate="tanh" for the approximation (Hendrycks & Gimpel 2016)."""

    def forward(self, F, x, *, approximate):
        self.approximate = approximate
        return F.gelu(x, approximate=approximate)

    def backward(self, F, gy, x):
        return (F.gelu_grad(gy, x, approximate=self.approximate),)


@composite("gelu_grad")
def gelu_grad(F, gy, x, *, approximate):
    if approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        square = F.square(x)
        t = F.tanh(F.mul(F.mul(x, F.add(F.mul(square, 0.044715), 1.0)), c))
        slope = F.mul(F.add(F.mul(square, 3 * 0.044715), 1.0), c)
        curve = F.mul(F.mul(x, F.sub(1.0, F.square(t))), slope)
        return F.mul(gy, F.mul(F.add(F.add(t, 1.0), curve), 0.5))
    cdf = F.mul(F.add(F.erf(F.mul(x, math.sqrt(0.5))), 1.0), 0.5)
    pdf = F.mul(F.exp(F.mul(F.square(x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return F.mul(gy, F.add(cdf, F.mul(x, pdf)))


class Silu(Function, verb="silu"):
    """x * sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118)."""

    def forward(self, F, x):
        return F.silu(x)

    def backward(self, F, gy, x):
        return (F.silu_grad(gy, x),)


@composite("silu_grad")
def silu_grad(F, gy, x):
    s = F.sigmoid(x)
    return F.mul(F.mul(gy, s), F.add(F.mul(x, F.sub(1.0, s)), 1.0))


class Sigmoid(Unary, verb="sigmoid"):
    """1 / (1 + exp(-x))."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.sigmoid_grad(gy, y),)


@composite("sigmoid_grad")
def sigmoid_grad(F, gy, y):
    return F.mul(gy, F.mul(y, F.sub(1.0, y)))


class Tanh(Unary, verb="tanh"):
    """The hyperbolic tangent."""
    __slots__ = ()

    def backward(self, F, gy, y):
        return (F.tanh_grad(gy, y),)


@composite("tanh_grad")
def tanh_grad(F, gy, y):
    return F.mul(gy, F.sub(1.0, F.square(y)))


class Softplus(Function, verb="softplus"):
    """log(1 + exp(beta x)) / beta, and x itself where beta x > threshold."""

    def forward(self, F, x, *, beta, threshold):
        self.beta, self.threshold = beta, threshold
        return F.softplus(x, beta=beta, threshold=threshold)

    def backward(self, F, gy, x):
        scaled = F.mul(x, self.beta)
        return (F.where(F.gt(scaled, self.threshold), gy, F.mul(gy, F.sigmoid(scaled))),)


relu, sigmoid, tanh = Relu.apply, Sigmoid.apply, Tanh.apply
