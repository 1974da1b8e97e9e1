"""Pooling, activations, normalisation, losses and dropout: the numbers and properties that the lectures give."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl.errors import ConfigError, DTypeError, GraphError, ShapeError
from minidl.nn import functional as F
from tests.opdb import nets


def draw(*shape, seed=0, requires_grad=False):
    return minidl.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=requires_grad)


# ---------------------------------------------------------------------------------------------------------------- pooling
LECTURE = np.array([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])


def test_max_pooling_example():
    x = minidl.tensor(LECTURE[None, None])
    assert F.max_pool2d(x, 2)[0, 0].tolist() == [[6.0, 8.0], [3.0, 4.0]]
    assert F.avg_pool2d(x, 2)[0, 0].tolist() == [[3.25, 5.25], [2.0, 2.0]]
    assert F.max_pool2d(x, 3, 1)[0, 0].tolist() == [[7.0, 8.0], [7.0, 8.0]]


def test_overlapping_pooling_of_alexnet():
    """3x3 windows with stride 2: 55 -> 27 -> 13 -> 6; a pixel that wins twice gets both gradients."""
    assert [F.max_pool2d(minidl.zeros(1, 1, n, n), 3, 2).shape[-1] for n in (55, 27, 13)] == [27, 13, 6]
    x = minidl.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1.0
    x.requires_grad_()
    F.max_pool2d(x, 3, 2).sum().backward()
    assert x.grad[0, 0, 2, 2].item() == 4.0 and x.grad.sum().item() == 4.0


def test_ties_go_to_the_first():
    x = minidl.ones(1, 1, 2, 4, requires_grad=True)
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    y.sum().backward()
    assert indices[0, 0].tolist() == [[0, 2]] and x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


def test_padding_never_wins():
    assert F.max_pool2d(minidl.full((1, 1, 2, 2), -5.0), 2, 1, 1).tolist() == [[[[-5.0] * 3] * 3]]


# ------------------------------------------------------------------------------------------------------------ activations
def test_slope_of_the_lecture():
    """max(0.1 x, x)"""
    x = draw(50)
    np.testing.assert_array_equal(F.leaky_relu(x, 0.1).numpy(), np.maximum(0.1 * x.numpy(), x.numpy()))


def test_sigmoid_and_softplus_do_not_overflow():
    x = minidl.tensor([-1e4, 0.0, 1e4])
    with np.errstate(over="raise"):
        assert F.sigmoid(x).tolist() == [0.0, 0.5, 1.0]
        assert F.softplus(x).tolist() == [0.0, pytest.approx(math.log(2)), 1e4]


def test_inplace_returns_its_input():
    x = draw(4)
    assert F.relu(x, inplace=True) is x and (x.numpy() >= 0).all()


# ---------------------------------------------------------------------------------------------------- softmax and losses
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_huge_logits(dtype):
    """+-1e4: no NaN, in the value or in the gradient."""
    x = minidl.tensor(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype), requires_grad=True)
    for f in (F.softmax, F.log_softmax, lambda t, _: F.cross_entropy(t, minidl.tensor([1, 0]))):
        y = f(x, 1)
        (g,) = minidl.grad(y.sum(), [x])
        assert np.isfinite(y.detach().numpy()).all() and np.isfinite(g.numpy()).all()
    assert F.cross_entropy(x[:1], minidl.tensor([1])).item() == 2e4


def test_probabilities_add_up_to_one():
    np.testing.assert_allclose(F.softmax(draw(5, 10), 1).numpy().sum(axis=1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_initial_loss_is_the_logarithm_of_the_classes(classes):
    """2.3026 for ten."""
    loss = F.cross_entropy(minidl.zeros(4, classes), minidl.zeros(4).long())
    assert loss.item() == pytest.approx(math.log(classes), rel=1e-6)  # float32
    assert classes != 10 or round(loss.item(), 4) == 2.3026


def test_cross_entropy_is_nll_after_log_softmax():
    x, t = draw(5, 3), minidl.tensor([0, 2, 1, -100, 2])
    np.testing.assert_allclose(F.cross_entropy(x, t).item(), F.nll_loss(F.log_softmax(x, 1), t).item(), rtol=1e-14)
    hard = F.one_hot(minidl.tensor([0, 2, 1, 1, 2]), 3).double()
    np.testing.assert_allclose(
        F.cross_entropy(x, hard).item(), F.cross_entropy(x, minidl.tensor([0, 2, 1, 1, 2])).item(), rtol=1e-14
    )


def test_a_mean_over_no_labels_is_nan():
    """As in PyTorch: 0 / 0, which the trainer's NaN check names."""
    with np.errstate(invalid="ignore"):
        assert math.isnan(F.cross_entropy(minidl.zeros(2, 3), minidl.tensor([-100, -100])).item())
        assert math.isnan(F.cross_entropy(minidl.zeros(0, 3), minidl.zeros(0).long()).item())


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, lambda x, t, w: F.multi_margin_loss(x, t, weight=w)])
def test_class_weights_are_constants(loss):
    with pytest.raises(GraphError, match="weight is a constant here and gets no gradient"):
        loss(draw(2, 3), minidl.tensor([0, 1]), draw(3, requires_grad=True))


