"""Normalisation: every variant against the float64 formulas, and the formulas against torch."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import contract, variants
from tests.kernels import cases
from tests.kernels.cases import FLOATS, LAYOUTS, assert_close, check, draw, examples, layouts, run, seeds, under_test

few = examples(40)
EPS = 1e-5


@st.composite
def shapes(draw_, ndims=(2, 3, 4), channels=(2, 3, 4, 6)):
    ndim = draw_(st.sampled_from(ndims))
    # At least four values per channel: with fewer, x - mean can be all rounding and invstd enlarges it without bound.
    return (draw_(st.integers(4, 6)), draw_(st.sampled_from(channels)), *(draw_(st.integers(1, 4)) for _ in range(ndim - 2)))


def affine(seed, shape, dtype, layout, present):
    return (draw(seed, shape, dtype, layout), draw(seed + 1, shape, dtype, layout)) if present else (None, None)


def invstd_scale(invstd):
    """Errors of the statistics are enlarged by invstd, once per factor of it in the formula."""
    return max(1.0, float(np.max(invstd, initial=0)) ** 2)


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shape=shapes(), layout=layouts, present=st.booleans(), seed=seeds)
def test_batch_norm(shape, dtype, layout, present, seed):
    x, gy = draw(seed, shape, dtype, layout), draw(seed + 1, shape, dtype, layout)
    w, b = affine(seed + 2, shape[1:2], dtype, layout, present)
    _, mean, invstd = variants("batch_norm")["reference"](x, w, b, EPS)
    scale = invstd_scale(invstd)
    check("batch_norm", x, w, b, EPS, dtype=dtype, scale=scale)
    check("batch_norm_grad", gy, x, w, mean, invstd, dtype=dtype, scale=scale)
    var = np.square(draw(seed + 4, shape[1:2], "float32")) + 0.5
    check("batch_norm_inference", x, w, b, mean, var, EPS, dtype=dtype)
    for residual in (None, x[::-1]):
        check("batch_norm_relu_inference", x, w, b, mean, var, residual, EPS, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(8, 6, 30, 30), (3, 16, 35, 33)], ids=str)
def test_batch_norm_of_many_rows(shape, dtype):
    """More rows than one block or task takes, channels that fill vectors and that do not; the oracle would take minutes."""
    c = shape[1:2]
    x, gy, residual = (draw(seed, shape, dtype, "channels_last") for seed in range(3))
    w, b, mean, var = draw(3, c, dtype), draw(4, c, dtype), draw(5, c, dtype), abs(draw(6, c, dtype))
    plain = {verb: variants(verb)["numpy"] for verb in ("batch_norm_relu", "batch_norm_relu_grad", "batch_norm_relu_inference")}

    def wide(*arrays):
        return [a.astype("f8") for a in arrays]

    y, centre, invstd = plain["batch_norm_relu"](*wide(x, w, b, residual), EPS)
    kept = y.astype(dtype), *(a.astype("f4") for a in (centre, invstd))
    expected = {
        "batch_norm_relu": (kept, (x, w, b, residual, EPS)),
        "batch_norm_relu_grad": (plain["batch_norm_relu_grad"](*wide(gy, x, w, b, *kept), True), (gy, x, w, b, *kept, True)),
        "batch_norm_relu_inference": (
            (plain["batch_norm_relu_inference"](*wide(x, w, b, mean, var, residual), EPS),), (x, w, b, mean, var, residual, EPS)),
    }  # fmt: skip
    for verb, (results, arguments) in expected.items():
        for name, kernel in under_test(verb):
            got = kernel(*arguments)
            for a, exact in zip(got if isinstance(got, tuple) else (got,), results, strict=True):
                limits = contract.SUMS[dtype]
                # A sum over n numbers of order one is of order sqrt(n), and so are its roundings.
                scale = x[:, 0].size ** 0.5 if a.ndim == 1 else 1
                np.testing.assert_allclose(a.astype("f8"), exact, limits.rtol, limits.atol * scale, err_msg=f"{verb} {name}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_running_statistics(unbiased, dtype, layout):
    options = {"count": 7, "momentum": 0.3, "eps": 0.1, "unbiased": unbiased}

    def arrays():
        positive = [abs(draw(seed, (40,), dtype)) + 0.5 for seed in (1, 3)]
        return [cases.arrange(a, layout) for a in (draw(0, (40,), dtype), positive[0], draw(2, (40,), dtype), 2 * positive[1])]

    expected = arrays()
    variants("running_stats_")["reference"](*expected, **options)
    assert (expected[3] ** -2 < 0.1).any()           # some variances are cut off at 0
    for name, kernel in under_test("running_stats_"):
        got = arrays()
        kernel(*got, **options)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, *contract.SUMS[dtype][:2], err_msg=name)


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shape=shapes(), layout=layouts, present=st.booleans(), seed=seeds, data=st.data())
def test_layer_and_group_norm(shape, dtype, layout, present, seed, data):
    x, gy = draw(seed, shape, dtype, layout), draw(seed + 1, shape, dtype, layout)
    ndim = data.draw(st.integers(1, len(shape) - 1))
    w, b = affine(seed + 2, shape[len(shape) - ndim :], dtype, layout, present)
    _, mean, invstd = variants("layer_norm")["reference"](x, w, b, ndim, EPS)
    scale = invstd_scale(invstd)
    check("layer_norm", x, w, b, ndim, EPS, dtype=dtype, scale=scale)
    check("layer_norm_grad", gy, x, w, mean, invstd, ndim, dtype=dtype, scale=scale)
    groups = data.draw(st.sampled_from([g for g in range(1, shape[1] + 1) if shape[1] % g == 0]))
    w, b = affine(seed + 2, shape[1:2], dtype, layout, present)
    _, mean, invstd = variants("group_norm")["reference"](x, w, b, groups, EPS)
    scale = invstd_scale(invstd)
    check("group_norm", x, w, b, groups, EPS, dtype=dtype, scale=scale)
    check("group_norm_grad", gy, x, w, mean, invstd, groups, dtype=dtype, scale=scale)


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shape=shapes(), layout=layouts, size=st.integers(1, 8), beta=st.sampled_from([0.5, 0.75, 1.0]),
       k=st.sampled_from([1.0, 2.0]), seed=seeds)
def test_local_response_norm(shape, dtype, layout, size, beta, k, seed):
    x, gy = draw(seed, shape, dtype, layout), draw(seed + 1, shape, dtype, layout)
    check("local_response_norm", x, size, 0.3, beta, k, dtype=dtype)
    check("local_response_norm_grad", gy, x, size, 0.3, beta, k, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_empty_batches(variant, dtype):
    x = np.empty((0, 4, 3, 3), dtype)
    for verb, options in (("batch_norm", ()), ("layer_norm", (2,)), ("group_norm", (2,))):
        y, mean, invstd = variants(verb)[variant](x, None, None, *options, EPS)
        gx, gw, gb = variants(verb + "_grad")[variant](x, x, None, mean, invstd, *options)
        assert y.shape == gx.shape == x.shape and y.dtype == gx.dtype == dtype
        assert not gw.any() and not gb.any()
    assert variants("local_response_norm")[variant](x, 5, 1e-4, 0.75, 2).shape == x.shape


@pytest.mark.parity
@few
@given(shape=shapes(ndims=(4,), channels=(2, 4, 6)), seed=seeds)
def test_the_reference_equals_torch(shape, seed):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    F = torch.nn.functional
    x, gy, w, b = draw(seed, shape), draw(seed + 1, shape), draw(seed + 2, shape[1:2]), draw(seed + 3, shape[1:2])
    wide, high = draw(seed + 2, shape[2:]), draw(seed + 3, shape[2:])
    for verb, weights, options, theirs in (
        ("batch_norm", (w, b), (), lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.1, EPS)),
        ("layer_norm", (wide, high), (2,), lambda x, w, b: F.layer_norm(x, shape[2:], w, b, EPS)),
        ("group_norm", (w, b), (2,), lambda x, w, b: F.group_norm(x, 2, w, b, EPS)),
    ):
        tensors = [torch.tensor(a, requires_grad=True) for a in (x, *weights)]
        expected = theirs(*tensors)
        expected.backward(torch.tensor(gy))
        y, mean, invstd = variants(verb)["reference"](x, *weights, *options, EPS)
        scale = invstd_scale(invstd)
        assert_close(verb, y, expected.detach().numpy(), "float64", scale)
        grads = variants(verb + "_grad")["reference"](gy, x, weights[0], mean, invstd, *options)
        assert_close(verb, grads, tuple(t.grad.numpy() for t in tensors), "float64", scale)
    for size in (1, 2, 5):
        tx = torch.tensor(x, requires_grad=True)
        expected = F.local_response_norm(tx, size, 0.3, 0.75, 2.0)
        expected.backward(torch.tensor(gy))
        y = variants("local_response_norm")["reference"](x, size, 0.3, 0.75, 2.0)
        assert_close("local_response_norm", y, expected.detach().numpy(), "float64")
        gx = variants("local_response_norm_grad")["reference"](gy, x, size, 0.3, 0.75, 2.0)
        assert_close("local_response_norm", gx, tx.grad.numpy(), "float64")


def test_local_response_norm_of_the_lecture_at_the_edge_channels():
    """AlexNet's formula with the plain sum: n=5, k=2, alpha=1e-4, beta=0.75; torch's alpha is n times as large."""
    x = draw(0, (1, 7, 2, 2)) * 30
    y = run("local_response_norm", x, 5, 5 * 1e-4, 0.75, 2.0)
    for i in (0, 1, 3, 5, 6):
        total = sum(x[0, j] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))
        np.testing.assert_allclose(y[0, i], x[0, i] / (2 + 1e-4 * total) ** 0.75, rtol=1e-13)  # a few roundings


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("verb, options", [("batch_norm", ()), ("layer_norm", (2,)), ("group_norm", (2,))])
def test_a_mean_that_is_large_against_the_spread(verb, options, layout):
    """E[x^2] - E[x]^2 in float32 would have no digit left: 1e4^2 = 1e8 against a variance of 1."""
    x = draw(0, (64, 2, 16, 16), "float32", layout) + np.float32(1e4)
    y, mean, invstd = run(verb, x, None, None, *options, EPS)
    exact, _, exact_invstd = variants(verb)["reference"](x.astype("float64"), None, None, *options, EPS)
    # float32 holds 1e4 to 5e-4 (half an ulp), and that is what the mean may be off by.
    np.testing.assert_allclose(y, exact, atol=1e-3)
    np.testing.assert_allclose(invstd, exact_invstd, rtol=1e-5)


def test_batch_norm_divides_by_m():
    x = np.array([[1.0], [3.0]])
    y, mean, invstd = run("batch_norm", x, None, None, 0.0)
    assert mean.tolist() == [2] and invstd.tolist() == [1] and y.tolist() == [[-1], [1]]
