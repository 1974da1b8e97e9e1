"""Every layer against torch's: repr, state-dict names and shapes, outputs, gradients, running statistics."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import nn

pytestmark = pytest.mark.parity

# float64 on both sides: what is left is the order of the additions.
RTOL, ATOL = 1e-9, 1e-11

LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "identity": (lambda nn: nn.Identity(3, a=1), (2, 3)),
    "linear": (lambda nn: nn.Linear(5, 3), (4, 5)),
    "linear-nobias-3d": (lambda nn: nn.Linear(5, 3, bias=False), (2, 4, 5)),
    "linear-1d": (lambda nn: nn.Linear(5, 3), (5,)),
    "conv": (lambda nn: nn.Conv2d(3, 6, 5), (2, 3, 9, 8)),
    "conv-tuple": (lambda nn: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (2, 4, 9, 8)),
    "conv-nobias": (lambda nn: nn.Conv2d(3, 4, 1, bias=False), (1, 3, 4, 4)),
    "conv-same": (lambda nn: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (2, 3, 7, 6)),
    "conv-valid": (lambda nn: nn.Conv2d(3, 4, 3, padding="valid"), (2, 3, 7, 6)),
    "conv-depthwise": (lambda nn: nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 5, 5)),
    "conv-reflect": (lambda nn: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 6)),
    "conv-replicate": (lambda nn: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="replicate"), (2, 2, 5, 6)),
    "conv-circular": (lambda nn: nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"), (2, 2, 5, 6)),
    "conv-same-reflect": (lambda nn: nn.Conv2d(2, 3, (4, 3), padding="same", padding_mode="reflect"), (2, 2, 7, 6)),
    "conv-unbatched": (lambda nn: nn.Conv2d(3, 4, 3), (3, 6, 6)),
    "deconv": (lambda nn: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 4)),
    "deconv-groups": (
        lambda nn: nn.ConvTranspose2d(4, 6, (2, 3), stride=(1, 2), groups=2, dilation=(2, 1), bias=False), (2, 4, 5, 4)),
    "maxpool": (lambda nn: nn.MaxPool2d(2), (2, 3, 7, 6)),
    "maxpool-overlap": (lambda nn: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 3, 8, 8)),
    "maxpool-dilated": (lambda nn: nn.MaxPool2d((2, 3), stride=1, dilation=(2, 1)), (2, 3, 7, 6)),
    "avgpool": (lambda nn: nn.AvgPool2d(2), (2, 3, 7, 6)),
    "avgpool-pad": (lambda nn: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 3, 7, 6)),
    "avgpool-ceil": (lambda nn: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 3, 8, 6)),
    "adaptiveavg": (lambda nn: nn.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 5)),
    "adaptiveavg-1": (lambda nn: nn.AdaptiveAvgPool2d(1), (2, 3, 7, 5)),
    "adaptivemax": (lambda nn: nn.AdaptiveMaxPool2d((2, 3)), (2, 3, 7, 5)),
    "batchnorm1d": (lambda nn: nn.BatchNorm1d(4), (6, 4)),
    "batchnorm1d-3d": (lambda nn: nn.BatchNorm1d(4, eps=1e-3, momentum=0.3), (6, 4, 3)),
    "batchnorm2d": (lambda nn: nn.BatchNorm2d(4), (3, 4, 5, 2)),
    "batchnorm2d-cumulative": (lambda nn: nn.BatchNorm2d(4, momentum=None), (3, 4, 5, 2)),
    "batchnorm2d-plain": (lambda nn: nn.BatchNorm2d(4, affine=False, track_running_stats=False), (3, 4, 5, 2)),
    "batchnorm2d-noaffine": (lambda nn: nn.BatchNorm2d(4, affine=False), (3, 4, 5, 2)),
    "batchnorm2d-nobias": (lambda nn: nn.BatchNorm2d(4, bias=False), (3, 4, 5, 2)),
    "instancenorm": (lambda nn: nn.InstanceNorm2d(4), (3, 4, 5, 2)),
    "instancenorm-affine": (lambda nn: nn.InstanceNorm2d(4, affine=True), (3, 4, 5, 2)),
    "layernorm": (lambda nn: nn.LayerNorm(6), (3, 4, 6)),
    "layernorm-2": (lambda nn: nn.LayerNorm((4, 6), eps=1e-3), (3, 4, 6)),
    "layernorm-nobias": (lambda nn: nn.LayerNorm(6, bias=False), (3, 6)),
    "layernorm-plain": (lambda nn: nn.LayerNorm([6], elementwise_affine=False), (3, 6)),
    "groupnorm": (lambda nn: nn.GroupNorm(2, 6), (3, 6, 4, 2)),
    "groupnorm-plain": (lambda nn: nn.GroupNorm(3, 6, affine=False), (3, 6, 4)),
    "lrn": (lambda nn: nn.LocalResponseNorm(5, alpha=5e-2, k=2.0), (2, 8, 3, 4)),
    "lrn-even": (lambda nn: nn.LocalResponseNorm(4, alpha=0.1), (2, 6, 3, 3)),
    "flatten": (lambda nn: nn.Flatten(), (2, 3, 4)),
    "flatten-dims": (lambda nn: nn.Flatten(0, -2), (2, 3, 4)),
    "unflatten": (lambda nn: nn.Unflatten(1, (2, -1)), (3, 8)),
    "zeropad": (lambda nn: nn.ZeroPad2d((1, 2, 0, 1)), (2, 3, 4, 5)),
    "constantpad": (lambda nn: nn.ConstantPad2d(1, 2.5), (2, 3, 4, 5)),
    "reflectionpad": (lambda nn: nn.ReflectionPad2d(2), (2, 3, 4, 5)),
    "replicationpad": (lambda nn: nn.ReplicationPad2d((1, 2, 0, 1)), (2, 3, 4, 5)),
    "circularpad": (lambda nn: nn.CircularPad2d((1, 2, 0, 1)), (2, 3, 4, 5)),
    "rmsnorm": (lambda nn: nn.RMSNorm(6), (3, 4, 6)),
    "rmsnorm-2": (lambda nn: nn.RMSNorm((4, 6), eps=1e-3), (3, 4, 6)),
    "rmsnorm-plain": (lambda nn: nn.RMSNorm([6], elementwise_affine=False), (3, 6)),
    "pixelshuffle": (lambda nn: nn.PixelShuffle(2), (2, 8, 3, 2)),
    "pixelunshuffle": (lambda nn: nn.PixelUnshuffle(2), (2, 2, 4, 6)),
    "channelshuffle": (lambda nn: nn.ChannelShuffle(3), (2, 6, 2, 3)),
    "upsample": (lambda nn: nn.Upsample(scale_factor=2), (2, 3, 4, 5)),
    "upsample-factors": (lambda nn: nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"), (2, 3, 4, 5)),
    "upsample-size": (lambda nn: nn.Upsample(size=(7, 3), mode="bilinear", align_corners=True), (2, 3, 4, 5)),
    "upsample-bicubic": (lambda nn: nn.Upsample(size=6, mode="bicubic"), (2, 3, 4, 5)),
    "relu6": (lambda nn: nn.ReLU6(), (3, 4)),
    "hardtanh": (lambda nn: nn.Hardtanh(-0.5, 0.7), (3, 4)),
    "hardswish": (lambda nn: nn.Hardswish(), (3, 4)),
    "mish": (lambda nn: nn.Mish(), (3, 4)),
    "selu": (lambda nn: nn.SELU(), (3, 4)),
    "prelu": (lambda nn: nn.PReLU(), (3, 4)),
    "prelu-channels": (lambda nn: nn.PReLU(4, init=0.1), (3, 4, 2)),
    "logsigmoid": (lambda nn: nn.LogSigmoid(), (3, 4)),
    "softmin": (lambda nn: nn.Softmin(dim=1), (3, 4)),
    "glu": (lambda nn: nn.GLU(), (3, 4)),
    "relu": (lambda nn: nn.ReLU(), (3, 4)),
    "leakyrelu": (lambda nn: nn.LeakyReLU(0.1), (3, 4)),
    "elu": (lambda nn: nn.ELU(0.5), (3, 4)),
    "gelu": (lambda nn: nn.GELU(), (3, 4)),
    "gelu-tanh": (lambda nn: nn.GELU(approximate="tanh"), (3, 4)),
    "silu": (lambda nn: nn.SiLU(), (3, 4)),
    "sigmoid": (lambda nn: nn.Sigmoid(), (3, 4)),
    "tanh": (lambda nn: nn.Tanh(), (3, 4)),
    "softmax": (lambda nn: nn.Softmax(dim=1), (3, 4)),
    "logsoftmax": (lambda nn: nn.LogSoftmax(dim=-1), (3, 4)),
    "softplus": (lambda nn: nn.Softplus(2, 3), (3, 4)),
    "dropout-0": (lambda nn: nn.Dropout(0.0), (3, 4)),
    "dropout2d-0": (lambda nn: nn.Dropout2d(0.0), (3, 4, 2, 2)),
    "encoder": (lambda nn: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), (5, 3, 8)),
    "encoder-first": (
        lambda nn: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True),
        (3, 5, 8),
    ),
}
NO_REPR = {"encoder", "encoder-first"}  # torch's output projection has a class name of its own


def pair(torch, build):
    """The layer in both libraries, float64, with torch's (unusual) weights."""
    theirs, ours = build(torch.nn).double(), build(nn).double()
    rng = np.random.default_rng(1)
    for p in theirs.parameters():
        p.data = torch.tensor(rng.normal(size=p.shape))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("name", LAYERS)