def test_hinge_loss_of_the_lecture():
    """Scores 3.2, 5.1, -1.7, the first class right: max(0, 5.1 - 3.2 + 1) + max(0, -1.7 - 3.2 + 1) = 2.9, over 3 here."""
    assert F.multi_margin_loss(minidl.tensor([3.2, 5.1, -1.7]), minidl.tensor(0)).item() * 3 == pytest.approx(
        2.9, rel=1e-6
    )
    assert F.multi_margin_loss(minidl.zeros(0, 3), minidl.zeros(0).long(), reduction="sum").item() == 0.0


# --------------------------------------------------------------------------------------------------------- normalisation
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_lrn_at_the_edges(size):
    """Channels without neighbours on one side: the literal loop over the channels there are."""
    x = draw(2, 6, 2, 2)
    y = F.local_response_norm(x, size, alpha=0.7, beta=0.75, k=2.0)
    np.testing.assert_allclose(y.numpy(), nets._lrn(x.numpy(), size, 0.7, 0.75, 2.0), rtol=1e-13)


def test_lrn_of_the_paper():
    """b = a / (k + alpha * sum a^2)^beta with n=5, k=2, alpha=1e-4: PyTorch's alpha, and ours, is n times the paper's."""
    x = draw(1, 7, 1, 1).numpy() * 30
    a = x.ravel()
    paper = [a[i] / (2 + 1e-4 * sum(a[j] ** 2 for j in range(max(0, i - 2), min(7, i + 3)))) ** 0.75 for i in range(7)]
    np.testing.assert_allclose(
        F.local_response_norm(minidl.tensor(x), 5, 5 * 1e-4, 0.75, 2.0).numpy().ravel(), paper, rtol=1e-13
    )


