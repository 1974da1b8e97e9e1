"""Convolution: every variant against the literal loops, and the loops against scipy and torch."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import spec, variants
from minidl.kernels.plain import conv as plain_conv
from minidl.ops.geometry import conv2d_geometry, conv_transpose2d_geometry
from tests.kernels import cases
from tests.kernels.cases import FLOATS, assert_close, check, draw, examples, layouts, run, seeds, under_test

few = examples(60)


@st.composite
def convolutions(draw_):
    """(x_shape, w_shape, stride, padding, dilation, groups) that fit, up to depthwise and asymmetric padding."""
    pair = lambda low, high: draw_(st.tuples(st.integers(low, high), st.integers(low, high)))
    groups = draw_(st.integers(1, 3))
    c, o = groups * draw_(st.integers(1, 3)), groups * draw_(st.integers(1, 3))
    kernel, stride, dilation = pair(1, 3), pair(1, 3), pair(1, 2)
    padding = draw_(st.one_of(st.integers(0, 3), st.just(pair(0, 2)), st.just((pair(0, 3), pair(0, 3)))))
    h, w = (d * (k - 1) + 1 + extra for k, d, extra in zip(kernel, dilation, pair(0, 4), strict=True))
    return (draw_(st.integers(0, 3)), c, h, w), (o, c // groups, *kernel), stride, padding, dilation, groups


@pytest.mark.parametrize("dtype", FLOATS)
@examples(20)
@given(case=convolutions(), layout=layouts, bias=st.booleans(), seed=seeds)
def test_every_variant_equals_the_reference(case, dtype, layout, bias, seed):
    x_shape, w_shape, *options = case
    geom = conv2d_geometry(x_shape, w_shape, *options)
    x, w = draw(seed, x_shape, dtype, layout), draw(seed + 1, w_shape, dtype, layout)
    b = draw(seed + 2, (geom.O,), dtype, layout) if bias else None
    y = check("conv2d", x, w, b, geom, dtype=dtype)
    check("conv2d", x, w, b, geom, "fast", True, dtype=dtype)
    gy = draw(seed + 3, y.shape, dtype, layout)
    check("conv2d_input_grad", gy, w, geom, dtype=dtype)
    check("conv2d_weight_grad", gy, x, geom, dtype=dtype)
    cols = check("im2col", x, geom, dtype=dtype)
    check("col2im", draw(seed + 4, cols.shape, dtype, layout), geom, dtype=dtype)


@few
@given(case=convolutions(), seed=seeds)
def test_the_gradients_are_transposes(case, seed):
    """<gy, conv(x, w)> = <conv_input_grad(gy, w), x> = <conv_weight_grad(gy, x), w>: no formula to get wrong twice."""
    x_shape, w_shape, *options = case
    geom = conv2d_geometry(x_shape, w_shape, *options)
    x, w = draw(seed, x_shape), draw(seed + 1, w_shape)
    y = run("conv2d", x, w, None, geom)
    gy = draw(seed + 2, y.shape)
    inner = (gy * y).sum()
    # A sum of up to 10^3 products of order one, in another order: float64 has 1e-16 * 10^3 to lose, and cancellation.
    assert (run("conv2d_input_grad", gy, w, geom) * x).sum() == pytest.approx(inner, rel=1e-9, abs=1e-10)
    assert (run("conv2d_weight_grad", gy, x, geom) * w).sum() == pytest.approx(inner, rel=1e-9, abs=1e-10)
    cols = run("im2col", x, geom)
    gcols = draw(seed + 3, cols.shape)
    assert (run("col2im", gcols, geom) * x).sum() == pytest.approx((gcols * cols).sum(), rel=1e-9, abs=1e-10)


@few
@given(case=convolutions(), seed=seeds, chunk=st.sampled_from([1, 200, 1000, 5000]))
def test_the_size_of_a_chunk_changes_nothing(case, seed, chunk):
    x_shape, w_shape, *options = case
    x_shape = (x_shape[0] + 4, *x_shape[1:])
    geom = conv2d_geometry(x_shape, w_shape, *options)
    x, w = draw(seed, x_shape), draw(seed + 1, w_shape)
    whole = run("conv2d", x, w, None, geom)
    gy = draw(seed + 2, whole.shape)
    results = whole, run("conv2d_input_grad", gy, w, geom), run("conv2d_weight_grad", gy, x, geom)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_conv, "CHUNK_BYTES", chunk)
        assert_close("conv2d", run("conv2d", x, w, None, geom), results[0], "float64")
        assert_close("conv2d", run("conv2d_input_grad", gy, w, geom), results[1], "float64")
        assert_close("conv2d", run("conv2d_weight_grad", gy, x, geom), results[2], "float64")


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_it_is_cross_correlation_and_a_flipped_kernel_convolves(variant):
    signal = pytest.importorskip("scipy.signal", reason="scipy is the oracle of the oracle")
    x, w = draw(0, (1, 1, 9, 8)), draw(1, (1, 1, 4, 3))
    geom = conv2d_geometry(x.shape, w.shape)
    conv2d = variants("conv2d")[variant]
    correlated = signal.correlate2d(x[0, 0], w[0, 0], mode="valid")
    convolved = signal.convolve2d(x[0, 0], w[0, 0], mode="valid")
    # rtol: twelve float64 products summed in another order.
    np.testing.assert_allclose(conv2d(x, w, None, geom)[0, 0], correlated, rtol=1e-12)
    np.testing.assert_allclose(conv2d(x, w[:, :, ::-1, ::-1], None, geom)[0, 0], convolved, rtol=1e-12)


@pytest.mark.parametrize("variant", ["numpy", "reference"])
def test_channels_and_samples_are_sums_of_correlations(variant):
    signal = pytest.importorskip("scipy.signal", reason="scipy is the oracle of the oracle")
    x, w, b = draw(2, (2, 3, 7, 6)), draw(3, (4, 3, 3, 2)), draw(4, (4,))
    y = variants("conv2d")[variant](x, w, b, conv2d_geometry(x.shape, w.shape))
    for n in range(2):
        for o in range(4):
            expected = b[o] + sum(signal.correlate2d(x[n, c], w[o, c], mode="valid") for c in range(3))
            np.testing.assert_allclose(y[n, o], expected, rtol=1e-12)


@pytest.mark.parity
@few
@given(case=convolutions(), seed=seeds)
def test_the_reference_equals_torch(case, seed):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    x_shape, w_shape, stride, padding, dilation, groups = case
    geom = conv2d_geometry(x_shape, w_shape, stride, padding, dilation, groups)
    x, w, b = draw(seed, x_shape), draw(seed + 1, w_shape), draw(seed + 2, (geom.O,))
    top, bottom, left, right = geom.padding
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(padded, tw, tb, stride, 0, dilation, groups)
    y = variants("conv2d")["reference"](x, w, b, geom)
    assert_close("conv2d", y, expected.detach().numpy(), "float64")
    gy = draw(seed + 3, y.shape)
    expected.backward(torch.tensor(gy))
    gx = variants("conv2d_input_grad")["reference"](gy, w, geom)
    gw = variants("conv2d_weight_grad")["reference"](gy, x, geom)
    assert_close("conv2d", gx, tx.grad.numpy(), "float64")
    assert_close("conv2d", gw, tw.grad.numpy(), "float64")


@st.composite
def transposed(draw_):
    """(x_shape, w_shape, stride, padding, output_padding, dilation, groups) of transposed convolutions that fit."""
    size, k, stride, dilation, groups = (draw_(st.integers(1, high)) for high in (4, 3, 3, 2, 2))
    extra = draw_(st.integers(0, max(stride, dilation) - 1))
    padding = min(draw_(st.integers(0, 1)), ((size - 1) * stride + dilation * (k - 1)) // 2)
    return (2, 2 * groups, size, size + 1), (2 * groups, 3, k, k), stride, padding, extra, dilation, groups


@few
@given(case=transposed(), seed=seeds)
def test_transposed_convolutions(case, seed):
    """An output padding makes inputs that no window sees, which a convolution's own geometry never has at stride 1."""
    geom = conv_transpose2d_geometry(*case)
    x, w = draw(seed, case[0]), draw(seed + 1, case[1])
    y = check("conv2d_input_grad", x, w, geom, dtype="float64")
    back = check("conv2d", draw(seed + 2, y.shape), w, None, geom, dtype="float64")
    check("conv2d_weight_grad", back, y, geom, dtype="float64")


