"""Lines as people write them for PyTorch: each must mean the same here, options under their names and in their places."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl.nn import functional

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning")]

# x (4, 6) and v (6,) are numbers, i (4,) labels of six classes, im (2, 4, 6, 6) images; t is the library, F its nn.functional.
LINES = """
# Reading, sorting, reducing
x.topk(2, 1, True, True)
x.topk(2, dim=1, largest=True, sorted=True)
t.topk(x, 2, sorted=False)[0].shape
x.topk(2, 1, True, True)[1].t().eq(i.view(1, -1).expand(2, 4))
x.sort(dim=1, descending=True, stable=True)[0]
t.sort(x, 1)[0]
x.argsort(dim=-1, descending=True, stable=True)
x.max(1)[1]
x.max(dim=1, keepdim=True).values
x.sum(dim=(0, 1))
x.sum((0,), keepdim=True, dtype=t.float64)
x.std(unbiased=False)
x.std(0, False)
x.var(dim=1, correction=0)
x.mean([0, 1])
x.norm(p=2, dim=1)
x.norm(2, 1, True)
t.cumprod(v, dim=0)
t.cumsum(v, dim=0)
t.cumsum(x, 1)
t.std_mean(x)
t.var_mean(x, 1)
t.bmm(im[:, 0], im[:, 1])
t.einsum("nchw,nkhw->nck", im, im)
t.einsum("nchw,nkhw->nck", [im, im])
x.index_select(0, t.tensor([2, 0]))
t.where(x > 0)
t.where(x > 0, x, 0.0)
x.where(x > 0, t.zeros_like(x))
x.masked_fill(x > 0, float("-inf"))
x.masked_select(x > 0)
x[x > 0]
x[:, None].shape
x[..., 0]
x[t.tensor([1, 0]), t.tensor([1, 2])]
x[[0, 1]]
x[t.arange(4), i]
im[:, :, ::2, 1::2]
t.nonzero(x > 0, as_tuple=False)
t.nonzero(x > 0, as_tuple=True)
(x > 0).nonzero(as_tuple=True)[0]
t.unique(i, return_counts=True)
i.bincount(minlength=8)
t.scatter(t.zeros(4, 6), 1, i[:, None], 1.0)
x.numpy().sum()
x.tolist()[0][0]
t.clamp(x, max=0.5)
x.softmax(dim=1)
x.softmax(-1)
x.log_softmax(1)
t.softmax(x, 1)
t.log_softmax(x, dim=1)
x.softmax(1, dtype=t.float64)
t.logsumexp(x, 1)
t.maximum(x, v)
t.minimum(x, v)
x.maximum(v)
t.max(x, v)
t.amax(x, (0, 1))
t.amax(x, dim=1, keepdim=True)
t.amin(x, dim=1)
x.argmax()
x.argmax(dim=1)
t.argmax(x, dim=1, keepdim=True)
(x == v).all()
x.isnan().any()
t.isfinite(x).all()
t.any(x > 0, dim=1)
x.prod(1)
t.prod(x, dim=1)
t.kthvalue(v, 2)
[r.shape for r in x][0]

# Making tensors
x.new_empty((2,)).shape
x.new_zeros(2, 3)
x.new_full((2,), 3.0)
t.diag(v)
t.diag(x)
t.tril(t.ones(3, 3))
t.triu(t.ones(3, 3), diagonal=1).bool()
t.triu(t.full((3, 3), float("-inf")), 1)
t.arange(3, device="cpu")
t.arange(0, 1, 0.25)
t.arange(1.0, 4.0)
t.linspace(0, 1, 5)
t.linspace(start=0, end=1, steps=5)
t.eye(3)
t.ones(2, 3, dtype=t.long)
t.zeros((2, 3), device="cpu")
t.randint(0, 1, (3,))
t.randint(1, (3,))
t.randint(low=0, high=1, size=(2,))
t.rand(2, 3, device="cpu").shape
t.randn((2, 3), generator=None).shape
t.tensor(3.5).item()
t.tensor([1, 2], device="cpu")
t.from_numpy(np.ones(2))
t.bernoulli(t.ones(2))

# Shapes
x.view(-1).shape
x.view(2, -1)
x.view((2, 12))
x.view(x.size(0), -1)
x.reshape([24])
t.flatten(im, 1).shape
im.flatten(2).transpose(1, 2).shape
x.narrow(1, 1, 2)
t.broadcast_to(v, (4, 6))
x.mm(x.t())
x.dim()
x.size(-1)
x.element_size()
x.detach().cpu().numpy().shape
t.stack([v, v], dim=1)
t.cat((x, x), dim=-1)
t.cat([x, x], 1)
t.concat([x, x])
t.split(x, 2, dim=1)[1]
t.split(x, [1, 5], 1)[1]
x.chunk(2, dim=1)[0]
x.unbind(0)[1]
t.roll(x, shifts=(1, 2), dims=(0, 1))
t.flip(x, [1])
t.flip(x, dims=(0,))
x.flip(0)
x.repeat(2, 1)
x.repeat((1, 2))
x.expand(2, -1, -1)
x.expand(2, 4, 6)
x.tile((2, 1))
t.tile(x, (2,))
x.permute(1, 0)
t.permute(x, (1, 0))
x.t()
x.T
x.mT
x.transpose(0, 1)
t.transpose(x, 0, 1)
x.swapaxes(0, 1)
x.movedim(0, 1)
t.movedim(im, 1, -1).shape
t.movedim(im, (1, 2), (2, 1)).shape
x.squeeze()
x.unsqueeze(-1)
x[None].squeeze(0)
t.squeeze(x[None], 0)
t.squeeze(x[None], dim=0)
t.unsqueeze(x, dim=1)
x.ravel()
x.data.shape
x.stride()
len(x)
x.nelement()
x.ndimension()
im.moveaxis(1, -1).shape

