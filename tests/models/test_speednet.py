"""The net of the speed run: its whitening layer, its beginning as an identity, what is frozen, parity with PyTorch."""
from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import models, nn
from minidl.errors import ConfigError, ShapeError
from minidl.models.speednet import EPS, Block, covariance
from tests.models.twins import Twins, randomise


def smooth_images(n=200, channels=3, size=12):
    """Neighbouring pixels and channels that are alike, as in photographs."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((n, channels, size + 2, size + 2))
    noise = noise + noise.mean(1, keepdims=True)
    return sum(noise[:, :, u : u + size, v : v + size] for u in range(3) for v in range(3)).astype(np.float32)


def test_the_covariance_is_that_of_all_patches():
    images = smooth_images(n=7, channels=2, size=6)
    patches = np.stack([images[:, :, i : i + 3, j : j + 3].reshape(7, -1) for i in range(4) for j in range(4)]).reshape(-1, 18)
    expected = patches.T.astype(float) @ patches / len(patches)
    found = covariance(minidl.tensor(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())  # float32 sums


def test_prepare_whitens():
    net = models.create("speednet", widths=(16,), filters=54)
    images = smooth_images()
    state = minidl.get_rng_state()
    net.prepare(minidl.tensor(images))
    assert str(minidl.get_rng_state()) == str(state), "prepare must draw no random numbers"
    outputs = net.whiten(minidl.tensor(images)).numpy()[:, :, 1:-1, 1:-1]  # patches of the border have zeros in them
    outputs = outputs.transpose(1, 0, 2, 3).reshape(54, -1).astype(float)
    np.testing.assert_array_equal(outputs[27:], -outputs[:27])
    found = outputs[:27] @ outputs[:27].T / outputs.shape[1]
    eigenvalues = np.linalg.eigvalsh(covariance(minidl.tensor(images)).numpy())[::-1]
    # float32 covariances, whose errors are divided by the smallest eigenvalue, 0.002 of the largest
    np.testing.assert_allclose(found, np.diag(eigenvalues / (eigenvalues + EPS)), atol=0.01)


def test_prepare_takes_the_first_eigenvectors():
    full, few = (models.create("speednet", widths=(16,), filters=filters) for filters in (54, 8))
    for net in (full, few):
        net.prepare(minidl.tensor(smooth_images()))
    np.testing.assert_array_equal(few.whiten.weight.numpy()[:4], full.whiten.weight.numpy()[:4])
    np.testing.assert_array_equal(few.whiten.weight.numpy()[4:], -full.whiten.weight.numpy()[:4])


@pytest.mark.parametrize("shape", [(3, 32, 32), (5, 1, 32, 32), (0, 3, 32, 32), (5, 3, 2, 32)])
def test_prepare_refuses_other_images(shape):
    with pytest.raises(ShapeError, match=r"SpeedNet.prepare: expected images \(N, 3, H, W\) of at least 3x3 pixels"):
        models.create("speednet", widths=(16,)).prepare(minidl.zeros(*shape))


def test_convolutions_begin_as_the_identity():
    block = Block(8, 16, "relu")
    x = minidl.randn(2, 8, 6, 6)
    first = block.conv1(x).detach().numpy()
    exact = {"rtol": 0, "atol": 1e-5}  # Winograd's transforms round
    np.testing.assert_allclose(first[:, :8], x.numpy(), **exact)
    assert first[:, 8:].std() > 0.1, "the other channels are random"
    y = minidl.randn(2, 16, 6, 6)
    np.testing.assert_allclose(block.conv2(y).detach().numpy(), y.numpy(), **exact)
    narrower = Block(16, 8, "relu")
    np.testing.assert_allclose(narrower.conv1(y).detach().numpy(), y.numpy()[:, :8], **exact)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_what_is_trained(activation):
    """The whitening layer and the norms' scales are not; every other parameter has a gradient."""
    net = models.create("speednet", widths=(16, 16), activation=activation)
    nn.functional.cross_entropy(net(minidl.randn(4, 3, 32, 32)), minidl.tensor([0, 1, 2, 3])).backward()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    norms = {f"blocks.{block}.norm{k}.weight" for block in (0, 1) for k in (1, 2)}
    assert frozen == {"whiten.weight"} | norms
    for name, p in net.named_parameters():
        assert (p.grad is None) == (name in frozen), name
        assert name in frozen or np.abs(p.grad.numpy()).max() > 0, name


def test_maps_halve_down_to_one_vector():
    shapes = []
    net = models.create("speednet")
    for module in (net.whiten, *net.blocks, net.pool, net.fc):
        module.register_forward_hook(lambda m, x, y: shapes.append(y.shape[1:]))
    net.eval()(minidl.zeros(0, 3, 32, 32))
    assert shapes == [(32, 32, 32), (64, 16, 16), (256, 8, 8), (256, 4, 4), (256, 1, 1), (10,)]
    wide = models.create("speednet", image_size=(16, 40), widths=(16, 16), num_classes=3)
    assert wide(minidl.randn(2, 3, 16, 40)).shape == (2, 3)


@pytest.mark.parametrize("options, message", [
    ({"activation": "tanh"}, "activation must be one of relu, gelu, got 'tanh'"),
    ({"filters": 7}, "filters must be an even number from 2 to 54, got 7"),
    ({"filters": 20, "in_channels": 1}, "filters must be an even number from 2 to 18, got 20"),
    ({"widths": ()}, "there must be one at least"),
    ({"widths": (8,) * 6}, "images of 32x32 allow 5"),
])  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=f"speednet: .*{message}"):
        models.create("speednet", **options)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_training_gradients_are_torchs(torch, activation):
    """In float64, where nothing hides behind rounding."""
    options = {"widths": (16, 24), "activation": activation}
    model = randomise(models.create("speednet", **options)).double()
    twin = Twins(torch).of(model, "speednet", **options)
    x = minidl.randn(4, 3, 32, 32).double()
    labels = [1, 0, 5, 5]
    ours = nn.functional.cross_entropy(model(x), minidl.tensor(labels), label_smoothing=0.2)
    theirs = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x.numpy())), torch.tensor(labels), label_smoothing=0.2)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    expected = {key: p.grad for key, p in twin.named_parameters()}
    for key, p in model.named_parameters():
        assert (p.grad is None) == (not p.requires_grad)
        if p.grad is not None:
            wanted = expected[key].numpy()
            # float64 rounding, amplified by batch norms
            np.testing.assert_allclose(p.grad.numpy(), wanted, rtol=0, atol=1e-9 * np.abs(wanted).max(), err_msg=key)