def test_layer(torch, name):
    build, shape = LAYERS[name]
    ours, theirs = pair(torch, build)
    if name not in NO_REPR:
        assert repr(ours) == repr(theirs)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected) and [state[k].shape for k in state] == [tuple(v.shape) for v in expected.values()]
    rng = np.random.default_rng(0)
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x = rng.normal(size=shape) + 0.1
        a, b = minidl.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        ya, yb = ours(a), theirs(b)
        assert ya.shape == tuple(yb.shape)
        np.testing.assert_allclose(ya.detach().numpy(), yb.detach().numpy(), RTOL, ATOL)
        gy = rng.normal(size=ya.shape)
        ya.backward(minidl.tensor(gy)), yb.backward(torch.tensor(gy))
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), RTOL, ATOL)
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), RTOL, ATOL, err_msg=key)
        for (key, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            np.testing.assert_allclose(p.numpy(), q.numpy(), RTOL, ATOL, err_msg=key)


@pytest.mark.parametrize("name", ["conv", "batchnorm2d", "linear", "encoder"])
def test_torch_loads_our_state(torch, name):
    build, shape = LAYERS[name]
    ours, theirs = build(nn), build(torch.nn)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours.eval(), theirs.eval()
    # float32, sums of up to 75 products
    np.testing.assert_allclose(
        ours(minidl.tensor(x)).detach().numpy(), theirs(torch.tensor(x)).detach().numpy(), 1e-4, 1e-5)


def test_embedding(torch):
    index = np.array([[1, 0, 3], [3, 3, 2]])
    for options in ({}, {"padding_idx": 3}, {"padding_idx": -2}):
        ours, theirs = pair(torch, lambda nn, o=options: nn.Embedding(5, 4, **o))
        assert repr(ours) == repr(theirs)
        y, z = ours(minidl.tensor(index)), theirs(torch.tensor(index))
        np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
        (y * y).sum().backward(), (z * z).sum().backward()
        np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), RTOL, ATOL)
    table = minidl.randn(3, 2)
    frozen = nn.Embedding.from_pretrained(table)
    assert not frozen.weight.requires_grad and frozen(minidl.tensor([2])).tolist() == [table[2].tolist()]


