"""Normalisation.

The forward pass is one fused kernel, and so is the backward pass of arrays.  When the backward pass is recorded, its formula
in other verbs runs instead, from the input alone: mean and inverse deviation are computed again there, because a kept
number could not tell how it depends on x.
"""
from __future__ import annotations

from minidl.autograd.function import Function, composite


def _normalise(F, x, axis, eps):
    """(x - mean) / sqrt(var + eps) over axes, and 1 / sqrt(var + eps), in verbs."""
    centred = F.sub(x, F.mean(x, axis=axis, keepdims=True))
    invstd = F.rsqrt(F.add(F.mean(F.square(centred), axis=axis, keepdims=True), eps))
    return F.mul(centred, invstd), invstd


def _grad(F, g, xhat, invstd, axis):
    """The gradient of the normalised input: g less what its mean, and its projection on xhat, would change."""
    mean = F.mean(g, axis=axis, keepdims=True)
    projection = F.mean(F.mul(g, xhat), axis=axis, keepdims=True)
    return F.mul(invstd, F.sub(F.sub(g, mean), F.mul(xhat, projection)))


class BatchNorm(Function, verb="batch_norm"):
    """(y, mean, 1 / sqrt(var + eps)) over all axes but the second (Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1).

    The statistics are for the running averages; no gradient flows through them.
    """
    primary = True
    may_be_wide = ("w", "b")

    def forward(self, F, x, w, b, *, eps):
        self.eps = eps
        y, self.mean, self.invstd = F.batch_norm(x, w, b, eps=eps)
        return y, self.mean, self.invstd

    def backward(self, F, gy, x, w, mean, invstd):
        gx, gw, gb = F.batch_norm_grad(gy, x, w, mean, invstd, eps=self.eps)
        return gx, self.needs[1] and gw, self.needs[2] and gb


@composite("batch_norm_grad")
def batch_norm_grad(F, gy, x, w, mean, invstd, *, eps):
    axis = (0, *range(2, len(x.shape)))
    channels = (1, -1) + (1,) * (len(x.shape) - 2)
    xhat, invstd = _normalise(F, x, axis, eps)
    g = gy if w is None else F.mul(gy, F.reshape(w, shape=_known(channels, x.shape[1])))
    gx, gw, gb = _grad(F, g, xhat, invstd, axis), F.sum(F.mul(gy, xhat), axis=axis), F.sum(gy, axis=axis)
    if w is None or w.dtype == x.dtype:
        return gx, gw, gb
    return F.astype(gx, dtype=x.dtype), F.astype(gw, dtype=w.dtype), F.astype(gb, dtype=w.dtype)


class BatchNormRelu(Function, verb="batch_norm_relu"):
    """(max(batch_norm(x) + residual, 0), mean, 1 / sqrt(var + eps)): what a residual block does, without arrays in between."""
    primary = True
    may_be_wide = ("w", "b")

    def forward(self, F, x, w, b, residual, *, eps):
        self.eps = eps
        self.result, self.mean, self.invstd = F.batch_norm_relu(x, w, b, residual, eps=eps)
        return self.result, self.mean, self.invstd

    def backward(self, F, gy, x, w, b, result, mean, invstd):
        residual = bool(self.needs[3])
        gx, gw, gb, *g = F.batch_norm_relu_grad(gy, x, w, b, result, mean, invstd, eps=self.eps, residual=residual)
        return gx, self.needs[1] and gw, self.needs[2] and gb, g[0] if g else None


@composite("batch_norm_relu_grad")
def batch_norm_relu_grad(F, gy, x, w, b, y, mean, invstd, *, eps, residual):
    g = F.relu_grad(gy, y)
    grads = F.batch_norm_grad(g, x, w, mean, invstd, eps=eps)
    return (*grads, g) if residual else grads


def _known(shape, n):
    return tuple(n if s == -1 else s for s in shape)


class BatchNormInference(Function, verb="batch_norm_inference"):
    """(x - mean) / sqrt(var + eps) * w + b with the running statistics, which are constants."""
    may_be_wide = ("w", "b", "mean", "var")

    def forward(self, F, x, w, b, mean, var, *, eps):
        self.eps = eps
        return F.batch_norm_inference(x, w, b, mean, var, eps=eps)

    def backward(self, F, gy, x, w, mean, var):
        return (*_inference_grad(self, F, gy, x, w, mean, var), None, None)


def _inference_grad(self, F, gy, x, w, mean, var):
    axis = (0, *range(2, len(x.shape)))
    channels = _known((1, -1) + (1,) * (len(x.shape) - 2), x.shape[1])
    invstd = F.reshape(F.rsqrt(F.add(var, self.eps)), shape=channels)
    g = gy if w is None else F.mul(gy, F.reshape(w, shape=channels))
    xhat = self.needs[1] and F.mul(F.sub(x, F.reshape(mean, shape=channels)), invstd)
    gx, gb = self.needs[0] and F.mul(g, invstd), self.needs[2] and F.channel_sum(gy)
    if var.dtype != x.dtype:                         # float32 parameters beside 16-bit images
        gx, gb = self.needs[0] and F.astype(gx, dtype=x.dtype), self.needs[2] and F.astype(gb, dtype=var.dtype)
    return gx, self.needs[1] and F.sum(F.mul(gy, xhat), axis=axis), gb


