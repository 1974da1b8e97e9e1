"""Attention: naive loops (the table's reference), permutations, masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl.nn import functional as F
from tests.opdb import nets
from tests.strategies import seeds


def draw(seed, *shape):
    return minidl.tensor(np.random.default_rng(seed).standard_normal(shape))


@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_equals_the_loops(seed, n, queries, keys, width, depth):
    q, k, v = draw(seed, n, queries, width), draw(seed + 1, n, keys, width), draw(seed + 2, n, keys, depth)
    expected = nets.attention(q.numpy(), k.numpy(), v.numpy())
    np.testing.assert_allclose(
        F.scaled_dot_product_attention(q, k, v).numpy(), expected, rtol=1e-12, atol=1e-13
    )  # a few units in the last place


@given(seeds, st.permutations(range(5)))
def test_permuting_the_inputs_permutes_the_outputs(seed, order):
    """Without positions, self-attention does not know the order."""
    x = draw(seed, 2, 5, 4)
    weights = [draw(seed + 1, 12, 4), draw(seed + 2, 12), draw(seed + 3, 4, 4), draw(seed + 4, 4)]
    y = F.multi_head_attention(x, x, x, 2, *weights)
    moved = x[:, list(order)]
    np.testing.assert_allclose(
        F.multi_head_attention(moved, moved, moved, 2, *weights).numpy(),
        y.numpy()[:, list(order)],
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_order_of_keys_does_not_matter():
    q, k, v = draw(0, 3, 4), draw(1, 5, 4), draw(2, 5, 4)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(
        F.scaled_dot_product_attention(q, k, v).numpy(),
        F.scaled_dot_product_attention(q, k[order], v[order]).numpy(),
        rtol=1e-12,
    )


def test_rows_sum_to_one():
    """With values of one, what comes out are the sums of the weights."""
    np.testing.assert_allclose(
        F.scaled_dot_product_attention(
            draw(0, 2, 3, 4), draw(1, 2, 5, 4), minidl.ones(2, 5, 1, dtype="float64")
        ).numpy(),
        1.0,
        rtol=1e-14,
    )


def test_causal_means_the_past_only():
    q, k, v = draw(0, 4, 3), draw(1, 4, 3), draw(2, 4, 3)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(y[0].numpy(), v[0].numpy(), rtol=1e-14)  # the first sees itself alone
    later = v.clone()
    later[3] = 100.0
    np.testing.assert_array_equal(
        F.scaled_dot_product_attention(q, k, later, is_causal=True)[:3].numpy(), y[:3].numpy()
    )


def test_a_mask_with_more_axes_than_the_scores():
    """One query for several masks: the result has the masks' leading axes, and so have the gradients their way back."""
    q, k, v = (draw(i, 3, 2).requires_grad_() for i in range(3))
    mask = np.random.default_rng(0).random((4, 3, 3)) < 0.7
    mask[..., 0] = True
    y = F.scaled_dot_product_attention(q, k, v, minidl.tensor(mask))
    assert y.shape == (4, 3, 2)
    y.sum().backward()
    assert q.grad.shape == (3, 2)


def test_dropout_of_weights():
    q, k = draw(0, 50, 4), draw(1, 50, 4)
    v = minidl.ones(50, 1, dtype="float64")
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5).numpy()
    assert y.std() > 0.01 and abs(y.mean() - 1) < 0.2  # 2,500 weights of very unequal size


@pytest.mark.parametrize("dim", [0, 1])
def test_one_by_hand(dim):
    """Two keys with scores 0 and log 3: a quarter of the first value, three quarters of the second."""
    q, k = minidl.tensor([[1.0]]), minidl.tensor([[0.0], [np.log(3.0)]])
    v = minidl.tensor([[4.0, 0.0], [0.0, 4.0]])
    assert F.scaled_dot_product_attention(q, k, v)[0, dim].item() == pytest.approx([1.0, 3.0][dim], rel=1e-6)  # float32
