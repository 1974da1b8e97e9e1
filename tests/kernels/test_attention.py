"""Attention: every variant against the definition in float64, and that against torch."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import variants
from tests.kernels.cases import assert_close, check, draw, dtypes, layouts, seeds

few = settings(deadline=None, max_examples=40)
small = st.integers(0, 4)


@few
@given(lead=st.lists(st.integers(0, 3), max_size=2).map(tuple), queries=small, keys=st.integers(1, 5), size=st.integers(1, 4),
       wide=st.integers(1, 3), dtype=dtypes, layout=layouts, seed=seeds)
def test_every_variant_equals_the_reference(lead, queries, keys, size, wide, dtype, layout, seed):
    q, k, v, gy = (draw(seed + i, (*lead, *shape), dtype, layout) for i, shape in enumerate(
        ((queries, size), (keys, size), (keys, wide), (queries, wide))))
    _, weights = check("attention", q, k, v, 0.7, dtype=dtype)
    check("attention_grad", gy, q, k, v, weights, 0.7, dtype=dtype, scale=10)   # sums of products of three normal numbers


@pytest.mark.parity
@pytest.mark.parametrize("scale", [0.5, None])
def test_the_reference_equals_torch(scale):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    arrays = [draw(i, shape) for i, shape in enumerate(((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2), (2, 3, 5, 2)))]
    q, k, v, gy = (torch.tensor(a, requires_grad=i < 3) for i, a in enumerate(arrays))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
    expected.backward(gy)
    factor = 0.5 if scale is None else scale         # 1 / sqrt(4)
    y, weights = variants("attention")["reference"](*arrays[:3], factor)
    assert_close("attention", y, expected.detach().numpy(), "float64")
    gradients = variants("attention_grad")["reference"](arrays[3], *arrays[:3], weights, factor)
    assert_close("attention_grad", gradients, tuple(t.grad.numpy() for t in (q, k, v)), "float64")
