"""What layers do beyond torch, the worked examples of the lectures, and the errors for bad options and inputs."""
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import nn
from minidl.errors import ConfigError, ShapeError


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---- convolution

def test_the_lectures_examples():
    conv = nn.Conv2d(3, 10, 5, stride=1, padding=2)
    assert count(conv) == 760 and conv(minidl.ones(1, 3, 32, 32)).shape == (1, 10, 32, 32)
    assert count(nn.Conv2d(64, 32, 1)) == 64 * 32 + 32
    six = nn.Conv2d(3, 6, 5)
    x = minidl.randn(2, 3, 32, 32)
    y = six(x)
    assert y.shape == (2, 6, 28, 28) and six.bias.shape == (6,)
    patch, kernel = x.numpy()[1, :, 3:8, 4:9], six.weight.detach().numpy()[2]
    assert patch.size == 75
    # float32, a sum of 75 products
    assert abs(float(y[1, 2, 3, 4]) - float((patch * kernel).sum() + six.bias.detach().numpy()[2])) < 1e-5
    assert count(nn.Linear(3072, 10)) == 30_730


def test_strict_names_the_layer_and_a_padding_that_fits():
    x = minidl.ones(1, 1, 7, 7)
    with pytest.raises(ShapeError) as error:
        nn.Conv2d(1, 1, 3, stride=3, strict=True)(x)
    text = str(error.value)
    assert "2.33" in text and "padding=1 -> 3" in text and "Conv2d(1, 1, kernel_size=(3, 3), stride=(3, 3), strict=True)" in text
    assert nn.Conv2d(1, 1, 3, stride=3, padding=1, strict=True)(x).shape == (1, 1, 3, 3)
    assert nn.Conv2d(1, 1, 3, stride=3)(x).shape == (1, 1, 2, 2), "torch's floor is the default"
    with pytest.raises(ShapeError, match="2.33"):
        nn.Conv2d(1, 1, 3, stride=3, strict=True)(x[0])


def test_floor_by_default():
    for n, k, s, p, out in ((56, 3, 2, 0, 27), (224, 11, 4, 2, 55), (224, 7, 2, 3, 112)):
        x = minidl.ones(1, 1, n, k)
        assert nn.Conv2d(1, 1, k, stride=s, padding=(p, 0))(x).shape[2] == out


