"""Convolution with few channels per group: each kernel of depthwise.cu against float64, and which calls it takes."""
import numpy as np
import pytest

from minidl.kernels import lookup, spec, variants
from minidl.kernels.cuda.layout import filters_first, inputs_first, maps, taps_first
from minidl.ops.geometry import conv2d_geometry
from tests.cuda_emulator.emulator import SCHEDULES
from tests.cuda_emulator.test_tensor_cores import error, exact, in_memory_as, numbers

# x, w, then stride, padding, dilation, groups; and the kernels of forward and input gradient.
SHAPES = {
    "vectors": (((2, 16, 7, 9), (16, 1, 3, 3), 1, 1, 1, 16), "depthwise"),
    "strides": (((1, 8, 8, 7), (8, 1, 5, 2), (2, 3), (2, 1), (1, 2), 8), "depthwise"),
    "no vectors": (((2, 9, 6, 5), (9, 1, 3, 3), 2, 1, 1, 9), "grouped"),
    "two filters a channel": (((1, 8, 5, 6), (16, 1, 3, 3), 1, 1, 1, 8), "grouped"),
    "narrow groups": (((1, 40, 5, 6), (20, 8, 3, 2), (1, 2), 1, 1, 5), "grouped"),
    "several parts": (((3, 8, 14, 14), (8, 1, 3, 3), 1, 1, 1, 8), "depthwise"),
}  # fmt: skip
BFLOAT16 = 5e-3                                                 # of the largest output; half an ulp is 3.9e-3


def calls(case, dtype):
    geom = conv2d_geometry(*case)
    x, w, b = numbers(0, case[0], dtype), numbers(1, case[1], dtype), numbers(2, (geom.O,), dtype)
    gy = numbers(3, (geom.N, geom.O, geom.out_h, geom.out_w), dtype)
    return {"conv2d": (x, w, b, geom, "fast", True), "conv2d_input_grad": (gy, w, geom), "conv2d_weight_grad": (gy, x, geom)}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_three_verbs(name, dtype, schedule, emulator):
    emulator.schedule = schedule
    case, kernel = SHAPES[name]
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    for verb, arguments in calls(case, dtype).items():
        emulator.launched.clear()
        got = lookup(verb, "emu")(*arguments)
        vectors = case[0][1] * got.dtype.itemsize % 16 == 0
        entry = kernel if vectors or kernel == "grouped" else "grouped"
        assert {"conv2d": entry, "conv2d_input_grad": f"{entry}_input_grad", "conv2d_weight_grad": "grouped_weight_grad"}[verb] \
            in emulator.launched  # fmt: skip
        limits = spec(verb).tolerance
        limit = limits[got.dtype.name].rtol if got.dtype.name in limits else BFLOAT16
        assert error(got, exact(verb, arguments)) < limit and got.dtype == dtype
        assert got.tobytes() == lookup(verb, "emu")(*arguments).tobytes(), "two runs gave different bits"


def test_wider_groups_are_left_to_tiles(emulator):
    for x, w, groups in (((1, 36, 5, 5), (36, 9, 3, 3), 4), ((1, 4, 5, 5), (36, 1, 3, 3), 4), ((1, 4, 5, 5), (4, 4, 3, 3), 1)):
        geom = conv2d_geometry(x, w, 1, 1, 1, groups)
        emulator.launched.clear()
        variants("conv2d", "emu")["depthwise"](numbers(0, x), numbers(1, w), None, geom)
        assert not emulator.launched & {"grouped", "depthwise"}


def test_a_missing_barrier_shows(emulator):
    arguments = calls(SHAPES["vectors"][0], "float32")["conv2d_weight_grad"]
    expected, wrong = exact("conv2d_weight_grad", arguments), []
    emulator.options = ("BUG_NO_BARRIER_BEFORE_JOINING",)
    for emulator.schedule in SCHEDULES:
        wrong.append(not error(lookup("conv2d_weight_grad", "emu")(*arguments), expected) < 1e-5)  # NaN is wrong too
    assert any(wrong)


# ---- packing (layout.cu) -------------------------------------------------------------------------------------------------


def test_filters_are_packed_as_they_are_read(emulator):
    w = numbers(0, (6, 2, 3, 5))
    first = w.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(filters_first(emulator, w), first)
    filled = filters_first(emulator, w[::-1], 4)                # any strides
    np.testing.assert_array_equal(filled[..., :2], first[::-1])
    assert filled.shape == (6, 3, 5, 4) and not filled[..., 2:].any()
    split = w.reshape(2, 3, 2, 3, 5).transpose(0, 2, 3, 4, 1)   # two groups of three filters
    np.testing.assert_array_equal(inputs_first(emulator, w, 2), split)
    filled = inputs_first(emulator, w, 2, 8)
    np.testing.assert_array_equal(filled[..., :3], split)
    assert filled.shape == (2, 2, 3, 5, 8) and not filled[..., 3:].any()
    np.testing.assert_array_equal(taps_first(emulator, w), w.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("how", ["channels first", "channels last", "anywhere"])
def test_channels_of_maps_are_filled_up_with_zeros(how, emulator):
    x = numbers(0, (2, 6, 3, 5))
    there = in_memory_as(x, how)
    filled = maps(emulator, there, 2, 4).reshape(2, 3, 5, 2, 4)
    np.testing.assert_array_equal(filled[..., :3].reshape(2, 3, 5, 6), x.transpose(0, 2, 3, 1))
    assert not filled[..., 3:].any()
    same = maps(emulator, there, 2, 3)
    np.testing.assert_array_equal(same, x.transpose(0, 2, 3, 1))
    assert np.shares_memory(same, there) == (how == "channels last") and same.ctypes.data % 16 == 0
