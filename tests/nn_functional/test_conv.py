"""Convolution: what the lectures say about it, and its gradients for drawn strides, paddings, dilations and groups."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from hypothesis import assume, given, settings

import minidl
from minidl.autograd import gradcheck, gradgradcheck
from minidl.errors import DTypeError
from minidl.nn import functional as F
from tests.opdb import images
from tests.strategies import convolutions


def draw(*shape, seed=0, requires_grad=False):
    return minidl.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=requires_grad)


@settings(max_examples=40)
@given(convolutions())
def test_equals_the_loops(case):
    x, w = draw(*case.pop("x")), draw(*case.pop("w"), seed=1)
    expected = images.conv2d(x.numpy(), w.numpy(), None, **case)
    np.testing.assert_allclose(
        F.conv2d(x, w, **case).numpy(), expected, rtol=1e-12, atol=1e-12
    )  # another order of sums


@settings(max_examples=25)
@given(convolutions())
def test_gradients(case):
    """Relative error below 1e-6 in float64, once and twice differentiated."""
    x, w = draw(*case.pop("x"), requires_grad=True), draw(*case.pop("w"), seed=1, requires_grad=True)
    b = draw(w.shape[0], seed=2, requires_grad=True)
    # A convolution is linear in each argument, so a central difference is exact but for rounding; atol is that rounding.
    assert gradcheck(lambda *t: F.conv2d(*t, **case), [x, w, b], eps=1e-3, rtol=1e-6, atol=1e-9)
    if x.numel() + w.numel() <= 40:
        assert gradgradcheck(lambda *t: F.conv2d(*t, **case), [x, w, b])


@settings(max_examples=25)
@given(convolutions())
def test_transpose_is_the_transpose(case):
    """<conv(x, w), y> = <x, conv_transpose(y, w)> where no pixel is left out at the edge."""
    pairs = [images.pair(case[name]) for name in ("padding", "dilation", "stride")]
    assume(
        all(
            (n + 2 * p - d * (k - 1) - 1) % s == 0
            for n, k, p, d, s in zip(case["x"][2:], case["w"][2:], *pairs, strict=True)
        )
    )
    x, w = draw(*case.pop("x")), draw(*case.pop("w"), seed=1)
    y = F.conv2d(x, w, **case)
    gy = draw(*y.shape, seed=2)
    back = F.conv_transpose2d(gy, w, **case)
    assert back.shape == x.shape
    np.testing.assert_allclose(
        (y * gy).sum().item(), (x * back).sum().item(), rtol=1e-10, atol=1e-10
    )  # two sums of up to 1000 terms


def test_cross_correlation_not_convolution():
    """conv2d is scipy's correlate2d; with flipped filters it is convolve2d."""
    x, w = draw(7, 6), draw(3, 2, seed=1)
    y = F.conv2d(x[None, None], w[None, None])[0, 0].numpy()
    np.testing.assert_allclose(y, scipy.signal.correlate2d(x.numpy(), w.numpy(), "valid"), rtol=1e-12)
    flipped = F.conv2d(x[None, None], w.flip(0, 1)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(flipped, scipy.signal.convolve2d(x.numpy(), w.numpy(), "valid"), rtol=1e-12)
    assert not np.allclose(y, flipped)


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_are_convolutions_side_by_side(groups):
    """Bit for bit: each group is computed as the convolution of its channels alone is."""
    x, w, b = draw(2, 6, 5, 5), draw(6, 6 // groups, 3, 3, seed=1), draw(6, seed=2)
    parts = [F.conv2d(*t) for t in zip(x.chunk(groups, 1), w.chunk(groups), b.chunk(groups), strict=True)]
    assert F.conv2d(x, w, b, groups=groups).numpy().tobytes() == minidl.cat(parts, 1).numpy().tobytes()


def test_depthwise():
    x, w = draw(1, 3, 4, 4), draw(6, 1, 3, 3, seed=1)
    y = F.conv2d(x, w, groups=3)
    for o in range(6):
        np.testing.assert_allclose(
            y.numpy()[0, o], scipy.signal.correlate2d(x.numpy()[0, o // 2], w.numpy()[o, 0], "valid"), rtol=1e-12
        )


def test_one_by_one_is_a_linear_layer_per_pixel():
    """64 to 32 channels: 2,048 weights and 32 biases."""
    x, w, b = draw(2, 64, 4, 3), draw(32, 64, 1, 1, seed=1), draw(32, seed=2)
    assert (w.numel(), b.numel()) == (2048, 32)
    per_pixel = F.linear(x.permute(0, 2, 3, 1), w.reshape(32, 64), b).permute(0, 3, 1, 2)
    np.testing.assert_allclose(
        F.conv2d(x, w, b).numpy(), per_pixel.numpy(), rtol=1e-12, atol=1e-12
    )  # sums of 64 products


def test_one_output_is_a_dot_product():
    """6 filters of 3x5x5 on a 3x32x32 image: 6x28x28, each number a 75-dimensional dot product plus a bias."""
    x, w, b = draw(2, 3, 32, 32), draw(6, 3, 5, 5, seed=1), draw(6, seed=2)
    y = F.conv2d(x, w, b)
    assert y.shape == (2, 6, 28, 28) and w[0].numel() == 75
    np.testing.assert_allclose(
        y[1, 4, 10, 20].item(), (x[1, :, 10:15, 20:25] * w[4]).sum().item() + b[4].item(), rtol=1e-12
    )
    assert F.conv2d(x, draw(10, 3, 5, 5), draw(10), padding=2).shape == (2, 10, 32, 32)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_bytes_must_be_converted(dtype):
    """Images straight from a file would otherwise be convolved with weights rounded to integers."""
    images_, w, b = (
        minidl.zeros(1, 3, 8, 8).to(minidl.zeros(1).to(dtype).dtype),
        minidl.zeros(2, 3, 3, 3),
        minidl.zeros(2),
    )
    with pytest.raises(DTypeError, match=rf"conv2d: the input is {dtype}, but another tensor is float32"):
        F.conv2d(images_, w, b)
    with pytest.raises(DTypeError, match=rf"linear: the input is {dtype}"):
        F.linear(images_, minidl.zeros(2, 8))


def test_unfold_times_weights_is_convolution():
    x, w = draw(2, 3, 6, 5), draw(4, 3, 3, 2, seed=1)
    columns = F.unfold(x, (3, 2), padding=1, stride=2)
    y = (w.reshape(4, -1) @ columns).reshape(2, 4, 3, 3)
    np.testing.assert_allclose(y.numpy(), F.conv2d(x, w, padding=1, stride=2).numpy(), rtol=1e-11, atol=1e-12)


def test_fully_connected_net_on_cifar():
    """3072 -> 100 -> 10 has 308,310 parameters with biases and 308,200 without; f = W2 max(0, W1 x)."""
    w1, b1, w2, b2 = draw(100, 3072), draw(100, seed=1), draw(10, 100, seed=2), draw(10, seed=3)
    assert w1.numel() + w2.numel() == 308_200 and sum(t.numel() for t in (w1, b1, w2, b2)) == 308_310
    x = draw(2, 3, 32, 32)
    y = F.linear(F.relu(F.linear(x.flatten(1), w1, b1)), w2, b2)
    flat = x.numpy().reshape(2, -1)
    np.testing.assert_allclose(
        y.numpy(), np.maximum(flat @ w1.numpy().T + b1.numpy(), 0) @ w2.numpy().T + b2.numpy(), rtol=1e-9
    )
    small = [draw(*s, seed=i, requires_grad=True) for i, s in enumerate(((2, 3), (4, 3), (4,), (2, 4), (2,)))]
    assert gradcheck(lambda x, w1, b1, w2, b2: F.linear(F.relu(F.linear(x, w1, b1)), w2, b2), small)