# In place
x.clone().bernoulli_(1.0)
t.empty(3).bernoulli_(1.0)
t.zeros(4, 6).scatter_(1, i.unsqueeze(1), 1)
t.zeros(4, 6).scatter_(1, i.unsqueeze(1), value=0.9)
t.zeros(4, 6).scatter_(dim=1, index=i.unsqueeze(1), src=t.ones(4, 1))
t.full((4, 6), 0.1).scatter_add_(1, i[:, None], t.ones(4, 1))
x.clone().fill_(1)
x.clone().zero_()
x.clone().clamp_(min=0)
x.clone().mul_(2).add_(x, alpha=0.5)
x.clone().add_(1).div_(3)
x.clone().sub_(x).addcmul_(x, x, value=2)
x.clone().addcdiv_(x, x.abs() + 1, value=-0.1)
x.clone().lerp_(x * 2, 0.1)
x.clone().copy_(v)

# Layers and losses
F.interpolate(im, scale_factor=2, mode="nearest")
F.interpolate(im, size=(3, 3), mode="bilinear", align_corners=False)
F.interpolate(im, size=im.shape[-2:], mode="bilinear")
F.interpolate(im, scale_factor=0.5, mode="area")
F.pad(im, (1, 1, 1, 1))
F.pad(im, [1, 1, 1, 1], mode="reflect")
F.pad(x, (0, 1), value=2.0)
F.avg_pool2d(im, 3, stride=2, padding=1)
F.max_pool2d(im, kernel_size=2, stride=2)
F.adaptive_avg_pool2d(im, (1, 1))
F.adaptive_avg_pool2d(im, 1).flatten(1)
F.cross_entropy(x, i, label_smoothing=0.1)
F.cross_entropy(x, i, reduction="sum")
F.nll_loss(F.log_softmax(x, dim=1), i)
F.mse_loss(x, x)
F.l1_loss(x, x)
F.smooth_l1_loss(x, x)
F.binary_cross_entropy_with_logits(x, t.ones_like(x))
F.kl_div(F.log_softmax(x, 1), F.softmax(x, 1), reduction="batchmean")
F.cosine_similarity(x, x)
F.normalize(x, dim=-1)
F.normalize(x, p=2.0, dim=1)
F.one_hot(i, num_classes=6)
F.softmax(x, dim=-1)
F.gelu(x)
F.gelu(x, approximate="tanh")
F.silu(x)
F.leaky_relu(x, 0.2)
F.elu(x)
F.relu(x, inplace=False)
F.dropout(x, p=0.0, training=True)
F.layer_norm(x, (6,))
F.layer_norm(x, x.shape[1:])
F.group_norm(im, 2)
F.batch_norm(im, None, None, training=True)
F.linear(x, x)
F.conv2d(im, im[:, :, :3, :3], padding="same")
F.unfold(im, 3, padding=1).shape
F.pixel_shuffle(im, 2)
F.scaled_dot_product_attention(im, im, im)
F.embedding(i, x.t())
F.log_softmax(x, -1)

# Everything else, element by element
x @ v
t.matmul(x, v)
x.int()
x.to(device="cpu", dtype=t.float32)
x.float().double().long()
x.type_as(i)
t.nn.functional.one_hot(i, 6)
x.contiguous().is_contiguous()
x.clamp(0, 1)
x.clip(0, 1)
x.abs().sqrt()
x.pow(2)
x ** 2
2 ** x
x.exp().log()
x.sigmoid()
t.sigmoid(x)
x.tanh()
x.relu()
t.relu(x)
t.round(x)
x.sign()
x.neg()
x.reciprocal()
x.rsqrt()
x.floor().long()
x.trunc()
x.fmod(2)
x % 2
x // 2
x.remainder(2)
t.div(x, 2, rounding_mode="floor")
x.true_divide(2)
x.eq(v)
t.allclose(x, x)
t.equal(x, x)
t.isclose(x, x)
(x > 0) & (x < 1)
(x > 0) | (x < 1)
~(x > 0)
(x > 0) ^ (x < 1)
t.logical_and(x > 0, x < 1)
t.logical_not(x > 0)
t.bitwise_and(i, 1)
t.outer(v, v)
t.dot(v, v)
t.atan2(x, x)
t.erf(x)
t.expm1(x)
t.log1p(x.abs())
t.square(x)
t.lerp(x, x, 0.5)
t.is_grad_enabled()
"""
EXPRESSIONS = [line for line in LINES.splitlines() if line and not line.startswith("#")]


def told(value):
    """What a result says, without the library that says it."""
    if hasattr(value, "detach"):
        return value.detach().numpy()
    return [told(v) for v in value] if isinstance(value, (tuple, list)) else value


def same(a, b) -> bool:
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        # float32 numbers of order one, sums of up to 144 products
        return a.shape == b.shape and a.dtype == b.dtype and np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    return type(a) is type(b) and (a == b or isinstance(a, float) and a == pytest.approx(b, rel=1e-5))


@pytest.mark.parametrize("line", EXPRESSIONS)
def test_means_the_same(line, torch):
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(4, 6)).astype(np.float32),
        "v": rng.normal(size=6).astype(np.float32),
        "i": rng.integers(0, 6, 4),
        "im": rng.normal(size=(2, 4, 6, 6)).astype(np.float32),
    }
    results = []
    for t, F in ((minidl, functional), (torch, torch.nn.functional)):
        names = {"t": t, "F": F, "np": np, **{name: t.tensor(array) for name, array in arrays.items()}}
        results.append(told(eval(line, names)))
    assert same(*results), f"{line}: {results[0]}, PyTorch {results[1]}"