@pytest.mark.parity
@few
@given(case=transposed(), seed=seeds)
def test_transposed_convolutions_equal_torch(case, seed):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    _, _, stride, padding, extra, dilation, groups = case
    x, w = draw(seed, case[0]), draw(seed + 1, case[1])
    expected = torch.nn.functional.conv_transpose2d(
        torch.tensor(x), torch.tensor(w), None, stride, padding, extra, groups, dilation
    )
    y = run("conv2d_input_grad", x, w, conv_transpose2d_geometry(*case))
    assert_close("conv2d_input_grad", y, expected.numpy(), "float64")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [(2, 2), (4, 4), (4, 6), (8, 2)])
def test_two_groups_are_two_convolutions_bit_for_bit(dtype, channels):
    c, o = channels
    x, w, b = draw(5, (3, c, 8, 7), dtype), draw(6, (o, c // 2, 3, 3), dtype), draw(7, (o,), dtype)
    whole = conv2d_geometry(x.shape, w.shape, 1, 1, 1, 2)
    part = conv2d_geometry((3, c // 2, 8, 7), (o // 2, c // 2, 3, 3), 1, 1)
    halves = [run("conv2d", x[:, i : i + c // 2], w[j : j + o // 2], b[j : j + o // 2], part)
              for i, j in ((0, 0), (c // 2, o // 2))]
    y = run("conv2d", x, w, b, whole)
    assert np.concatenate(halves, axis=1).tobytes() == y.tobytes()


def test_a_1x1_convolution_is_a_matrix_product_per_pixel():
    x, w, b = draw(8, (2, 64, 5, 4)), draw(9, (32, 64, 1, 1)), draw(10, (32,))
    assert (w.size, b.size) == (2048, 32)
    y = run("conv2d", x, w, b, conv2d_geometry(x.shape, w.shape))
    expected = x.transpose(0, 2, 3, 1) @ w[:, :, 0, 0].T + b
    np.testing.assert_allclose(y, expected.transpose(0, 3, 1, 2), rtol=1e-11, atol=1e-12)  # 64 products in another order


def test_one_output_is_a_dot_product_of_75_numbers():
    x, w, b = draw(11, (2, 3, 32, 32), "float32"), draw(12, (6, 3, 5, 5), "float32"), draw(13, (6,), "float32")
    y = run("conv2d", x, w, b, conv2d_geometry(x.shape, w.shape))
    assert y.shape == (2, 6, 28, 28) and y.dtype == np.float32
    window, weights = x[1, :, 10:15, 20:25].reshape(-1), w[4].reshape(-1)
    assert window.size == 75
    assert y[1, 4, 10, 20] == pytest.approx(float(window @ weights + b[4]), rel=1e-5, abs=1e-5)  # float32, 75 terms


def test_float16_sums_are_made_in_float32():
    # 4,096 ones: float16 cannot count past 2,048 by ones.
    x, w = np.ones((1, 4096, 1, 1), "float16"), np.ones((1, 4096, 1, 1), "float16")
    for variant in variants("conv2d").values():
        assert variant(x, w, None, conv2d_geometry(x.shape, w.shape)).item() == 4096


# Larger than those that are generated: several tiles of the GPU's kernels, more taps and channels than their pipelines hold,
# parts of sums, phases of strides, a first layer, 16 bytes of channels.
LARGER = {
    "tiles": ((2, 16, 9, 9), (72, 16, 3, 3), 1, 1, 1, 1),
    "parts": ((1, 48, 5, 5), (40, 48, 5, 5), 1, 2, 1, 1),
    "strides against dilation": ((1, 16, 13, 11), (8, 16, 3, 4), (4, 3), (5, 2), (2, 3), 1),
    "a first layer": ((2, 3, 15, 13), (16, 3, 7, 7), 2, 3, 1, 1),
    "depthwise": ((2, 16, 7, 9), (16, 1, 3, 3), 2, 1, 1, 16),
    "narrow groups": ((1, 40, 5, 6), (20, 8, 3, 2), (1, 2), 1, 1, 5),
}  # fmt: skip


def errors(case, dtype, precision="fast", only=""):
    """(variant, verb, largest error relative to the largest output), against array code in float64: loops would take minutes.

    Of every variant but Numba's, or of those whose names end with ``only``.
    """
    geom = conv2d_geometry(*case)
    x, w, b = draw(0, case[0], dtype), draw(1, case[1], dtype), draw(2, (geom.O,), dtype)
    gy = draw(3, (geom.N, geom.O, geom.out_h, geom.out_w), dtype)
    calls = {"conv2d": (x, w, b, geom, precision, True), "conv2d_input_grad": (gy, w, geom, precision),
             "conv2d_weight_grad": (gy, x, geom, precision)}  # fmt: skip
    for verb, arguments in calls.items():
        exact = variants(verb)["numpy"](*(a.astype("f8") if isinstance(a, np.ndarray) else a for a in arguments))
        for name, kernel in under_test(verb):
            if name.endswith(only) and not name.endswith("numba"):
                got = kernel(*arguments)
                assert got.shape == exact.shape and got.dtype == np.dtype(dtype)
                yield name, verb, np.abs(got - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", LARGER)
def test_larger_shapes(name, dtype):
    for variant, verb, error in errors(LARGER[name], dtype):
        assert error < spec(verb).tolerance[dtype].rtol, (variant, verb)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("x, w", [((2, 24, 9, 11), (128, 24, 3, 3)), ((2, 128, 9, 11), (24, 128, 3, 3))])
def test_the_largest_tiles(x, w, dtype, monkeypatch):
    if cases.device not in ("emu", "cuda"):
        pytest.skip("tiles of the GPU's kernels; --device emu or cuda")
    from minidl.kernels.cuda import conv_products

    # A GPU has more processors than these shapes have tiles.
    monkeypatch.setattr(conv_products, "choose", lambda gpu, tiles, *_: tiles.wide)
    for variant, verb, error in errors((x, w, 1, 1), dtype):
        assert error < spec(verb).tolerance[dtype].rtol, (variant, verb)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", ["tiles", "strides against dilation", "a first layer"])
def test_tf32_is_rounded_once(name, wide, monkeypatch):
    if cases.device not in ("emu", "cuda"):
        pytest.skip("TF32 is a GPU's; --device emu or cuda")
    if wide:
        from minidl.kernels.cuda import conv_products

        monkeypatch.setattr(conv_products, "choose", lambda gpu, tiles, *_: tiles.wide)
    found = [error for _, _, error in errors(LARGER[name], "float32", "tf32", " tensor")]
    # Both factors keep 11 bits; a sum of many products is off by less than one product's 1e-3, and by more than float32's.
    assert len(found) == 3 and 1e-5 < min(found) and max(found) < 1e-3