@given(st.tuples(*[st.integers(0, 3)] * 4), st.sampled_from(["zeros", "replicate"]))
def test_asymmetric_padding(sides, mode):
    top, bottom, left, right = sides
    conv = nn.Conv2d(2, 3, 3, padding=((top, bottom), (left, right)), padding_mode=mode)
    x = minidl.randn(1, 2, 5, 6)
    numpy_mode = {"zeros": "constant", "replicate": "edge"}[mode]
    padded = minidl.tensor(np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), numpy_mode))
    valid = nn.Conv2d(2, 3, 3)
    valid.load_state_dict(conv.state_dict())
    # The same products in the same order, up to how im2col blocks them.
    np.testing.assert_allclose(conv(x).detach().numpy(), valid(padded).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_two_groups_are_two_convolutions():
    both = nn.Conv2d(4, 6, 3, groups=2)
    x = minidl.randn(2, 4, 6, 6)
    halves = []
    for i in range(2):
        half = nn.Conv2d(2, 3, 3)
        half.load_state_dict({"weight": both.weight.detach()[3 * i : 3 * i + 3], "bias": both.bias.detach()[3 * i : 3 * i + 3]})
        halves.append(half(x[:, 2 * i : 2 * i + 2]).detach().numpy())
    np.testing.assert_array_equal(both(x).detach().numpy(), np.concatenate(halves, 1))
    assert nn.Conv2d(4, 8, 3, groups=4).weight.shape == (8, 1, 3, 3)


def test_a_1x1_convolution_is_a_linear_layer_per_pixel():
    conv, linear = nn.Conv2d(5, 3, 1), nn.Linear(5, 3)
    linear.load_state_dict({"weight": conv.weight.detach().reshape(3, 5), "bias": conv.bias.detach()})
    x = minidl.randn(2, 5, 4, 4)
    y = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(conv(x).detach().numpy(), y.detach().numpy(), rtol=1e-5, atol=1e-6)  # float32, sums of 5


# ---- normalisation

def test_batch_norm_in_eval_does_not_depend_on_the_batch():
    bn = nn.BatchNorm2d(3)
    x = minidl.randn(64, 3, 4, 4) * 3 + 1
    bn(x)
    bn.eval()
    np.testing.assert_array_equal(bn(x).detach().numpy()[5:6], bn(x[5:6]).detach().numpy())
    assert bn.num_batches_tracked.item() == 1


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_variance_with_m_or_m_minus_one(momentum):
    rng = np.random.default_rng(0)
    torch_like = nn.BatchNorm2d(2, momentum=momentum).double()
    paper = nn.BatchNorm2d(2, momentum=momentum, unbiased_running_var=False).double()
    expected = {0: np.ones(2), 1: np.ones(2)}
    for step in range(1, 4):
        x = rng.normal(size=(3, 2, 2, 2)) * 2
        a, b = torch_like(minidl.tensor(x)), paper(minidl.tensor(x))
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
        weight = momentum or 1 / step
        for ddof in expected:
            expected[ddof] = (1 - weight) * expected[ddof] + weight * x.var((0, 2, 3), ddof=ddof)
    np.testing.assert_allclose(torch_like.running_var.numpy(), expected[1], 1e-12)  # float64 rounding
    np.testing.assert_allclose(paper.running_var.numpy(), expected[0], 1e-12)


def test_reset_running_stats_and_stamps():
    bn = nn.BatchNorm1d(2)
    x = minidl.randn(4, 2, requires_grad=True)
    bn.eval()
    y = bn(x).sum()
    bn.train()
    bn(minidl.randn(4, 2))
    with pytest.raises(minidl.errors.InplaceError):
        y.backward()  # the evaluation's graph needs the running statistics that training then changed
    bn.reset_running_stats()
    assert bn.running_mean.tolist() == [0, 0] and bn.running_var.tolist() == [1, 1] and bn.num_batches_tracked.item() == 0


def test_lrn_in_the_papers_convention():
    layer = nn.LocalResponseNorm.paper(n=5, alpha=1e-4, beta=0.75, k=2)
    assert repr(layer) == "LocalResponseNorm(5, alpha=0.0005, beta=0.75, k=2)"
    x = np.random.default_rng(0).normal(size=(1, 7, 1, 2)) * 30
    y = layer(minidl.tensor(x)).numpy()
    for c in range(7):  # the paper's sum, cut at the edge channels
        window = x[:, max(0, c - 2) : c + 3]
        np.testing.assert_allclose(y[:, c], x[:, c] / (2 + 1e-4 * (window**2).sum(1)) ** 0.75, 1e-12)  # float64 rounding


# ---- dropout

@pytest.mark.parametrize("mode", ["inverted", "paper"])
def test_both_modes_of_dropout_keep_their_expectation(mode):
    drop = nn.Dropout(0.3, mode=mode)
    x = minidl.ones(10_000)
    y = drop(x).numpy()
    assert abs((y == 0).mean() - 0.3) < 0.02  # four standard errors
    evaluated = drop.eval()(x).numpy()
    # The mean of 10,000 draws has a standard error of 0.0065 at most.
    assert abs(y.mean() - evaluated.mean()) < 0.03
    assert set(np.unique(evaluated)) == ({1.0} if mode == "inverted" else {np.float32(0.7)})


def test_modes_agree_over_many_draws():
    x = minidl.ones(10_000)
    inverted, paper = nn.Dropout(0.5), nn.Dropout(0.5, mode="paper")
    for layer in (inverted, paper):
        trained = np.mean([layer(x).numpy().mean() for _ in range(20)])
        # 200,000 draws: a standard error of 0.0022
        assert abs(trained / layer.eval()(x).numpy().mean() - 1) < 1e-2


def test_dropout_is_seeded_and_the_identity_in_eval():
    drop, x = nn.Dropout(0.5), minidl.randn(100)
    minidl.manual_seed(3)
    a, b = drop(x).tolist(), drop(x).tolist()
    minidl.manual_seed(3)
    assert drop(x).tolist() == a and a != b
    assert drop.eval()(x).tolist() == x.tolist()
    assert nn.Dropout(1.0)(x).tolist() == [0] * 100
    assert repr(nn.Dropout(0.2, mode="paper")) == "Dropout(p=0.2, inplace=False, mode='paper')"


def test_dropout2d_drops_whole_channels():
    y = nn.Dropout2d(0.5)(minidl.ones(8, 16, 3, 3)).numpy()
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y.reshape(128, 9).min(1) == y.reshape(128, 9).max(1)).all()


def test_embedding_padding_row_starts_at_zero_and_stays():
    layer = nn.Embedding(5, 3, padding_idx=-1)
    assert layer.padding_idx == 4 and layer.weight[4].tolist() == [0, 0, 0]
    layer(minidl.tensor([4, 1])).sum().backward()
    assert layer.weight.grad[4].tolist() == [0, 0, 0] and layer.weight.grad[1].tolist() == [1, 1, 1]


