"""Where a Vision Transformer looks, and that a small one learns."""

import numpy as np
import pytest

import minidl
from minidl import data, models, nn, optim
from minidl.data import transforms as T
from minidl.errors import ConfigError, ShapeError
from minidl.inspect import attention, draw
from tests.models.twins import randomise


def vit(**options):
    return randomise(models.create("vit_tiny_cifar", num_layers=3, hidden_dim=48, num_heads=4, mlp_dim=64, **options))


def test_a_look_is_the_class_tokens_row():
    model = vit().train()
    x = minidl.randn(1, 3, 32, 24)
    look = attention.look(model, x)
    assert look.blocks.shape == (3, 4, 8, 6) and look.rollout.shape == (8, 6)
    with minidl.no_grad():
        maps = model.eval().attention_maps(x)
    np.testing.assert_array_equal(look.blocks.numpy()[1, 2, 5, 4], maps[1].numpy()[0, 2, 0, 1 + 5 * 6 + 4])
    total = look.blocks.numpy().sum((2, 3)) + np.stack([m.numpy()[0, :, 0, 0] for m in maps])
    np.testing.assert_allclose(total, 1, rtol=1e-5)  # float32 sums of 49
    model.train()
    attention.look(model, x.numpy())
    assert model.training and model.encoder.layers[0].training


def test_rollout_is_the_product_of_averaged_maps():
    maps = [nn.functional.softmax(minidl.randn(2, 5, 5).double(), dim=2) for _ in range(3)]
    mixed = [(m.numpy().mean(0) + np.eye(5)) / 2 for m in maps]
    found = attention.rollout(maps).numpy()
    np.testing.assert_allclose(found, mixed[2] @ mixed[1] @ mixed[0], rtol=1e-12)  # float64
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    same = attention.rollout([minidl.eye(4).reshape(1, 4, 4)] * 2)
    np.testing.assert_array_equal(same.numpy(), np.eye(4))


def test_what_has_no_attention():
    with pytest.raises(ConfigError, match="CifarResNet has no attention maps; expected a Vision Transformer"):
        attention.look(models.create("resnet20"), minidl.zeros(1, 3, 32, 32))
    for shape in ((3, 32, 32), (2, 3, 32, 32)):
        with pytest.raises(ShapeError, match="expected one image"):
            attention.look(vit(), minidl.zeros(*shape))


def test_a_look_as_png(tmp_path):
    pytest.importorskip("matplotlib")
    look = attention.look(vit(), minidl.randn(1, 3, 32, 32))
    for channels in (3, 1):
        draw.attention(look, np.zeros((channels, 32, 32), np.uint8), tmp_path / "look.png", block=0, title="a title")
        assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    for block in (3, -4):
        with pytest.raises(ConfigError, match=f"no block {block}; this net has 0 to 2"):
            draw.attention(look, np.zeros((3, 32, 32), np.uint8), tmp_path / "none.png", block)
    assert not (tmp_path / "none.png").exists()


def test_a_small_vision_transformer_learns_shapes():
    """Ten classes of sketched shapes after 70 steps; by chance it would be right in a tenth of the pictures."""
    train, test = (
        data.load("shapes10", split=split, size=size, domain_shift="sketch", clutter=0)
        for split, size in (("train", 2240), ("test", 500))
    )
    prepare = T.Compose([T.ToFloat(), T.Normalize((0.5,) * 3, (0.25,) * 3)])
    model = models.create("vit_tiny_cifar", num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=96)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    for images, labels in data.DataLoader(train, 32, shuffle=True, transform=prepare):
        loss = nn.functional.cross_entropy(model(minidl.from_numpy(images)), minidl.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with minidl.no_grad():
        images, labels = test.batch(range(500))
        found = model.eval()(minidl.from_numpy(prepare(images, None))).argmax(1).numpy()
    # Chance gives 50 of 500 with a deviation of 7; 90 is six deviations away, and 120 are found.
    assert (found == labels).sum() > 90