def test_pool_indices(torch):
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6))
    for build in (lambda nn: nn.MaxPool2d(2, return_indices=True), lambda nn: nn.AdaptiveMaxPool2d(2, return_indices=True)):
        (y, i), (z, j) = build(nn)(minidl.tensor(x)), build(torch.nn)(torch.tensor(x))
        np.testing.assert_array_equal(y.numpy(), z.numpy())
        np.testing.assert_array_equal(i.numpy(), j.numpy())


def test_gradient_at_the_kinks(torch):
    """Exact zeros are common under ReLU6 and its kin; the gradient there is PyTorch's."""
    x = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 6.0])
    for build in (lambda nn: nn.ReLU6(), lambda nn: nn.Hardtanh(), lambda nn: nn.Hardsigmoid(), lambda nn: nn.SELU(),
                  lambda nn: nn.PReLU()):
        grads = []
        for lib in (minidl, torch):
            t = lib.tensor(x, requires_grad=True)
            build(lib.nn).double()(t).sum().backward()
            grads.append(t.grad.numpy())
        # PyTorch's gradient of hardsigmoid is 1 / 6 in float32
        np.testing.assert_allclose(*grads, rtol=1e-7, err_msg=str(build(nn)))


@pytest.mark.parametrize("name", ["ReLU6", "Hardtanh", "Hardsigmoid", "Hardswish", "Mish", "SELU"])
def test_inplace(name):
    x = minidl.tensor([-4.0, -0.5, 0.5, 4.0])
    expected = getattr(nn, name)()(x)
    layer = getattr(nn, name)(inplace=True)
    assert layer(x) is x and x.tolist() == expected.tolist()


