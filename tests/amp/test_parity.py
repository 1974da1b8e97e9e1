"""Beside torch.autocast: which dtype comes out of each function, and what a layer computes."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.parity

# f(library, functional, x, w): x (4, 6) and w (6, 6) are float32.
FUNCTIONS = {
    "linear": lambda t, f, x, w: f.linear(x, w),
    "linear with a bias": lambda t, f, x, w: f.linear(x, w, w[0]),
    "matmul": lambda t, f, x, w: x @ w,
    "mm": lambda t, f, x, w: t.mm(x, w),
    "bmm": lambda t, f, x, w: t.bmm(x.reshape(1, 4, 6), w.reshape(1, 6, 6)),
    "conv2d": lambda t, f, x, w: f.conv2d(x.reshape(1, 1, 4, 6), w.reshape(1, 1, 6, 6)[:, :, :3, :3]),
    "conv_transpose2d": lambda t, f, x, w: f.conv_transpose2d(x.reshape(1, 1, 4, 6), w.reshape(1, 1, 6, 6)),
    "attention": lambda t, f, x, w: f.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]),
    "relu": lambda t, f, x, w: f.relu(x @ w),
    "gelu": lambda t, f, x, w: f.gelu(x @ w),
    "silu": lambda t, f, x, w: f.silu(x @ w),
    "tanh": lambda t, f, x, w: (x @ w).tanh(),
    "sigmoid": lambda t, f, x, w: (x @ w).sigmoid(),
    "add narrow": lambda t, f, x, w: (x @ w) + (x @ w),
    "add wide": lambda t, f, x, w: (x @ w) + x,
    "mul by a number": lambda t, f, x, w: (x @ w) * 2.5,
    "max_pool2d": lambda t, f, x, w: f.max_pool2d((x @ w)[None, None], 2),
    "avg_pool2d": lambda t, f, x, w: f.avg_pool2d((x @ w)[None, None], 2),
    "adaptive_avg_pool2d": lambda t, f, x, w: f.adaptive_avg_pool2d((x @ w)[None, None], 1),
    "mean": lambda t, f, x, w: (x @ w).mean(),
    "amax": lambda t, f, x, w: t.amax(x @ w, 1),
    "reshape": lambda t, f, x, w: (x @ w).reshape(6, 4),
    "cat": lambda t, f, x, w: t.cat([x @ w, x]),
    "stack": lambda t, f, x, w: t.stack([x @ w, x]),
    "prod": lambda t, f, x, w: (x @ w).prod(),
    "mse_loss": lambda t, f, x, w: f.mse_loss(x @ w, x @ w),
    "huber_loss": lambda t, f, x, w: f.huber_loss(x @ w, x @ w),
    "smooth_l1_loss": lambda t, f, x, w: f.smooth_l1_loss(x @ w, x @ w),
    "nll_loss": lambda t, f, x, w: f.nll_loss(x @ w, t.tensor([0, 1, 2, 3])),
    "exp": lambda t, f, x, w: (x @ w).exp(),
    "sum": lambda t, f, x, w: (x @ w).sum(),
    "softmax": lambda t, f, x, w: f.softmax(x @ w, -1),
    "log_softmax": lambda t, f, x, w: f.log_softmax(x @ w, -1),
    "cumsum": lambda t, f, x, w: (x @ w).cumsum(0),
    "norm": lambda t, f, x, w: (x @ w).norm(),
    "pow": lambda t, f, x, w: (x @ w) ** 3,
    "log": lambda t, f, x, w: (x @ w).abs().log(),
    "layer_norm": lambda t, f, x, w: f.layer_norm(x @ w, (6,)),
    "group_norm": lambda t, f, x, w: f.group_norm((x @ w)[:, :, None, None], 2),
    "cross_entropy": lambda t, f, x, w: f.cross_entropy(x @ w, t.tensor([0, 1, 2, 3])),
    "bce_with_logits": lambda t, f, x, w: f.binary_cross_entropy_with_logits(x @ w, x.sigmoid()),
}
# torch.autocast has two lists: for "cpu" these keep 16 bits, for "cuda" they are float32, as here.
AS_ON_CUDA = {
    "exp", "sum", "softmax", "log_softmax", "cumsum", "norm", "pow", "log", "layer_norm", "group_norm",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes(name, torch):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (6, 6)))
    with minidl.autocast("bfloat16"):
        ours = FUNCTIONS[name](minidl, F, minidl.tensor(x), minidl.tensor(w))
    with torch.autocast("cpu", torch.bfloat16):
        theirs = FUNCTIONS[name](torch, torch.nn.functional, torch.tensor(x), torch.tensor(w))
    expected = "float32" if name in AS_ON_CUDA else str(theirs.dtype).removeprefix("torch.")
    assert ours.dtype.name == expected
    # A few roundings to 8 bits, half an ulp of 2^-8 each, of numbers up to ten; a cube has three times that.
    np.testing.assert_allclose(ours.float().numpy(), theirs.float().numpy(), rtol=0.05, atol=0.05)


def test_what_torch_keeps_narrow_on_the_cpu(torch):
    """The exceptions above are exceptions: where PyTorch changes its list, this fails."""
    x, w = torch.randn(4, 6), torch.randn(6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        kept = {name for name in AS_ON_CUDA if FUNCTIONS[name](torch, torch.nn.functional, x, w).dtype != torch.float32}
    assert kept == AS_ON_CUDA


def test_a_block_of_layers(torch):
    """Convolution, batch norm, ReLU, linear: values, gradients and their dtypes, with torch's layers of the same weights."""
    ours = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    t = torch.nn
    theirs = t.Sequential(t.Conv2d(2, 4, 3), t.BatchNorm2d(4), t.ReLU(), t.Flatten(), t.Linear(64, 3))
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    x = np.random.default_rng(1).standard_normal((5, 2, 6, 6)).astype(np.float32)
    labels = [0, 1, 2, 0, 1]
    with minidl.autocast("bfloat16"):
        loss = F.cross_entropy(ours(minidl.tensor(x)), minidl.tensor(labels))
    loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        scores = theirs(torch.tensor(x))
    torch_loss = t.functional.cross_entropy(scores.float(), torch.tensor(labels))
    torch_loss.backward()
    # Both round at the same places, 2^-9 each time, and sums in another order sometimes round to a neighbour.
    assert loss.item() == pytest.approx(torch_loss.item(), rel=0.01)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert p.grad.dtype == np.float32 and q.grad.dtype == torch.float32
        scale = q.grad.abs().max().item()
        if name != "0.bias":  # batch norm takes it out again: its gradient is what rounding leaves of 0
            np.testing.assert_allclose(p.grad.numpy() / scale, q.grad.numpy() / scale, atol=0.04, err_msg=name)
    assert ours[1].running_mean.dtype == np.float32
    np.testing.assert_allclose(ours[1].running_var.numpy(), theirs[1].running_var.numpy(), rtol=0.01)
