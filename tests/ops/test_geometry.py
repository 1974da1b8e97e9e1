"""Output sizes: the numbers of the lectures, the rules of torch, and the errors."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.errors import ShapeError
from minidl.ops.geometry import (
    conv2d_geometry,
    conv_out,
    conv_transpose2d_geometry,
    pool2d_geometry,
    suggest_padding,
)


@pytest.mark.parametrize(
    "arguments, out",
    [
        ((7, 3, 1), 5), ((7, 3, 2), 3), ((7, 3, 1, 1), 7), ((32, 5, 1, 2), 32), ((32, 5), 28), ((28, 5), 24),
        ((7, 3, 3), 2), ((56, 3, 2), 27), ((224, 11, 4, 2), 55), ((224, 7, 2, 3), 112), ((9, 3, 1, 0, 2), 5),
    ],
)
def test_conv_out(arguments, out):
    assert conv_out(*arguments) == out


@pytest.mark.parametrize("f", [3, 5, 7])
def test_same_padding_is_half_of_f_minus_one(f):
    assert conv_out(32, f, 1, (f - 1) // 2) == 32


@pytest.mark.parametrize("size, first", [(227, 56), (224, 55)])
def test_the_sizes_of_alexnet(size, first):
    sizes, n = [], size
    for f, stride, padding in ((11, 4, 2), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0)):
        n = conv_out(n, f, stride, padding)
        sizes.append(n)
    assert sizes == [first, 27, 27, 13, 13, 13, 13, 6] and 256 * n * n == 9216


def test_strict_names_the_layer_and_offers_a_padding():
    with pytest.raises(ShapeError, match=r"^conv1: .*doesn't fit height 7: \(7 - 3 \+ 0\)/3 \+ 1 = 2\.33; try padding=1 -> 3"):
        conv2d_geometry((1, 3, 7, 7), (4, 3, 3, 3), stride=3, strict=True, name="conv1")
    with pytest.raises(ShapeError, match="doesn't fit width 8"):
        conv2d_geometry((1, 3, 7, 8), (4, 3, 3, 3), stride=2, strict=True)
    with pytest.raises(ShapeError, match=r"no symmetric padding fits; \(1, 2\) -> 16"):
        conv2d_geometry((1, 3, 32, 32), (4, 3, 5, 5), stride=2, strict=True)
    fitting = conv2d_geometry((1, 3, 7, 7), (4, 3, 3, 3), 3, padding=1, strict=True)
    assert (fitting.out_h, fitting.out_w) == (3, 3)
    assert conv2d_geometry((1, 3, 7, 7), (4, 3, 3, 3), 3).out_h == 2  # floors without strict


@pytest.mark.parametrize("n", [31, 33, 227])
def test_every_padding_fits_an_odd_size(n):
    advice = suggest_padding(n, 5, 2)
    assert advice.every and advice.symmetric == (0, 1, 2, 3, 4) and advice.padding == (2, 2)


@pytest.mark.parametrize("n", [28, 32, 224])
def test_no_symmetric_padding_fits_an_even_size(n):
    advice = suggest_padding(n, 5, 2)
    assert not advice.symmetric and not advice.every and advice.padding == (1, 2) and advice.out == n // 2
    assert "no symmetric padding fits" in advice.text


@settings(deadline=None)
@given(n=st.integers(1, 60), f=st.integers(1, 12), stride=st.integers(1, 6))
def test_suggested_paddings_fit(n, f, stride):
    advice = suggest_padding(n, f, stride)
    padded = n + sum(advice.padding)
    assert (padded - f) % stride == 0 and (padded - f) // stride + 1 == advice.out >= 1
    for p in range(max(f, stride)):
        fits = n + 2 * p >= f and (n + 2 * p - f) % stride == 0
        assert fits == (p in advice.symmetric)


def test_paddings_in_every_form():
    shapes = (2, 4, 9, 8), (6, 2, 3, 4)
    assert conv2d_geometry(*shapes, padding=1, groups=2).padding == (1, 1, 1, 1)
    assert conv2d_geometry(*shapes, padding=(1, 2), groups=2).padding == (1, 1, 2, 2)
    assert conv2d_geometry(*shapes, padding=((1, 2), (3, 0)), groups=2).padding == (1, 2, 3, 0)
    assert conv2d_geometry(*shapes, padding="valid", groups=2).padding == (0, 0, 0, 0)
    same = conv2d_geometry(*shapes, padding="same", groups=2)
    assert same.padding == (1, 1, 1, 2) and (same.out_h, same.out_w) == (9, 8)  # the odd pixel on the right, as torch
    assert conv2d_geometry(*shapes, padding="same", dilation=2, groups=2).out_w == 8


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((3, 8, 8), (4, 3, 3, 3)), r"conv2d: input \(3, 8, 8\) and weight .* 4 axes .*x\[None\]"),
        (((1, 3, 8, 8), (4, 3, 3)), r"weight must have 4 axes"),
        (((1, 4, 8, 8), (4, 3, 3, 3)), r"expects 3 input channels .* has 4 \(axis 1\); make the layer with in_channels=4"),
        (((1, 6, 8, 8), (4, 3, 3, 3), 1, 0, 1, 4), r"groups=4 does not divide the 6 input channels; .*both 6 and 4: 1, 2"),
        (((1, 6, 8, 8), (5, 3, 3, 3), 1, 0, 1, 2), r"groups=2 does not divide the 5 output channels"),
        (((1, 6, 8, 8), (5, 6, 3, 3), 1, 0, 1, 0), r"groups=0, but it must be at least 1"),
        (((1, 3, 2, 8), (4, 3, 5, 5)), r"larger than the padded height \(axis 2\) of 2 .*use padding=2"),
        (((1, 3, 8, 4), (4, 3, 3, 3), 1, 0, 2), r"kernel of 3 \(dilated by 2 to 5\) is larger than the padded width \(axis 3\)"),
        (((1, 3, 8, 8), (4, 3, 3, 3), 0), r"stride=0, but it must be at least 1"),
        (((1, 3, 8, 8), (4, 3, 3, 3), (1, 2, 3)), r"stride=\(1, 2, 3\), but it must be an int or a pair"),
        (((1, 3, 8, 8), (4, 3, 3, 3), 1.5), r"stride=1.5, but it must be an int or a pair"),
        (((1, 3, 8, 8), (4, 3, 3, 3), 1, -1), r"padding=-1, but it must be at least 0"),
        (((1, 3, 8, 8), (4, 3, 3, 3), 1, (0, 1, 2, 3)), r"padding=\(\(0, 1\), \(2, 3\)\) for top, bottom, left and right"),
        (((1, 3, 8, 8), (4, 3, 3, 3), 1, "full"), r"padding='full', but it must be 'same', 'valid' or numbers"),
        (((1, 3, 8, 8), (4, 3, 3, 3), 2, "same"), r"padding='same' needs stride 1"),
        (((1, 3, 8, 8), (4, 3, 0, 3)), r"the kernel is 0x3"),
    ],
)
def test_convolutions_that_cannot_be(arguments, message):
    with pytest.raises(ShapeError, match=message):
        conv2d_geometry(*arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((3, 8, 8), (3, 4, 3, 3)), r"conv_transpose2d: .*4 axes .*x\[None\]"),
        (((1, 4, 8, 8), (3, 4, 3, 3)), r"expects 3 input channels \(its axis 0\), the input has 4"),
        (((1, 3, 8, 8), (3, 4, 3, 3), 2, 1, 2), r"output_padding 2 along height .*smaller than stride 2 .*at most 1"),
        (((1, 3, 1, 1), (3, 4, 1, 1), 1, 2), r"the output would have -3 along height"),
        (((1, 3, 8, 8), (3, 4, 3, 3), 1, "same"), r"takes numbers only"),
        (((1, 3, 8, 8), (3, 4, 3, 3), 1, 0, 0, 1, 2), r"groups=2 does not divide the 3 input channels"),
    ],
)
def test_transposed_convolutions_that_cannot_be(arguments, message):
    with pytest.raises(ShapeError, match=message):
        conv_transpose2d_geometry(*arguments)


def test_a_transposed_convolution_is_described_by_what_it_transposes():
    geom = conv_transpose2d_geometry((2, 4, 5, 6), (4, 3, 3, 3), 2, 1, 1, 1, 2)
    assert (geom.C, geom.H, geom.W) == (6, 10, 12) and (geom.O, geom.out_h, geom.out_w) == (4, 5, 6)


def test_pooling_sizes():
    geom = pool2d_geometry((1, 2, 55, 55), 3, 2)
    assert (geom.out_h, geom.out_w, geom.stride) == (27, 27, (2, 2))
    assert pool2d_geometry((1, 2, 8, 8), (2, 4)).stride == (2, 4)
    assert pool2d_geometry((1, 2, 56, 56), 3, 2, ceil_mode=True).out_h == 28
    assert pool2d_geometry((1, 2, 3, 3), 1, 2, ceil_mode=True).out_h == 2
    # A last window that would start in the bottom padding is dropped, as torch does.
    assert pool2d_geometry((1, 2, 3, 3), 2, 2, 1, ceil_mode=True).out_h == 2
    assert pool2d_geometry((1, 2, 2, 2), 2, 3, 1, ceil_mode=True).out_h == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((2, 8, 8), 2), r"pool2d: input \(2, 8, 8\), kernel_size 2: .*4 axes"),
        (((1, 2, 8, 8), 2, 2, 2), r"padding 2 along height .*more than half of the kernel of 2; use at most 1"),
        (((1, 2, 2, 8), 3), r"larger than the padded height \(axis 2\) of 2"),
        (((1, 2, 8, 1), 2, 1, 1, 2), r"dilation 2 steps over the width .axis 3. of 1"),
        (((1, 2, 8, 8), 0), r"kernel_size=0, but it must be at least 1"),
        (((1, 2, 8, 8), 2, 0), r"stride=0"),
    ],
)
def test_poolings_that_cannot_be(arguments, message):
    with pytest.raises(ShapeError, match=message):
        pool2d_geometry(*arguments)


@pytest.mark.parity
@settings(deadline=None)
@given(n=st.integers(2, 20), k=st.integers(1, 5), s=st.integers(1, 5), p=st.integers(0, 2), d=st.integers(1, 2),
       ceil=st.booleans())
def test_pooling_sizes_and_errors_are_torchs(n, k, s, p, d, ceil):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    try:
        expected = torch.nn.functional.max_pool2d(torch.zeros(1, 1, n, n), k, s, p, d, ceil).shape[-1]
    except RuntimeError:
        expected = None
    try:
        out = pool2d_geometry((1, 1, n, n), k, s, p, d, ceil).out_h
    except ShapeError:
        out = None
    assert out == expected


def test_what_is_looked_up_again_is_still_checked():
    for geometry, shapes in ((conv2d_geometry, ((1, 2, 8, 8), (3, 2, 3, 3))), (pool2d_geometry, ((1, 2, 8, 8), (3, 3)))):
        first = geometry(*shapes, stride=(1, 1))
        assert geometry(*shapes, stride=(1, 1)) is first and geometry(*map(list, shapes), stride=[1, 1]) == first
        for stride in ((1.0, 1.0), 1.0, (1, 1.0)):   # equal to what was found before, and wrong all the same
            with pytest.raises(ShapeError, match="stride"):
                geometry(*shapes, stride=stride)
