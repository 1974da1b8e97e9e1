"""Gradient clipping, flat vectors, folding of batch norm."""
from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import ConfigError, NumericsError, ShapeError
from minidl.nn import utils


def parameters(lib, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for shape in ((3, 4), (5,), ()):
        p = lib.tensor(rng.normal(size=shape), requires_grad=True)
        p.grad = lib.tensor(rng.normal(size=shape))
        made.append(p)
    return [*made, lib.tensor([1.0], requires_grad=True)]


@pytest.mark.parity
@pytest.mark.parametrize("max_norm", [0.1, 100.0])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
def test_clip_grad_norm_as_torch(torch, max_norm, norm_type):
    ours, theirs = parameters(minidl), parameters(torch)
    a = utils.clip_grad_norm_(ours, max_norm, norm_type)
    b = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    np.testing.assert_allclose(a.item(), b.item(), 1e-12)  # float64, another order of addition
    for p, q in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-12)
    assert ours[-1].grad is None


@pytest.mark.parity
def test_clip_grad_value_as_torch(torch):
    ours, theirs = parameters(minidl), parameters(torch)
    utils.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for p, q in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_clipping_a_gradient_that_is_not_finite():
    p = nn.Parameter(minidl.ones(2))
    p.grad = minidl.tensor([math.nan, 1.0])
    with pytest.raises(NumericsError, match="norm of the gradients is nan"):
        utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    assert math.isnan(utils.clip_grad_norm_([p], 1.0).item())
    assert utils.clip_grad_norm_([], 1.0).item() == 0


def test_clipping_bounds_that_make_no_sense():
    p = nn.Parameter(minidl.ones(2))
    for max_norm, norm_type in ((-1.0, 2.0), (math.nan, 2.0), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="max_norm must be at least 0 and norm_type above 0"):
            utils.clip_grad_norm_([p], max_norm, norm_type)
    with pytest.raises(ConfigError, match="clip_value must be at least 0, found -0.1"):
        utils.clip_grad_value_([p], -0.1)


def test_parameters_to_vector_and_back():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    vec = utils.parameters_to_vector(net.parameters())
    assert vec.shape == (14,) and vec.requires_grad
    utils.vector_to_parameters(minidl.arange(14), net.parameters())
    assert utils.parameters_to_vector(net.parameters()).tolist() == list(range(14))
    with pytest.raises(ShapeError, match="hold 14 values"):
        utils.vector_to_parameters(minidl.zeros(3), net.parameters())


@pytest.mark.parametrize("bias, affine", [(True, True), (False, True), (True, False), (False, False)])
def test_fuse_conv_bn(bias, affine):
    conv, bn = nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)
    net = nn.Sequential(conv, bn)
    for _ in range(3):
        net(minidl.randn(4, 3, 6, 6) * 2 + 1)
    if affine:
        nn.init.uniform_(bn.weight, 0.5, 2)
        nn.init.normal_(bn.bias)
    with pytest.raises(ConfigError, match="evaluation mode"):
        utils.fuse_conv_bn_eval(conv, bn)
    net.eval()
    x = minidl.randn(2, 3, 6, 6)
    fused = utils.fuse_conv_bn_eval(conv, bn)
    np.testing.assert_allclose(fused(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-5, atol=1e-5)  # float32, sums of 27
    assert fused.weight is not conv.weight and fused.bias.requires_grad


def test_fuse_conv_bn_refuses():
    conv = nn.Conv2d(3, 4, 3).eval()
    with pytest.raises(ConfigError, match="no running statistics"):
        utils.fuse_conv_bn_eval(conv, nn.BatchNorm2d(4, track_running_stats=False).eval())
    with pytest.raises(ShapeError, match="5 features do not follow 4"):
        utils.fuse_conv_bn_eval(conv, nn.BatchNorm2d(5).eval())
