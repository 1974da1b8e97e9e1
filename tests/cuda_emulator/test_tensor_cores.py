"""Convolution on tensor cores, float16 and bfloat16, against float64 on the rounded inputs; and its planted bug."""
import numpy as np
import pytest

from minidl.errors import DeviceError
from minidl.kernels import variants
from minidl.kernels.cuda.conv import TENSOR, _channels_first, _filters_first, _numbers
from minidl.kernels.cuda.launch import launch
from minidl.ops.geometry import conv2d_geometry
from tests.cuda_emulator.emulator import SCHEDULES

# x, w, then stride, padding, dilation, groups: tiles that are full, ragged in every dimension, strided, grouped.
SHAPES = [
    ((2, 16, 9, 9), (72, 16, 3, 3), 1, 1, 1, 1),
    ((1, 8, 7, 11), (8, 8, 1, 1), 1, 0, 1, 1),
    ((2, 24, 10, 6), (40, 24, 5, 3), (2, 1), (2, 0), 1, 1),
    ((1, 32, 8, 8), (32, 16, 3, 3), 1, 2, 2, 2),
    ((3, 64, 8, 8), (64, 64, 3, 3), 2, 1, 1, 1),
]  # fmt: skip
# A float16 holds 11 bits: half an ulp is 4.9e-4 of the value, and the products are summed in float32.
LIMIT = {"rtol": 1e-3, "atol": 2e-3}


def numbers(seed, shape, dtype="float16"):
    return (np.random.default_rng(seed).standard_normal(shape) / 2).astype(dtype)


def check(verb, emulator, a, b, geom, entry):
    expected = variants(verb, "cpu")["numpy"](a.astype("f8"), b.astype("f8"), *([None] if verb == "conv2d" else []), geom)
    got = variants(verb, "emu")["tensor"](a, b, *([None] if verb == "conv2d" else []), geom)
    assert entry in emulator.launched, f"{verb} fell through"
    assert got.dtype == np.float16
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got / scale, expected / scale, **LIMIT)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_float16(case, schedule, emulator):
    emulator.schedule = schedule
    geom = conv2d_geometry(*case)
    x, w, gy = numbers(0, case[0]), numbers(1, case[1]), numbers(2, (geom.N, geom.O, geom.out_h, geom.out_w))
    check("conv2d", emulator, x, w, geom, "conv_tensor")
    check("conv2d_input_grad", emulator, gy, w, geom, "conv_input_grad_tensor")
    check("conv2d_weight_grad", emulator, gy, x, geom, "conv_weight_grad_tensor")


def test_bfloat16(emulator):
    """bfloat16 has no NumPy dtype of its own; ml_dtypes lends one."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    geom = conv2d_geometry((2, 16, 6, 6), (24, 16, 3, 3), 1, 1)
    x, w = numbers(0, (2, 16, 6, 6), bfloat16), numbers(1, (24, 16, 3, 3), bfloat16)
    inputs = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), _filters_first(emulator, w)
    y = np.empty((2, 6, 6, 24), bfloat16)
    arguments = (*inputs, None, y, 72, *_numbers(geom), 0)
    launch(emulator, TENSOR, "conv_tensor", arguments, dtype="bfloat16", grid=(2, 1, 1), block=(128,))
    expected = variants("conv2d", "cpu")["numpy"](x.astype("f8"), w.astype("f8"), None, geom).transpose(0, 2, 3, 1)
    # 8 bits: half an ulp is 3.9e-3.
    np.testing.assert_allclose(y.astype("f8"), expected, rtol=4e-3, atol=4e-3 * np.abs(expected).max())


@pytest.mark.parametrize("shape, why", [((1, 12, 5, 5), "12 channels"), ((1, 3, 5, 5), "3 channels")])
def test_what_is_not_a_multiple_of_eight_falls_through(shape, why, emulator):
    w = numbers(1, (8, shape[1], 3, 3))
    y = variants("conv2d", "emu")["tensor"](numbers(0, shape), w, None, conv2d_geometry(shape, w.shape))
    assert y.shape == (1, 8, 3, 3) and not emulator.launched, why


def test_an_older_gpu_is_refused(emulator):
    emulator.capability = 75
    x, w = numbers(0, (1, 8, 4, 4)), numbers(1, (8, 8, 1, 1))
    with pytest.raises(DeviceError, match="conv_tensor: there is no conv_mma.cu for float16 on sm_75; choose another variant"):
        variants("conv2d", "emu")["tensor"](x, w, None, conv2d_geometry(x.shape, w.shape))


def test_a_missing_barrier_shows(emulator):
    case = SHAPES[0]
    geom = conv2d_geometry(*case)
    x, w = numbers(0, case[0]), numbers(1, case[1])
    right = variants("conv2d", "emu")["tensor"](x, w, None, geom)
    emulator.options = ("BUG_NO_BARRIER_AFTER_COPY",)
    wrong = []
    for emulator.schedule in SCHEDULES:
        wrong.append(not np.array_equal(variants("conv2d", "emu")["tensor"](x, w, None, geom), right))
    assert any(wrong)


def test_groups_first():
    """(groups, C/groups, kh, kw, O/groups): what the input gradient reads."""
    w = numbers(0, (6, 2, 3, 1))
    geom = conv2d_geometry((1, 4, 5, 5), (6, 2, 3, 1), 1, 0, 1, 2)
    gpu = type("Gpu", (), {"xp": np})
    packed = _channels_first(gpu, w, geom)
    assert packed.shape == (2, 2, 3, 1, 3) and packed[1, 0, 2, 0, 1] == w[4, 0, 2, 0]
