"""MultiheadAttention against torch's and against loops; the encoder built from it."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import ConfigError, ShapeError

RTOL, ATOL = 1e-9, 1e-11  # float64: what is left is the order of the additions


def pair(torch, *args, **options):
    theirs, ours = torch.nn.MultiheadAttention(*args, **options).double(), nn.MultiheadAttention(*args, **options).double()
    rng = np.random.default_rng(1)
    for p in theirs.parameters():
        p.data = torch.tensor(rng.normal(size=p.shape) * 0.3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def masks(n, heads, length, keys):
    rng = np.random.default_rng(2)
    square = rng.random((length, keys)) < 0.3
    square[:, 0] = False  # every query sees something
    padding = np.zeros((n, keys), bool)
    padding[0, -1] = True
    return {
        "none": {},
        "bool": {"attn_mask": square},
        "float": {"attn_mask": rng.normal(size=(length, keys))},
        "per-head": {"attn_mask": np.broadcast_to(square, (n * heads, length, keys)).copy()},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": square, "key_padding_mask": padding},
    }


@pytest.mark.parity
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "per-head", "padding", "both"])
def test_as_torch(torch, mask, batch_first, need_weights):
    ours, theirs = pair(torch, 8, 2, batch_first=batch_first)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 8))
    x = x if batch_first else x.transpose(1, 0, 2)
    given = masks(3, 2, 5, 5)[mask]

    def run(lib, layer):
        t = lib.tensor(x, requires_grad=True)
        masks = {k: lib.tensor(v) for k, v in given.items()}
        y, w = layer(t, t, t, need_weights=need_weights, average_attn_weights=False, **masks)
        (y * y).sum().backward()
        return [y.detach().numpy(), t.grad.numpy(), *(p.grad.numpy() for p in layer.parameters()), w]

    a, b = run(minidl, ours), run(torch, theirs)
    for u, v in zip(a[:-1], b[:-1], strict=True):
        np.testing.assert_allclose(u, v, RTOL, ATOL)
    assert (a[-1] is None) == (b[-1] is None) == (not need_weights)
    if need_weights:
        np.testing.assert_allclose(a[-1].detach().numpy(), b[-1].detach().numpy(), RTOL, ATOL)


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 7}, {"bias": False}])
def test_cross_attention_and_unbatched(torch, options):
    ours, theirs = pair(torch, 8, 4, batch_first=True, **options)
    rng = np.random.default_rng(0)
    shapes = (2, 5, 8), (2, 4, options.get("kdim", 8)), (2, 4, options.get("vdim", 8))
    arrays = [rng.normal(size=s) for s in shapes]
    for cut in (slice(None), 0):
        y, w = ours(*(minidl.tensor(a[cut]) for a in arrays))
        z, v = theirs(*(torch.tensor(a[cut]) for a in arrays))
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), RTOL, ATOL)
        np.testing.assert_allclose(w.detach().numpy(), v.detach().numpy(), RTOL, ATOL)


def test_equals_loops_and_rows_sum_to_one():
    e, heads, length = 6, 2, 4
    layer = nn.MultiheadAttention(e, heads, batch_first=True).double()
    x = np.random.default_rng(0).normal(size=(1, length, e))
    y, w = layer(*[minidl.tensor(x)] * 3, average_attn_weights=False)
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    q, k, v = (x[0] @ state["in_proj_weight"][i * e:(i + 1) * e].T for i in range(3))
    d, out = e // heads, np.zeros((length, e))
    for h in range(heads):
        for i in range(length):
            scores = np.array([np.dot(q[i, h * d:(h + 1) * d], k[j, h * d:(h + 1) * d]) / np.sqrt(d) for j in range(length)])
            weights = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(w.detach().numpy()[0, h, i], weights, RTOL)
            out[i, h * d:(h + 1) * d] = sum(weights[j] * v[j, h * d:(h + 1) * d] for j in range(length))
    np.testing.assert_allclose(y.detach().numpy()[0], out @ state["out_proj.weight"].T + state["out_proj.bias"], RTOL, ATOL)
    np.testing.assert_allclose(w.sum(-1).detach().numpy(), 1, RTOL)


def test_permuting_the_inputs_permutes_the_outputs():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    x = np.random.default_rng(0).normal(size=(1, 5, 8))
    order = [3, 0, 4, 1, 2]
    y, z = layer(minidl.tensor(x)), layer(minidl.tensor(x[:, order]))
    np.testing.assert_allclose(y.detach().numpy()[:, order], z.detach().numpy(), RTOL, ATOL)


def test_is_causal_hides_the_future():
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    x = minidl.randn(1, 5, 4)
    _, w = layer(x, x, x, is_causal=True)
    assert float(abs(np.triu(w.detach().numpy()[0], 1)).max()) == 0
    y, _ = layer(x, x, x, is_causal=True, need_weights=False)
    first, _ = layer(x[:, :2], x[:, :2], x[:, :2], is_causal=True, need_weights=False)
    # float32, sums of 4
    np.testing.assert_allclose(y.detach().numpy()[:, :2], first.detach().numpy(), 1e-4, 1e-6)


def test_dropout_of_weights_only_in_training():
    layer = nn.MultiheadAttention(4, 2, dropout=0.9, batch_first=True)
    x = minidl.randn(1, 5, 4)
    for need in (True, False):
        a, b = (layer(x, x, x, need_weights=need)[0].detach().numpy() for _ in range(2))
        assert not np.array_equal(a, b)
    layer.eval()
    a, b = (layer(x, x, x)[0].detach().numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_encoder_stacks_copies_with_weights_of_their_own():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, nn.LayerNorm(4))
    assert encoder.layers[0].linear1.weight is not encoder.layers[1].linear1.weight
    assert encoder(minidl.randn(3, 1, 4)).shape == (3, 1, 4)
    assert "layers.1.self_attn.in_proj_weight" in encoder.state_dict() and "norm.bias" in encoder.state_dict()


def test_errors():
    with pytest.raises(ConfigError, match="num_heads=3 must divide embed_dim=8"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(ConfigError, match="activation must be 'relu', 'gelu'"):
        nn.TransformerEncoderLayer(8, 2, activation="tanh")
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = minidl.randn(2, 3, 8)
    with pytest.raises(ShapeError, match=r"attn_mask has shape \(2, 2\); expected \(3, 3\) or \(4, 3, 3\)"):
        layer(x, x, x, attn_mask=minidl.zeros(2, 2))
    with pytest.raises(ShapeError, match=r"key_padding_mask has shape \(3, 3\); expected \(2, 3\)"):
        layer(x, x, x, key_padding_mask=minidl.zeros(3, 3))
    with pytest.raises(ShapeError, match="all have 3 axes"):
        layer(x, x[0], x)
    with pytest.raises(ShapeError, match="numbers of keys differ"):
        layer(x, x, x[:, :2])
