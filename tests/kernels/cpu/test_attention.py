"""Attention's kernels: tiles that fit and do not, lanes that exist and do not, memory in every order."""
import numpy as np
import pytest

import minidl
from minidl.kernels import variants
from minidl.kernels.cpu import attention, engine
from tests.kernels.cases import LAYOUTS, arrange, assert_close

# (N, heads, queries, keys, size): a ViT's, whole and ragged vectors, one query, one key, one head, tall and wide.
SHAPES = [(2, 3, 65, 65, 64), (2, 2, 16, 32, 16), (3, 1, 17, 5, 31), (40, 2, 1, 9, 24), (30, 3, 40, 1, 8), (1, 1, 130, 200, 80),
          (300, 4, 2, 3, 1), (1, 2, 400, 40, 112)]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sample(n, heads, queries, keys, size):
    return [normal(i, n, heads, length, size) for i, length in enumerate((queries, keys, keys, queries))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(guarded, shape):
    arrays = sample(*shape)
    scale = shape[-1] ** -0.5
    q, k, v, gy = (a.astype(np.float64) for a in arrays)
    exact = variants("attention")["numpy"](q, k, v, scale)
    gradients = variants("attention_grad")["numpy"](gy, q, k, v, exact[1], scale)
    for layout in (*LAYOUTS, "projected"):
        if layout == "projected":
            q, k, v, gy = (a.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3) for a in arrays)
        else:
            q, k, v, gy = (arrange(a, layout) for a in arrays)
        got = variants("attention")["vector"](q, k, v, scale)
        assert_close("attention", got, tuple(a.astype(np.float32) for a in exact), "float32")
        assert got[0].transpose(0, 2, 1, 3).flags.c_contiguous
        for weights in (got[1], got[1].copy()):      # as the kernel keeps them, and as anybody else would
            found = variants("attention_grad")["vector"](gy, q, k, v, weights, scale)
            # A gradient adds up as many terms as there are queries.
            assert_close("attention_grad", found, tuple(a.astype(np.float32) for a in gradients), "float32", scale=5)
    guarded()


def test_weights_that_are_another_view_of_the_kernels_own():
    q, k, v, gy = sample(2, 2, 16, 20, 16)
    _, weights = variants("attention")["vector"](q, k, v, 0.25)
    turned = weights[:, :, ::-1]
    got, expected = (variants("attention_grad")[name](gy, q, k, v, turned, 0.25) for name in ("vector", "numpy"))
    assert_close("attention_grad", got, expected, "float32")


def test_scores_of_any_size():
    """The maximum is taken off before the exponential; a score that is not a number spoils its query only."""
    q, k, v, _ = sample(2, 2, 20, 20, 16)
    q *= 1e4
    q[0, 1, 3, 0] = np.nan
    y, weights = variants("attention")["vector"](q, k, v, 1.0)
    with np.errstate(invalid="ignore"):
        expected = variants("attention")["numpy"](q, k, v, 1.0)
    assert np.isnan(y[0, 1, 3]).all() and np.isnan(y).sum() == 16
    # Scores around 40,000 are rounded to 0.004, and which of two close ones wins may turn on that.
    assert np.mean(abs(np.nan_to_num(y) - np.nan_to_num(expected[0])) > 0.05) < 0.02
    np.testing.assert_allclose(np.nan_to_num(weights, nan=1 / 20).sum(axis=-1), 1, rtol=1e-5)


def test_threads_do_not_change_a_bit():
    q, k, v, gy = sample(3, 3, 33, 30, 20)
    before, found = minidl.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            minidl.set_num_threads(threads)
            y, weights = variants("attention")["vector"](q, k, v, 0.5)
            found.append((y, *variants("attention_grad")["vector"](gy, q, k, v, weights, 0.5)))
    finally:
        minidl.set_num_threads(before)
    for other in found[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("isa", engine.available_isas().values(), ids=lambda isa: isa.name)
def test_tiles_cover_the_scores(isa):
    for queries in (1, 15, 16, 17, 65, 197, 512):
        for keys in (1, 3, 65):
            for size in (1, 16, 64, 80, 112):
                scores, values, padded = attention.tiles_for(isa, queries, keys, size)
                assert padded % (scores.vectors * isa.width) == 0 and queries <= padded < queries + scores.vectors * isa.width
                assert scores.rows <= keys and values.rows <= min(queries, keys)
                assert -(-size // isa.width) % values.vectors == 0
                assert max(scores.rows * scores.vectors, values.rows * values.vectors) <= 24