class BatchNormReluInference(Function, verb="batch_norm_relu_inference"):
    """max(batch_norm_inference(x) + residual, 0), without arrays in between."""
    may_be_wide = ("w", "b", "mean", "var")

    def forward(self, F, x, w, b, mean, var, residual, *, eps):
        self.eps = eps
        return F.batch_norm_relu_inference(x, w, b, mean, var, residual, eps=eps)

    def backward(self, F, gy, x, w, mean, var, y):
        g = F.relu_grad(gy, y)
        return (*_inference_grad(self, F, g, x, w, mean, var), None, None, self.needs[5] and g)


class LayerNorm(Function, verb="layer_norm"):
    """Normalised over the last ``ndim`` axes (Ba et al. 2016, arXiv:1607.06450)."""

    def forward(self, F, x, w, b, *, ndim, eps):
        self.ndim, self.eps = ndim, eps
        y, self.mean, self.invstd = F.layer_norm(x, w, b, ndim=ndim, eps=eps)
        return y

    def backward(self, F, gy, x, w, mean, invstd):
        gx, gw, gb = F.layer_norm_grad(gy, x, w, mean, invstd, ndim=self.ndim, eps=self.eps)
        return gx, self.needs[1] and gw, self.needs[2] and gb


@composite("layer_norm_grad")
def layer_norm_grad(F, gy, x, w, mean, invstd, *, ndim, eps):
    n = len(x.shape)
    axis, outer = tuple(range(n - ndim, n)), tuple(range(n - ndim))
    xhat, invstd = _normalise(F, x, axis, eps)
    gx = _grad(F, gy if w is None else F.mul(gy, w), xhat, invstd, axis)
    if not outer:
        return gx, F.mul(gy, xhat), gy
    return gx, F.sum(F.mul(gy, xhat), axis=outer), F.sum(gy, axis=outer)


class GroupNorm(Function, verb="group_norm"):
    """Normalised over groups of channels of each sample (Wu & He 2018, arXiv:1803.08494)."""

    def forward(self, F, x, w, b, *, groups, eps):
        self.groups, self.eps = groups, eps
        y, self.mean, self.invstd = F.group_norm(x, w, b, groups=groups, eps=eps)
        return y

    def backward(self, F, gy, x, w, mean, invstd):
        gx, gw, gb = F.group_norm_grad(gy, x, w, mean, invstd, groups=self.groups, eps=self.eps)
        return gx, self.needs[1] and gw, self.needs[2] and gb


@composite("group_norm_grad")
def group_norm_grad(F, gy, x, w, mean, invstd, *, groups, eps):
    shape, n = x.shape, len(x.shape)
    grouped = (shape[0], groups, shape[1] // groups, *shape[2:])
    axis = tuple(range(2, n + 1))
    xhat, invstd = _normalise(F, F.reshape(x, shape=grouped), axis, eps)
    g = gy if w is None else F.mul(gy, F.reshape(w, shape=(1, shape[1]) + (1,) * (n - 2)))
    gx = F.reshape(_grad(F, F.reshape(g, shape=grouped), xhat, invstd, axis), shape=shape)
    rest = (0, *range(2, n))
    return gx, F.sum(F.mul(gy, F.reshape(xhat, shape=shape)), axis=rest), F.sum(gy, axis=rest)


class LocalResponseNorm(Function, verb="local_response_norm"):
    """x / (k + alpha / size * sum of x^2 over neighbouring channels) ^ beta (Krizhevsky et al. 2012, section 3.3)."""

    def forward(self, F, x, *, size, alpha, beta, k):
        self.options = {"size": size, "alpha": alpha, "beta": beta, "k": k}
        return F.local_response_norm(x, **self.options)

    def backward(self, F, gy, x):
        return (F.local_response_norm_grad(gy, x, **self.options),)


@composite("local_response_norm_grad")
def local_response_norm_grad(F, gy, x, *, size, alpha, beta, k):
    # A channel's window reaches size//2 back and (size-1)//2 ahead; the gradient gathers over the mirrored window.
    back, ahead = size // 2, (size - 1) // 2
    base = F.add(F.mul(_window_sum(F, F.square(x), back, ahead), alpha / size), float(k))
    scale = F.pow_scalar(base, exponent=-beta)
    inner = F.mul(F.mul(gy, x), F.div(scale, base))
    return F.sub(F.mul(gy, scale), F.mul(F.mul(x, _window_sum(F, inner, ahead, back)), 2 * alpha * beta / size))


def _window_sum(F, x, back, ahead):
    """The sum over channels c - back .. c + ahead."""
    n = x.shape[1]
    widths = [(0, 0), (back, ahead)] + [(0, 0)] * (len(x.shape) - 2)
    padded = F.pad(x, widths=widths, value=0.0)
    total = F.getitem(padded, index=(slice(None), slice(0, n)))
    for i in range(1, back + ahead + 1):
        total = F.add(total, F.getitem(padded, index=(slice(None), slice(i, i + n))))
    return total
