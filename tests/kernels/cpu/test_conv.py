"""The vector convolutions: any shape, within their arrays, the same bits for every number of threads."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import variants
from minidl.kernels.cpu import dispatch, memory, threads, transforms
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.launch import Program
from minidl.kernels.cpu.winograd_shapes import suits
from minidl.ops.geometry import conv2d_geometry
from tests.kernels.cases import arrange, layouts, seeds
from tests.kernels.cpu.guards import guard_bands

VERBS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
# Relative to the largest result.  "direct" sums up to 5,000 products in float32 (sqrt(n) * 6e-8 = 4e-6); Winograd's F(4, 3) and
# F(2, 5) multiply by up to 8 and lose two to three bits of that.
TOLERANCE = {"direct": 1e-5, "fast": 4e-5}

channels = st.sampled_from([1, 3, 5, 8, 16, 17, 32, 40, 64])


@st.composite
def convolutions(draw):
    """(x_shape, w_shape, stride, padding, dilation, groups) of convolutions that fit; often 3x3 or 5x5 with stride 1."""
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    c, o = draw(channels) * groups, draw(st.sampled_from([1, 4, 8, 10, 16, 24, 48, 100])) * groups
    if draw(st.booleans()):                          # many narrow groups, or a few of odd widths
        groups, narrow = draw(st.integers(2, 40)), draw(st.sampled_from([1, 2, 4, 8]))
        other = draw(st.sampled_from([narrow, narrow, narrow, 1, 3, 4]))
        c, o = narrow * groups, other * groups
    usual = draw(st.sampled_from([0, 3, 5]))
    kh, kw = (usual, usual) if usual else (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    stride, dilation = ((1, 1), (1, 1)) if usual else (
        (draw(st.integers(1, 4)), draw(st.integers(1, 4))), (draw(st.integers(1, 3)), draw(st.integers(1, 2))))
    padding = tuple(tuple(draw(st.integers(0, 4)) for _ in range(2)) for _ in range(2))
    least = [max(1, d * (k - 1) + 1 - sum(p)) for d, k, p in zip(dilation, (kh, kw), padding, strict=True)]
    h, w = (draw(st.integers(low, low + 20)) for low in least)
    return (draw(st.integers(0, 5)), c, h, w), (o, c // groups, kh, kw), stride, padding, dilation, groups


def run_all(variant, x, w, b, gy, geom, *precision):
    conv2d, input_grad, weight_grad = (variants(verb)[variant] for verb in VERBS)
    return conv2d(x, w, b, geom, *precision), input_grad(gy, w, geom, *precision), weight_grad(gy, x, geom, *precision)


def data(case, seed, layout="channels_last"):
    geom = conv2d_geometry(*case)
    rng = np.random.default_rng(seed)
    x, w, b, gy = (rng.standard_normal(shape).astype(np.float32) for shape in
                   (case[0], case[1], (geom.O,), (geom.N, geom.O, geom.out_h, geom.out_w)))
    return arrange(x, layout), w, b, arrange(gy, layout), geom


def assert_near(got, expected, tolerance):
    for verb, a, b in zip(VERBS, got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == np.float32
        if b.size:
            assert abs(a - b).max() <= tolerance * max(abs(b).max(), 1), verb


@settings(deadline=None, max_examples=60)
@given(case=convolutions(), precision=st.sampled_from(["fast", "direct"]), layout=layouts, seed=seeds)
def test_any_shape(case, precision, layout, seed):
    x, w, b, gy, geom = data(case, seed, layout)
    with pytest.MonkeyPatch.context() as patch:
        check = guard_bands(patch)
        got = run_all("vector", x, w, b, gy, geom, precision)
        check()
    expected = run_all("numpy", *(a.astype(np.float64) for a in (x, w, b, gy)), geom)
    assert_near(got, expected, TOLERANCE[precision])


@settings(deadline=None, max_examples=40)
@given(case=convolutions(), layout=layouts, seed=seeds)
def test_columns_and_back(case, layout, seed):
    geom = conv2d_geometry(*case)
    rng = np.random.default_rng(seed)
    x = arrange(rng.standard_normal(case[0]).astype(np.float32), layout)
    gcols = rng.standard_normal((geom.N, geom.C * geom.kh * geom.kw, geom.out_h * geom.out_w)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "LARGE", 1)
        check = guard_bands(patch)
        cols, back = variants("im2col")["vector"](x, geom), variants("col2im")["vector"](arrange(gcols, layout), geom)
        if x.size and cols.size:
            check()
    np.testing.assert_array_equal(cols, variants("im2col")["numpy"](x, geom))
    # Up to 49 numbers of order one, added in float32.
    np.testing.assert_allclose(back, variants("col2im")["numpy"](gcols.astype(np.float64), geom), rtol=1e-5, atol=2e-5)


SHAPES = {
    "1 pixel": ((1, 16, 1, 1), (16, 16, 1, 1), 1, 0),
    "no images": ((0, 16, 8, 8), (16, 16, 3, 3), 1, 1),
    "gray 5x5": ((9, 1, 28, 28), (6, 1, 5, 5), 1, 2),
    "AlexNet 1": ((2, 3, 67, 67), (64, 3, 11, 11), 4, 2),
    "AlexNet 2": ((2, 64, 27, 27), (192, 64, 5, 5), 1, 2),
    "ResNet stem": ((2, 3, 64, 64), (64, 3, 7, 7), 2, 3),
    "ResNet stride": ((3, 16, 32, 32), (32, 16, 3, 3), 2, 1),
    "ResNet 32x32": ((33, 16, 32, 32), (16, 16, 3, 3), 1, 1),
    "ResNet 8x8": ((17, 64, 8, 8), (64, 64, 3, 3), 1, 1),
    "5x5 8x8": ((9, 20, 8, 8), (20, 20, 5, 5), 1, 2),
    "5x5 shrinking": ((2, 16, 14, 9), (40, 16, 5, 5), 1, (0, 1)),
    "wide 13x13": ((3, 192, 13, 13), (384, 192, 3, 3), 1, 1),
    "1x1 stride 2": ((3, 64, 14, 14), (128, 64, 1, 1), 2, 0),
    "wide 7x7": ((5, 130, 7, 7), (136, 130, 3, 3), 1, 1),
    "wider than tiles": ((2, 96, 9, 11), (88, 96, 3, 3), 1, 1),
    "wide 5x5": ((1, 136, 9, 6), (72, 136, 5, 5), 1, 2),
    "1x1 stride 3, odd": ((2, 40, 11, 13), (24, 40, 1, 1), 3, 0),
    "1x1 stride 2, no step": ((2, 16, 1, 1), (24, 16, 1, 1), 2, 0),
    "1x1, many weights": ((3, 520, 3, 2), (530, 520, 1, 1), 1, 0),
    "shrinking": ((2, 24, 13, 30), (48, 24, 3, 3), 1, (2, 0)),
    "3 wide": ((1, 16, 14, 3), (40, 16, 3, 3), 1, 2),
    "grouped": ((2, 64, 9, 9), (96, 32, 3, 3), 1, 1, 1, 2),
    "depthwise": ((3, 100, 14, 14), (100, 1, 3, 3), 1, 1, 1, 100),
    "depthwise stride": ((2, 32, 15, 15), (32, 1, 5, 5), 2, 2, 1, 32),
    "two filters per channel": ((3, 20, 7, 9), (40, 1, 3, 3), 1, 1, 1, 20),
    "ResNeXt 4": ((9, 128, 10, 10), (128, 4, 3, 3), 1, 1, 1, 32),
    "ResNeXt 8/2": ((2, 72, 9, 9), (72, 8, 3, 3), 2, 1, 1, 9),
    "ResNeXt 16": ((2, 320, 6, 6), (320, 16, 3, 3), 1, 1, 1, 20),
    "first layer, dilated": ((3, 3, 23, 20), (24, 3, 3, 4), (2, 3), ((2, 0), (1, 4)), (3, 2)),
    "first layer, five channels": ((2, 5, 13, 11), (10, 5, 7, 5), 1, 3),
    "groups of 3 and 5": ((2, 60, 8, 8), (100, 3, 3, 3), 1, 1, 1, 20),
}


@pytest.mark.parametrize("precision", ["fast", "direct"])
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_known_shapes(guarded, case, precision):
    x, w, b, gy, geom = data(case, 7)
    got = run_all("vector", x, w, b, gy, geom, precision)
    guarded()
    assert_near(got, run_all("numpy", *(a.astype(np.float64) for a in (x, w, b, gy)), geom), TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["fast", "direct"])
@pytest.mark.parametrize("name", ["ResNet 32x32", "ResNet 8x8", "ResNet stride", "gray 5x5", "5x5 8x8", "wide 7x7", "depthwise",
                                   "ResNeXt 4", "ResNeXt 16"])
def test_the_number_of_threads_changes_no_bit(name, precision):
    x, w, b, gy, geom = data(SHAPES[name], 3)
    before, results = threads.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            threads.set_num_threads(count)
            results.append([a.tobytes() for a in run_all("vector", x, w, b, gy, geom, precision)])
    finally:
        threads.set_num_threads(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", ["ResNet 8x8", "AlexNet 1", "AlexNet 2", "1x1 stride 2", "gray 5x5", "wide 7x7", "depthwise"])
def test_a_relu_in_the_same_pass_gives_the_same_bits(guarded, name):
    x, w, b, _, geom = data(SHAPES[name], 2)
    x[-1, :, :2, :2], conv2d = np.nan, variants("conv2d")["vector"]
    y, rectified = conv2d(x, w, b, geom), conv2d(x, w, b, geom, relu=True)
    guarded()
    assert np.isnan(rectified).any() and (rectified == 0).any()
    np.testing.assert_array_equal(rectified, np.maximum(y, 0))


def test_channels_last_goes_in_and_out_without_a_copy():
    x, w, b, gy, geom = data(SHAPES["ResNet 8x8"], 1)
    y, gx, gw = run_all("vector", x, w, b, gy, geom)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous and gx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert gw.flags.c_contiguous and memory.owns(gw)
    np.testing.assert_array_equal(y, run_all("vector", np.ascontiguousarray(x), w, b, gy, geom)[0])


def test_what_winograd_is_for():
    def chosen(x, w, stride=1, padding=1, transposed=False, lanes=1, **options):
        return suits(conv2d_geometry(x, w, stride, padding, **options), transposed, lanes)
    assert chosen((8, 16, 32, 32), (16, 16, 3, 3)) is transforms.F43
    assert chosen((8, 16, 2, 2), (16, 16, 3, 3)) is transforms.F23
    assert chosen((8, 16, 27, 27), (16, 16, 5, 5), padding=2) is transforms.F25
    assert chosen((8, 20, 8, 8), (20, 20, 5, 5), padding=2, lanes=4) is transforms.F25
    assert chosen((8, 20, 8, 8), (20, 20, 5, 5), padding=2, lanes=16) is None
    assert chosen((8, 16, 32, 32), (16, 16, 3, 3), 2) is None
    assert chosen((8, 16, 5, 5), (16, 16, 5, 5), padding=0) is None
    assert chosen((8, 16, 32, 32), (16, 16, 7, 7)) is None
    assert chosen((8, 16, 32, 32), (16, 16, 3, 5)) is None
    assert chosen((8, 3, 32, 32), (16, 3, 3, 3)) is None
    assert chosen((8, 16, 9, 9), (16, 16, 3, 3), padding=3, transposed=True) is None
    assert chosen((8, 16, 9, 9), (16, 16, 5, 5), padding=3, transposed=True) is transforms.F25
    assert chosen((8, 16, 32, 32), (16, 16, 3, 3), dilation=2, padding=2) is None


@pytest.mark.parametrize("w", list(transforms.FORMS.values()), ids=lambda w: f"F({w.outputs},{w.taps})")
def test_the_transforms_compute_a_correlation(w):
    """One line: result(filter(g) * image(d)) is the correlation, and the gradients' transforms are the transposes of these."""
    width, outputs, taps, size = 4, w.outputs, w.taps, w.size
    k = Kernel(f"line_{outputs}_{taps}", width)
    count = size + taps + outputs
    source, target = k.pointer("source", count, width), k.pointer("target", outputs + taps, width)
    lines = [k.load(source + i * k.bytes) for i in range(count)]
    d, g, gy = lines[:size], lines[size : size + taps], lines[size + taps :]
    image = w.image(k, d)
    y = w.result(k, [a * b for a, b in zip(w.filter(k, g), image, strict=True)])
    gg = w.filter_gradient(k, [a * b for a, b in zip(w.gradient(k, gy), image, strict=True)])
    for i, value in enumerate([*y, *gg]):
        k.store(value, target + i * k.bytes)
    values = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    result = np.zeros((outputs + taps, width), np.float32)
    Program(k)(source=values, target=result, alone=True)
    d, g, gy = values[:size], values[size : size + taps], values[size + taps :]
    expected = [sum(g[u] * d[i + u] for u in range(taps)) for i in range(outputs)]
    expected += [sum(gy[i] * d[i + u] for i in range(outputs)) for u in range(taps)]
    # Products of numbers of order ten, rounded to 24 bits.
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5)
