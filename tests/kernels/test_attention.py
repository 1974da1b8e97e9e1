"""Attention: every variant against the definition in float64, and that against torch."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import variants
from tests.kernels.cases import FLOATS, assert_close, draw, examples, layouts, seeds, under_test

small = st.integers(0, 4)


def check(q, k, v, gy, scale, dtype):
    """Every variant against the definition, with what it keeps; twice for the same bits; inputs as they were; and the gradient of
    the array-module code from what any other variant kept."""
    arrays = q, k, v, gy
    before = [a.copy() for a in arrays]
    y, weights = variants("attention")["reference"](q, k, v, scale)
    gradients = variants("attention_grad")["reference"](gy, q, k, v, weights, scale)
    scores = scale * (q.astype("f8") @ k.astype("f8").swapaxes(-1, -2))
    log_sums = np.log(np.exp(scores).sum(axis=-1))
    backward = dict(under_test("attention_grad"))
    array_module = next(kernel for name, kernel in backward.items() if name.endswith(("numpy", "cupy")))
    for name, kernel in under_test("attention"):
        got, kept = kernel(q, k, v, scale)
        assert_close("attention", got, y, dtype)
        wide = "float64" if dtype == "float64" else "float32"
        assert_close("attention", kept, weights if kept.ndim == q.ndim else log_sums.astype(wide), dtype)
        for gradient in (backward[name], array_module):
            # Sums of products of three normal numbers.
            found = gradient(gy, q, k, v, kept, scale)
            assert_close("attention_grad", found, gradients, dtype, scale=10)
        first, second = ((*kernel(q, k, v, scale), *backward[name](gy, q, k, v, kept, scale)) for _ in range(2))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True)), f"{name}: not the same bits twice"
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="an input was written")


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(lead=st.lists(st.integers(0, 3), max_size=2).map(tuple), queries=small, keys=st.integers(1, 5), size=st.integers(1, 4),
       wide=st.integers(1, 3), layout=layouts, seed=seeds)
def test_every_variant_equals_the_reference(lead, queries, keys, size, wide, dtype, layout, seed):
    q, k, v, gy = (draw(seed + i, (*lead, *shape), dtype, layout) for i, shape in enumerate(
        ((queries, size), (keys, size), (keys, wide), (queries, wide))))
    check(q, k, v, gy, 0.7, dtype)


# (lead), queries, keys, size: tiles that are full, that are not, several of them, every width of the kernels'.
TILED = [((1, 2), 65, 33, 24, "float32"), ((2,), 3, 70, 64, "float16"), ((1, 1), 70, 40, 128, "float32"),
         ((1, 2), 33, 35, 40, "float64"), ((2, 1), 17, 16, 32, "float32"), ((), 20, 18, 70, "float64"),
         ((1,), 9, 18, 40, "float32"), ((1,), 5, 9, 70, "float16")]


@pytest.mark.parametrize("lead, queries, keys, size, dtype", TILED)
def test_several_tiles(lead, queries, keys, size, dtype):
    shapes = ((queries, size), (keys, size), (keys, size), (queries, size))
    q, k, v, gy = (draw(i, (*lead, *shape), dtype) for i, shape in enumerate(shapes))
    if len(lead) == 2:                               # as a projection wrote them
        q, k, v, gy = (a.swapaxes(1, 2).copy().swapaxes(1, 2) for a in (q, k, v, gy))
    check(q, k, v, gy, size**-0.5, dtype)


def test_scores_of_any_size():
    """The largest score is taken off before the exponential; one that is not a number spoils its query only."""
    q, k, v, gy = (draw(i, (1, 1, 40, 8), "float32") for i in range(4))
    q *= 1e3
    q[0, 0, 3, 0] = np.nan
    for name, kernel in under_test("attention"):
        with np.errstate(invalid="ignore"):
            y, kept = kernel(q, k, v, 1.0)
        assert np.isnan(y[0, 0, 3]).all() and np.isnan(y).sum() == 8, name
        gq = dict(under_test("attention_grad"))[name](gy, q, k, v, kept, 1.0)[0]
        assert np.isfinite(np.delete(gq, 3, axis=2)).all(), name


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
