"""Softmax and cross-entropy: every variant against the float64 definitions, and those against torch."""
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.errors import DataError
from minidl.kernels import variants
from tests.kernels.cases import FLOATS, arrange, assert_close, check, draw, examples, layouts, run, seeds

few = examples(60)
IGNORE = -100


@pytest.mark.parametrize("dtype", FLOATS)
@examples(20)
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), axis=st.integers(-4, 3), layout=layouts, seed=seeds)
def test_softmax(shape, axis, dtype, layout, seed):
    axis = axis % len(shape)
    x, gy = draw(seed, shape, dtype, layout), draw(seed + 1, shape, dtype, layout)
    y = check("softmax", x, axis, dtype=dtype)
    check("softmax_grad", gy, y, axis, dtype=dtype)
    y = check("log_softmax", x, axis, dtype=dtype)
    check("log_softmax_grad", gy, y, axis, dtype=dtype)


@st.composite
def classifications(draw_):
    """(labels, number of classes, weight or None, ignore_index, label_smoothing)"""
    m, classes, seed = draw_(st.integers(0, 6)), draw_(st.integers(1, 5)), draw_(seeds)
    rng = np.random.default_rng(seed)
    ignore = draw_(st.sampled_from([IGNORE, 0, 255]))
    labels = np.where(rng.random(m) < 0.2, ignore, rng.integers(0, classes, m))
    weight = rng.random(classes) if draw_(st.booleans()) else None
    return labels, classes, weight, ignore, draw_(st.sampled_from([0.0, 0.1, 1.0]))


@pytest.mark.parametrize("dtype", FLOATS)
@examples(20)
@given(case=classifications(), layout=layouts, seed=seeds)
def test_losses(case, dtype, layout, seed):
    labels, classes, weight, ignore, smoothing = case
    labels = arrange(labels, layout)
    weight = None if weight is None else arrange(weight.astype(dtype), layout)
    logits, g = draw(seed, (len(labels), classes), dtype, layout), draw(seed + 1, labels.shape, dtype, layout)
    check("softmax_cross_entropy", logits, labels, weight, ignore, smoothing, dtype=dtype)
    check("softmax_cross_entropy_grad", g, logits, labels, weight, ignore, smoothing, dtype=dtype)
    check("nll_loss", logits, labels, weight, ignore, dtype=dtype)
    check("nll_loss_grad", g, labels, classes, weight, ignore, dtype=dtype)


@pytest.mark.parity
@few
@given(case=classifications(), seed=seeds)
def test_the_reference_equals_torch(case, seed):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    labels, classes, weight, ignore, smoothing = case
    logits, g = draw(seed, (len(labels), classes)), draw(seed + 1, labels.shape)
    options = {"weight": None if weight is None else torch.tensor(weight), "ignore_index": ignore}
    target, t = torch.tensor(labels), torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(t, target, **options, reduction="none", label_smoothing=smoothing)
    expected.backward(torch.tensor(g))
    losses, sample_weights = variants("softmax_cross_entropy")["reference"](logits, labels, weight, ignore, smoothing)
    assert_close("softmax_cross_entropy", losses, expected.detach().numpy(), "float64")
    gx = variants("softmax_cross_entropy_grad")["reference"](g, logits, labels, weight, ignore, smoothing)
    assert_close("softmax_cross_entropy", gx, t.grad.numpy(), "float64")
    if sample_weights.any():
        mean = torch.nn.functional.cross_entropy(t, target, **options, label_smoothing=smoothing).item()
        assert losses.sum() / sample_weights.sum() == pytest.approx(mean, rel=1e-12)  # a few float64 roundings
    expected = torch.nn.functional.nll_loss(t, target, **options, reduction="none").detach().numpy()
    assert_close("nll_loss", variants("nll_loss")["reference"](logits, labels, weight, ignore)[0], expected, "float64")


@pytest.mark.parametrize("variant", ["numpy", "reference"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_huge_logits(variant, dtype):
    logits, labels = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 9992]], dtype), np.array([0, 2])
    for verb in ("softmax", "log_softmax"):
        assert np.isfinite(variants(verb)[variant](logits, 1)).all()
    losses, _ = variants("softmax_cross_entropy")[variant](logits, labels, None, IGNORE, 0.0)
    # float16 holds the loss of 8.0003 to 0.004; the others to more than the 1e-6 asked for.
    np.testing.assert_allclose(losses, [0, 8 + math.log1p(math.exp(-8))], rtol=1e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_the_loss_of_knowing_nothing_is_ln_c(variant):
    losses, _ = variants("softmax_cross_entropy")[variant](np.zeros((3, 10)), np.array([0, 5, 9]), None, IGNORE, 0.0)
    np.testing.assert_allclose(losses, math.log(10), rtol=1e-15)


def test_an_ignored_sample_gives_nothing_whatever_its_logits():
    logits = np.array([[np.nan, np.inf], [1.0, 2.0]])
    labels = np.array([IGNORE, 1])
    losses, weights = run("softmax_cross_entropy", logits, labels, None, IGNORE, 0.1)
    gx = run("softmax_cross_entropy_grad", np.ones(2), logits, labels, None, IGNORE, 0.1)
    assert losses[0] == weights[0] == 0 and gx[0].tolist() == [0, 0] and np.isfinite(gx).all()


@pytest.mark.parametrize("variant", ["numpy", "reference"])
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_named(variant, label):
    logits, labels = np.zeros((3, 3)), np.array([0, 1, label])
    for call in (
        lambda: variants("softmax_cross_entropy")[variant](logits, labels, None, IGNORE, 0.0),
        lambda: variants("softmax_cross_entropy_grad")[variant](np.ones(3), logits, labels, None, IGNORE, 0.0),
        lambda: variants("nll_loss")[variant](logits, labels, None, IGNORE),
        lambda: variants("nll_loss_grad")[variant](np.ones(3), labels, 3, None, IGNORE),
    ):
        with pytest.raises(DataError, match=rf"label {label} at position 2 is outside 0\.\.2"):
            call()