def test_distances(torch):
    a, b = np.random.default_rng(0).normal(size=(2, 4, 3))
    for build in (lambda nn: nn.CosineSimilarity(), lambda nn: nn.CosineSimilarity(dim=0), lambda nn: nn.PairwiseDistance(),
                  lambda nn: nn.PairwiseDistance(1, keepdim=True)):
        ours, theirs = build(nn), build(torch.nn)
        assert repr(ours) == repr(theirs)
        np.testing.assert_allclose(
            ours(minidl.tensor(a), minidl.tensor(b)).numpy(), theirs(torch.tensor(a), torch.tensor(b)).numpy(), RTOL, ATOL)


def test_deconv_output_size(torch):
    ours, theirs = pair(torch, lambda nn: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1))
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 4))
    for size in ((7, 8), (8, 7)):
        y, z = ours(minidl.tensor(x), output_size=size), theirs(torch.tensor(x), output_size=size)
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), RTOL, ATOL)
    with pytest.raises(minidl.errors.ShapeError, match=r"between \(7, 7\) and \(8, 8\)"):
        ours(minidl.tensor(x), output_size=(9, 8))


WEIGHT = np.array([0.5, 1.0, 2.0, 0.1])
LOSSES: dict[str, tuple[str, dict[str, Any], str]] = {
    "ce": ("CrossEntropyLoss", {}, "classes"),
    "ce-sum": ("CrossEntropyLoss", {"reduction": "sum"}, "classes"),
    "ce-smooth": ("CrossEntropyLoss", {"label_smoothing": 0.1}, "classes"),
    "ce-weight-ignore": ("CrossEntropyLoss", {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}, "classes"),
    "ce-soft": ("CrossEntropyLoss", {"label_smoothing": 0.1, "weight": WEIGHT}, "probabilities"),
    "ce-none": ("CrossEntropyLoss", {"reduction": "none"}, "classes"),
    "nll": ("NLLLoss", {"weight": WEIGHT}, "classes"),
    "nll-ignore": ("NLLLoss", {"ignore_index": 2}, "classes"),
    "mse": ("MSELoss", {}, "same"),
    "mse-none": ("MSELoss", {"reduction": "none"}, "same"),
    "l1": ("L1Loss", {"reduction": "sum"}, "same"),
    "smooth": ("SmoothL1Loss", {"beta": 0.5}, "same"),
    "huber": ("HuberLoss", {"delta": 0.5}, "same"),
    "bcelogits": ("BCEWithLogitsLoss", {}, "probabilities"),
    "bcelogits-weights": ("BCEWithLogitsLoss", {"weight": WEIGHT, "pos_weight": WEIGHT * 2}, "probabilities"),
    "bce": ("BCELoss", {}, "unit"),
    "bce-weight": ("BCELoss", {"weight": WEIGHT, "reduction": "sum"}, "unit"),
    "kl": ("KLDivLoss", {"reduction": "batchmean"}, "probabilities"),
    "kl-log": ("KLDivLoss", {"log_target": True, "reduction": "sum"}, "same"),
    "hinge": ("MultiMarginLoss", {}, "classes"),
    "hinge-2": ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": WEIGHT}, "classes"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss(torch, name):
    kind, options, target = LOSSES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4))
    x = 1 / (1 + np.exp(-x)) if target == "unit" else x
    t = {"classes": np.array([0, 1, 3, 2, 3]), "same": rng.normal(size=(5, 4))}.get(target)
    if t is None:
        t = rng.uniform(size=(5, 4))
        t = t / t.sum(1, keepdims=True)

    def run(lib):
        given = {k: lib.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        loss = getattr(lib.nn, kind)(**given)
        inputs = lib.tensor(x, requires_grad=True)
        y = loss(inputs, lib.tensor(t))
        y.sum().backward()
        return repr(loss), list(loss.state_dict()), y.detach().numpy(), inputs.grad.numpy()

    ours, theirs = run(minidl), run(torch)
    assert ours[:2] == theirs[:2]
    np.testing.assert_allclose(ours[2], theirs[2], RTOL, ATOL)
    np.testing.assert_allclose(ours[3], theirs[3], RTOL, ATOL)