def test_batch_norm_divides_by_m_and_remembers_with_m_minus_1():
    x, mean, var = draw(4, 2, 3), minidl.zeros(2, dtype="float64"), minidl.ones(2, dtype="float64")
    y = F.batch_norm(x, mean, var, training=True, momentum=0.1, eps=0.0)
    np.testing.assert_allclose(y.numpy().var(axis=(0, 2)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(y.numpy().mean(axis=(0, 2)), 0.0, atol=1e-15)
    np.testing.assert_allclose(mean.numpy(), 0.1 * x.numpy().mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), 0.9 + 0.1 * x.numpy().var(axis=(0, 2), ddof=1), rtol=1e-12)
    var = minidl.ones(2, dtype="float64")
    F.batch_norm(x, minidl.zeros(2, dtype="float64"), var, training=True, eps=0.0, unbiased=False)
    np.testing.assert_allclose(var.numpy(), 0.9 + 0.1 * x.numpy().var(axis=(0, 2)), rtol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_running_statistics_as_in_pytorch(torch, dtype):
    x = draw(6, 3, 4).numpy().astype(dtype)
    ours, theirs = (
        [lib.zeros(3, dtype=getattr(lib, dtype)), lib.ones(3, dtype=getattr(lib, dtype))] for lib in (minidl, torch)
    )
    for _ in range(3):
        F.batch_norm(minidl.tensor(x), *ours, training=True, momentum=0.3)
        torch.nn.functional.batch_norm(torch.tensor(x), *theirs, training=True, momentum=0.3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            a.numpy(), b.numpy(), rtol=1e-5 if dtype == "float32" else 1e-11
        )  # variance from 1 / std, squared


def test_batch_norm_evaluation_does_not_know_the_batch():
    """One image alone and among 64: the same bits."""
    x, mean, var, w, b = draw(64, 3, 2, 2), draw(3), draw(3, seed=1).square() + 0.5, draw(3, seed=2), draw(3, seed=3)
    alone = minidl.cat([F.batch_norm(x[i : i + 1], mean, var, w, b) for i in range(64)])
    assert alone.numpy().tobytes() == F.batch_norm(x, mean, var, w, b).numpy().tobytes()


def test_normalize_nothing():
    x = minidl.zeros(2, 3, requires_grad=True)
    y = F.normalize(x)
    y.sum().backward()
    assert y.tolist() == [[0.0] * 3] * 2 and np.isfinite(x.grad.numpy()).all()


# --------------------------------------------------------------------------------------------------------------- dropout
@pytest.mark.parametrize("dropout", [F.dropout, F.dropout2d])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_expectation(dropout, p):
    """Over 10,000 draws of each of eight elements (channels) the mean is the input, within 1e-2 or four standard errors.

    A kept element is x / (1 - p) (inverted dropout); the paper's form, which keeps x and multiplies by 1 - p when it tests,
    is this times 1 - p.
    """
    x = minidl.ones(10_000, 8, 1, 1)
    y = dropout(x, p).numpy()
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)  # float32
    spread = (p / (1 - p) / y.size) ** 0.5  # standard error of the mean
    assert abs(y.mean() - 1) < max(1e-2, 4 * spread)
    paper = kept * 1.0
    assert abs(paper.mean() - (1 - p)) < max(1e-2, 4 * spread)


def test_dropout2d_drops_channels():
    y = F.dropout2d(minidl.ones(20, 5, 3, 3), 0.5).numpy()
    assert set(np.unique(y.sum(axis=(2, 3)))) == {0.0, 18.0}


def test_dropout_when_not_training():
    x = draw(5)
    assert (
        F.dropout(x, 0.5, training=False) is x
        and F.dropout(x, 0.0) is x
        and F.dropout2d(draw(1, 2, 2, 2), 0.5, training=False).numpy().all()
    )
    assert not F.dropout(x, 1.0).numpy().any()


def test_dropout_is_seeded_and_its_backward_uses_the_same_mask():
    x = minidl.ones(100, requires_grad=True)
    minidl.manual_seed(3)
    y = F.dropout(x, 0.5)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    again = F.dropout(x, 0.5)
    minidl.manual_seed(3)
    assert F.dropout(x, 0.5).tolist() == y.tolist() != again.tolist()


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_dropout_errors(p):
    for dropout in (F.dropout, F.dropout2d):
        with pytest.raises(ConfigError, match=f"p is the probability.*found {p}"):
            dropout(minidl.ones(1, 2, 2, 2), p)
    with pytest.raises(ShapeError, match=r"dropout2d: expected.*\(2,\)"):
        F.dropout2d(minidl.ones(2), 0.5)
    for dropout in (F.dropout, F.dropout2d):
        with pytest.raises(DTypeError, match="needs a floating-point tensor, found int64"):
            dropout(minidl.ones(2, 3, 4, 4, dtype=minidl.int64), 0.5)