def test_initial_loss_is_log_of_the_number_of_classes():
    loss = nn.CrossEntropyLoss()(minidl.zeros(8, 10), minidl.tensor([3] * 8))
    assert abs(loss.item() - math.log(10)) < 1e-6  # float32


# ---- errors

@pytest.mark.parametrize("call, error, text", [
    (lambda: nn.Linear(-1, 3), ConfigError, "Linear: in_features must be a non-negative integer, got -1"),
    (lambda: nn.Linear(3, 2.5), ConfigError, "out_features"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ShapeError, "in_channels=3 is not divisible by groups=2"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ShapeError, "out_channels=3 is not divisible by groups=2"),
    (lambda: nn.Conv2d(4, 4, 3, groups=0), ConfigError, "groups must be a positive integer"),
    (lambda: nn.Conv2d(3, 4, "3"), ConfigError, "kernel_size must be an integer or a pair"),
    (lambda: nn.Conv2d(3, 4, 0), ConfigError, "kernel_size must be at least 1"),
    (lambda: nn.Conv2d(3, 4, 3, stride=0), ConfigError, "stride must be at least 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), ConfigError, "padding must not be negative"),
    (lambda: nn.Conv2d(3, 4, 3, padding=((1, -1), (0, 0))), ConfigError, "padding must not be negative"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), ConfigError, "'same' or 'valid', got 'full'"),
    (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), ConfigError, "padding='same' needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ConfigError, "padding_mode must be one of zeros"),
    (lambda: nn.Conv2d(2.0, 4, 3), ConfigError, "in_channels must be"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ConfigError, "only padding_mode='zeros'"),
    (lambda: nn.BatchNorm2d("3"), ConfigError, "num_features"),
    (lambda: nn.BatchNorm2d(3)(minidl.ones(3, 4, 4)), ShapeError, r"expected an input \(N, C, H, W\)"),
    (lambda: nn.BatchNorm1d(3)(minidl.ones(2, 3, 4, 4)), ShapeError, r"BatchNorm1d: expected an input \(N, C\)"),
    (lambda: nn.BatchNorm2d(3)(minidl.ones(2, 4, 3, 3)), ShapeError, "4"),
    (lambda: nn.BatchNorm1d(3)(minidl.ones(1, 3)), ShapeError, "one value for each channel"),
    (lambda: nn.InstanceNorm2d(3, track_running_stats=True), ConfigError, "use BatchNorm2d"),
    (lambda: nn.InstanceNorm2d(3)(minidl.ones(3, 4, 4)), ShapeError, "InstanceNorm2d: expected"),
    (lambda: nn.GroupNorm(4, 6), ShapeError, "num_groups=4 does not divide num_channels=6; 1, 2, 3, 6 do"),
    (lambda: nn.LocalResponseNorm(0), ConfigError, "size must be at least 1"),
    (lambda: nn.Dropout(1.5), ConfigError, "Dropout: p must be a probability"),
    (lambda: nn.Dropout(0.5, mode="x"), ConfigError, "'inverted' or 'paper'"),
    (lambda: nn.Embedding(3, 2, padding_idx=3), ConfigError, "padding_idx 3 is out of range for 3"),
    (lambda: nn.Embedding.from_pretrained(minidl.ones(3)), ShapeError, "expected a table"),
    (lambda: nn.MSELoss("avg"), ConfigError, "MSELoss: reduction must be one of mean, sum, none"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2), ConfigError, "label_smoothing"),
    (lambda: nn.KLDivLoss("avg"), ConfigError, "KLDivLoss: reduction must be one of mean, sum, none, batchmean"),
    (lambda: nn.Hardtanh(1, 1), ConfigError, "Hardtanh: min_val must be below max_val"),
    (lambda: nn.MultiMarginLoss(p=3), ConfigError, "p must be 1 or 2"),
    (lambda: nn.ZeroPad2d((1, 2)), ConfigError, r"\(left, right, top, bottom\)"),
    (lambda: nn.Unflatten(3, (1, 2))(minidl.ones(2, 2)), ShapeError, "dim 3 is out of range"),
    (lambda: nn.Linear(4, 2)(minidl.ones(3, 5)), ShapeError, "5"),
    (lambda: nn.Conv2d(3, 4, 3)(minidl.ones(2, 1, 8, 8)), ShapeError, "3"),
])
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
