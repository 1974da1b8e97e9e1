"""Softmax and cross-entropy over rows of any length, in any layout, and with logits that are not numbers."""
import numpy as np
import pytest

import minidl
from minidl.errors import DataError
from minidl.kernels import variants
from tests.kernels.cases import LAYOUTS, arrange, assert_close

SHAPES = [(1024, 1), (700, 2), (128, 10), (64, 65), (40, 64), (3, 5, 100), (2, 1000), (1, 4099)]
CASES = [(verb, width) for verb in ("softmax", "log_softmax") for width in (1, 2)]


def normal(seed, shape, scale=3):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("verb", ["softmax", "log_softmax"])
def test_rows(guarded, shape, verb):
    x, gy = normal(0, shape), normal(1, shape, 1)
    for axis in range(len(shape)):
        for layout in LAYOUTS:
            a, g = arrange(x, layout), arrange(gy, layout)
            y = variants(verb)["vector"](a, axis)
            exact = variants(verb)["numpy"](x.astype(np.float64), axis)
            # Logits of size 12 have an ulp of 1e-6, and a logarithm as much.
            assert_close(verb, y, exact.astype(np.float32), "float32", scale=3)
            gx = variants(verb + "_grad")["vector"](g, y, axis)
            wanted = variants(verb + "_grad")["numpy"](g.astype(np.float64), y.astype(np.float64), axis)
            # A gradient of the logarithm adds up the whole row, of up to 4099 numbers of order one.
            assert_close(verb + "_grad", gx, wanted.astype(np.float32), "float32", scale=max(1, shape[axis] / 500))
    guarded()


@pytest.mark.parametrize("verb", ["softmax", "log_softmax"])
def test_rows_that_are_not_finite(verb):
    rows = np.zeros((100, 21), np.float32)
    rows[0, 3], rows[1, 20], rows[2, 2], rows[3], rows[4, :20], rows[5] = np.nan, np.inf, -np.inf, -np.inf, -np.inf, 1e4
    rows[6, 0], rows[6, 1], rows[7] = 3e38, -3e38, -1e4
    with np.errstate(all="ignore"):
        expected = variants(verb)["numpy"](rows, 1)
    np.testing.assert_allclose(variants(verb)["vector"](rows, 1), expected, rtol=2e-6)      # a few units in the last place


@pytest.mark.parametrize("rows, classes", [(1024, 1), (512, 2), (128, 10), (100, 100), (3, 1000)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("ignored", [False, True])
def test_cross_entropy(guarded, rows, classes, smoothing, ignored):
    rng = np.random.default_rng(0)
    x, g, labels = normal(0, (rows, classes)), normal(1, rows, 1), rng.integers(0, classes, rows)
    if ignored:
        labels[::3] = -100
        x[0] = np.nan                                # of an ignored row nothing counts
    options = labels, None, -100, smoothing
    with np.errstate(invalid="ignore"):
        losses = variants("softmax_cross_entropy")["numpy"](x.astype(np.float64), *options)
        gx = variants("softmax_cross_entropy_grad")["numpy"](g.astype(np.float64), x.astype(np.float64), *options)
    for layout in LAYOUTS:
        a = arrange(x, layout), arrange(labels, layout), *options[1:]
        got = variants("softmax_cross_entropy")["vector"](*a)
        # With smoothing a loss adds up all classes: the tolerance is for numbers of order one, these are around ten.
        assert_close("softmax_cross_entropy", got, tuple(v.astype(np.float32) for v in losses), "float32", scale=10)
        got = variants("softmax_cross_entropy_grad")["vector"](arrange(g, layout), *a)
        assert_close("softmax_cross_entropy_grad", got, gx.astype(np.float32), "float32")
    guarded()


def test_labels_are_looked_at_before_the_kernel_runs():
    x, labels = normal(0, (200, 10)), np.zeros(200, np.int64)
    for wrong in (10, -1, 10**12):
        labels[7] = wrong
        for verb, arguments in (("softmax_cross_entropy", (x,)), ("softmax_cross_entropy_grad", (np.ones(200, np.float32), x))):
            with pytest.raises(DataError, match=f"label {wrong} at position 7 is outside 0..9"):
                variants(verb)["vector"](*arguments, labels, None, -100, 0.0)


def test_a_gradient_that_is_the_same_everywhere():
    """The gradient of a mean has no memory of its own."""
    x, labels = normal(0, (200, 10)), np.arange(200) % 10
    spread = np.broadcast_to(np.float32(1 / 200), (200,))
    got = variants("softmax_cross_entropy_grad")["vector"](spread, x, labels, None, -100, 0.0)
    again = variants("softmax_cross_entropy_grad")["vector"](spread.copy(), x, labels, None, -100, 0.0)
    np.testing.assert_array_equal(got, again)


def test_threads_do_not_change_a_bit():
    x, gy = normal(0, (333, 129)), normal(1, (333, 129), 1)
    before, found = minidl.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            minidl.set_num_threads(threads)
            y = variants("softmax")["vector"](x, 1)
            found.append((y, variants("softmax_grad")["vector"](gy, y, 1), *_layer_norm(x, gy)))
    finally:
        minidl.set_num_threads(before)
    for other in found[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0], other, strict=True))


def _layer_norm(x, gy):
    y, mean, invstd = variants("layer_norm")["vector"](x, None, None, 1, 1e-5)
    return y, *variants("layer_norm_grad")["vector"](gy, x, None, mean, invstd, 1)
