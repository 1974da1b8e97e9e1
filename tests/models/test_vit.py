"""Vision Transformer: positions, other image sizes, attention maps, old names in state dicts."""
from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import models, nn
from minidl.errors import ConfigError, ShapeError
from minidl.io import safetensors
from minidl.models.vit import interpolate_positions, sincos_positions
from tests.models.twins import randomise


def tiny(**options):
    model = models.create("vit_tiny_cifar", num_layers=2, hidden_dim=48, mlp_dim=32, **options)
    return randomise(model).eval()


def run(model, x):
    with minidl.no_grad():
        return model(x).numpy()


def test_sincos_is_the_formula():
    positions = sincos_positions(3, 5, 8).numpy()
    assert positions.shape == (1, 16, 8) and positions.dtype == np.float32
    assert not positions[0, 0].any(), "the class token's"
    i, j = 2, 3
    rates = [10_000 ** (-2 * k / 4) for k in range(2)]  # Vaswani's formula for half of the vector
    expected = [f(rate * at) for at in (i, j) for f in (math.sin, math.cos) for rate in rates]
    np.testing.assert_allclose(positions[0, 1 + 5 * i + j], expected, rtol=1e-6)  # float32
    with pytest.raises(ConfigError, match="divisible by 4, got 6"):
        sincos_positions(2, 2, 6)


def test_interpolation_keeps_corners_and_token():
    grid = np.random.default_rng(0).normal(size=(4, 5))
    positions = minidl.tensor(np.concatenate([[7.0], grid.ravel()]).reshape(1, 21, 1))
    new = interpolate_positions(positions, (4, 5), (7, 9)).numpy().ravel()
    assert new[0] == 7
    # Each second point lies on an old one; float64.
    np.testing.assert_allclose(new[1:].reshape(7, 9)[::2, ::2], grid, rtol=1e-12, atol=1e-12)
    assert interpolate_positions(positions, (4, 5), (4, 5)) is positions
    with pytest.raises(ShapeError, match=r"not those of a class token and a grid of 3x4 patches, \(1, 13, dim\)"):
        interpolate_positions(positions, (3, 4), (4, 4))


@pytest.mark.parity
def test_positions_are_interpolated_as_torchvision_does(torch):
    """torchvision.models.vision_transformer.interpolate_embeddings: bicubic, the corners stay the corners."""
    positions = minidl.randn(1, 1 + 14 * 14, 24)
    theirs = torch.from_numpy(positions.numpy())
    grid = theirs[:, 1:].permute(0, 2, 1).reshape(1, 24, 14, 14)
    grid = torch.nn.functional.interpolate(grid, size=(24, 24), mode="bicubic", align_corners=True)
    expected = torch.cat([theirs[:, :1], grid.reshape(1, 24, 24 * 24).permute(0, 2, 1)], dim=1)
    ours = interpolate_positions(positions, (14, 14), (24, 24)).numpy()
    np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-5)  # float32 sums of 16 terms


@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
def test_positions_are_parameters_or_not(positions):
    """And images of other sizes work with each."""
    model = tiny(positions=positions)
    names = dict(model.named_parameters())
    assert ("encoder.pos_embedding" in names) == (positions == "learned")
    assert set(model.state_dict()) == set(names), "sines and cosines are computed, not saved"
    assert run(model, minidl.randn(2, 3, 24, 40)).shape == (2, 10)


def test_position_gradients_flow_through_interpolation():
    model = tiny()
    model(minidl.randn(1, 3, 40, 48)).sum().backward()
    assert model.encoder.pos_embedding.grad.numpy()[0].any(1).all()


def shuffled(x, seed=0):
    """The same 64 patches of 4x4 in another order."""
    patches = x.numpy().reshape(-1, 3, 8, 4, 8, 4).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 64, 3, 4, 4)
    patches = patches[:, np.random.default_rng(seed).permutation(64)]
    return minidl.tensor(patches.reshape(-1, 8, 8, 3, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape(-1, 3, 32, 32))


def test_without_positions_the_order_of_patches_does_not_matter():
    x = minidl.randn(2, 3, 32, 32)
    none, learned, sincos = tiny(positions="none"), tiny(), tiny(positions="sincos")
    # float32: the same terms, summed in another order
    np.testing.assert_allclose(run(none, shuffled(x)), run(none, x), rtol=0, atol=1e-4 * np.abs(run(none, x)).max())
    for model in (learned, sincos):
        assert np.abs(run(model, shuffled(x)) - run(model, x)).max() > 1e-2 * np.abs(run(model, x)).max()


def test_attention_maps():
    model = tiny()
    x = minidl.randn(2, 3, 32, 32)
    before = run(model, x)
    with minidl.no_grad():
        maps = model.attention_maps(x)
    assert [m.shape for m in maps] == [(2, 3, 65, 65)] * 2
    for m in maps:
        np.testing.assert_allclose(m.numpy().sum(-1), 1, rtol=1e-5)  # float32 sums of 65
        assert (m.numpy() >= 0).all()
    np.testing.assert_array_equal(run(model, x), before)


def test_sizes_that_are_no_patches():
    with pytest.raises(ShapeError, match="images of 30x32 cannot be cut into patches of 4x4; resize them to 32x32"):
        tiny()(minidl.ones(1, 3, 30, 32))
    with pytest.raises(ShapeError, match="patches of 16x16"):
        models.create("vit_b_16", image_size=100)
    with pytest.raises(ConfigError, match="positions must be one of learned, sincos, none, got '2d'"):
        models.create("vit_tiny_cifar", positions="2d")


def test_old_names_and_another_image_size(tmp_path):
    """torchvision's files have linear_1 and linear_2; positions of 32x32 pixels are interpolated for 48x40."""
    model = tiny()
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t.numpy()
        for key, t in model.state_dict().items()
    }
    safetensors.save_file(old, tmp_path / "old.safetensors")
    options = {"num_layers": 2, "hidden_dim": 48, "mlp_dim": 32, "weights": tmp_path / "old.safetensors"}
    same = models.create("vit_tiny_cifar", **options).eval()
    x = minidl.randn(1, 3, 32, 32)
    np.testing.assert_array_equal(run(same, x), run(model, x))
    larger = models.create("vit_tiny_cifar", image_size=(48, 40), **options).eval()
    assert larger.encoder.pos_embedding.shape == (1, 1 + 12 * 10, 48)
    x = minidl.randn(1, 3, 48, 40)
    np.testing.assert_allclose(run(larger, x), run(model, x), rtol=1e-6)  # interpolated now or then


def test_counts_by_formula():
    """(patch^2 * 3 + 1) d, a token, positions, blocks of 4 d^2 + 2 d m + ..., a norm and a head."""
    for name, patch, d, m, layers in (("vit_b_16", 16, 768, 3072, 12), ("vit_h_14", 14, 1280, 5120, 32)):
        tokens = (224 // patch) ** 2 + 1
        block = 4 * d * d + 4 * d + 2 * d * m + m + d + 4 * d
        expected = (3 * patch**2 + 1) * d + d + tokens * d + layers * block + 2 * d + (d + 1) * 1000
        with nn.init.shape_only():
            assert sum(p.numel() for p in models.create(name).parameters()) == expected
