"""Convolution as products of pipelined tiles, against float64: on tensor cores (float16, bfloat16, TF32) and in float32; the
layout of fragments; planted bugs."""
from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import config
from minidl.kernels import lookup, use, variants
from minidl.kernels.cuda import conv_products, source
from minidl.ops.geometry import conv2d_geometry
from tests.cuda_emulator.emulator import SCHEDULES, Emulator

# x, w, then stride, padding, dilation, groups; and what each kernel's tile is called, for two bytes: forward, input gradient,
# weight gradient.  (Maps of float32 are never narrow: three channels, filled up to four, are 16 bytes.)
SHAPES = {
    "several tiles": (((2, 16, 9, 9), (72, 16, 3, 3), 1, 1, 1, 1), ("", "", "")),
    "one pixel and tap": (((1, 8, 1, 1), (8, 8, 1, 1), 1, 0, 1, 1), ("", "", "")),
    "strides": (((2, 24, 10, 6), (40, 24, 5, 3), (2, 1), (2, 0), 1, 1), ("", "", "")),
    "dilation, groups": (((1, 32, 8, 8), (32, 16, 3, 3), 1, 2, 2, 2), ("", "", "")),
    "strides against dilation": (((1, 16, 13, 11), (8, 16, 3, 4), (4, 3), (5, 2), (2, 3), 1), ("", "", "")),
    "phases without taps": (((1, 8, 7, 5), (16, 8, 1, 1), 2, 0, 1, 1), ("", "", "")),
    "a first layer": (((2, 3, 15, 13), (16, 3, 7, 7), 2, 3, 1, 1), ("_narrow", "", "_narrow")),
    "odd channels and groups": (((1, 18, 6, 5), (10, 9, 2, 3), 1, 1, 1, 2), ("_narrow", "", "_narrow")),
    "parts": (((1, 48, 5, 5), (40, 48, 5, 5), 1, 2, 1, 1), ("", "", "")),
    "wide": (((2, 24, 9, 11), (128, 24, 3, 3), 1, 1, 1, 1), ("_wide", "", "_wide")),
    "wide backwards": (((2, 128, 9, 11), (24, 128, 3, 3), 1, 1, 1, 1), ("", "_wide", "")),
}  # fmt: skip
ENTRIES = {"conv2d": "conv", "conv2d_input_grad": "conv_input_grad", "conv2d_weight_grad": "conv_weight_grad"}
# Relative to the largest output.  float16: 11 bits, half an ulp is 4.9e-4.  bfloat16: 8 bits, 3.9e-3.  TF32: both factors have
# 11 bits, so that a product is off by 1e-3 at most, and a sum of many by less of the largest.  float32: 1,200 products in another
# order, sqrt(n) * 6e-8.
LIMIT = {"float16": 1e-3, "bfloat16": 5e-3, "tf32": 1e-3, "float32": 2e-6}
UNITS = {"float16": ("tensor", "float16"), "tf32": ("tensor", "float32"), "float32": ("pipelined", "float32")}


def numbers(seed, shape, dtype="float16"):
    return (np.random.default_rng(seed).standard_normal(shape) / 2).astype(dtype)


def operands(case, dtype):
    """The arguments of the three verbs."""
    geom = conv2d_geometry(*case)
    x, w, b = numbers(0, case[0], dtype), numbers(1, case[1], dtype), numbers(2, (geom.O,), dtype)
    gy = numbers(3, (geom.N, geom.O, geom.out_h, geom.out_w), dtype)
    return {"conv2d": (x, w, b, geom, "tf32", True), "conv2d_input_grad": (gy, w, geom, "tf32"),
            "conv2d_weight_grad": (gy, x, geom, "tf32")}  # fmt: skip


def exact(verb, arguments):
    return variants(verb, "cpu")["numpy"](*(a.astype("f8") if isinstance(a, np.ndarray) else a for a in arguments))


def error(got, expected):
    return np.abs(got.astype("f8") - expected).max() / np.abs(expected).max()


def check(verb, emulator, arguments, kind, tile):
    """``kind``: a dtype or "tf32"."""
    emulator.launched.clear()
    variant = UNITS.get(kind, ("tensor",))[0]
    entry = ENTRIES[verb] + ("_fma" if variant == "pipelined" else "_tensor") + tile
    got = variants(verb, "emu")[variant](*arguments)
    assert entry in emulator.launched, f"{verb} ran {emulator.launched}"
    assert got.dtype == arguments[0].dtype
    assert error(got, exact(verb, arguments)) < LIMIT[kind]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_three_products(name, kind, schedule, emulator):
    emulator.schedule = schedule
    case, tiles = SHAPES[name]
    for (verb, arguments), tile in zip(operands(case, UNITS[kind][1]).items(), tiles, strict=True):
        check(verb, emulator, arguments, kind, tile if kind == "float16" or tile == "_wide" else "")
        assert name != "parts" or verb == "conv2d_weight_grad" or "join_parts" in emulator.launched


@pytest.mark.parametrize("kind", UNITS)
def test_two_runs_give_the_same_bits(kind, emulator):
    variant, dtype = UNITS[kind]
    for verb, arguments in operands(SHAPES["parts"][0], dtype).items():
        kernel = variants(verb, "emu")[variant]
        first = kernel(*arguments)
        emulator.schedule = "reverse"
        assert kernel(*arguments).tobytes() == first.tobytes()


@pytest.mark.parametrize("name", ["several tiles", "a first layer", "wide"])
def test_bfloat16(name, emulator):
    """bfloat16 has no NumPy dtype of its own; ml_dtypes lends one."""
    case, tiles = SHAPES[name]
    arguments = operands(case, pytest.importorskip("ml_dtypes").bfloat16)
    for verb, tile in zip(arguments, tiles, strict=True):
        check(verb, emulator, arguments[verb], "bfloat16", tile)


def in_memory_as(x, how):
    if how == "channels first":
        return x
    if how == "channels last":
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    room = np.empty(x.size + 8, x.dtype)                        # an array that begins at no multiple of 16 bytes
    first = 1 if room.ctypes.data % 16 == 0 else 0
    there = room[first : first + x.size].reshape(x.transpose(0, 2, 3, 1).shape)
    there[...] = x.transpose(0, 2, 3, 1)
    return there.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("how", ["channels first", "channels last", "anywhere"])
@pytest.mark.parametrize("channels", [3, 16])
def test_maps_of_any_layout(how, channels, emulator):
    x, w = numbers(0, (2, channels, 6, 7)), numbers(1, (8, channels, 3, 3))
    arguments = (in_memory_as(x, how), w, None, conv2d_geometry(x.shape, w.shape))
    check("conv2d", emulator, arguments, "float16", "_narrow" if channels == 3 else "")


# ---- which variant is taken ----------------------------------------------------------------------------------------------


def ran(emulator, x, w, *options, kernel=None):
    emulator.launched.clear()
    geom = conv2d_geometry(x.shape, w.shape, 1, 1, 1, x.shape[1] // w.shape[1])
    y = (kernel or lookup("conv2d", "emu"))(x, w, None, geom, *options)
    assert error(y, exact("conv2d", (x, w, None, geom))) < 2e-3 and y.dtype == x.dtype  # rounded to float16, or to TF32
    return emulator.launched - {"pack", "join_parts"}


def test_the_best_that_fits_is_chosen(emulator):
    x, w = numbers(0, (1, 16, 5, 5)), numbers(1, (8, 16, 3, 3))
    assert ran(emulator, x, w) == {"conv_tensor"}
    assert ran(emulator, x, w, "direct") == {"conv_tensor"}     # it is a sum of products
    assert ran(emulator, x.astype("f4"), w.astype("f4")) == {"conv_fma"}, "float32 is not rounded unless it is allowed"
    assert ran(emulator, x.astype("f4"), w.astype("f4"), "direct") == {"conv_fma"}
    assert ran(emulator, x.astype("f4"), w.astype("f4"), "tf32") == {"conv_tensor"}
    tensor = variants("conv2d", "emu")["tensor"]
    assert ran(emulator, x.astype("f4"), w.astype("f4"), kernel=lambda *a: tensor(*a, precision="tf32")) == {"conv_tensor"}
    assert ran(emulator, x.astype("f8"), w.astype("f8"), "tf32") == {"conv"}
    assert ran(emulator, x, w[:, :2]) == {"grouped"}
    with use(conv2d="naive"):
        assert ran(emulator, x, w) == {"conv_naive"}
    with use(conv2d="tensor"):
        assert ran(emulator, x, w[:, :2]) == {"conv_tensor_narrow"}
        assert ran(emulator, x.astype("f4"), w.astype("f4")) == {"conv_fma"}, "what is refused goes to the next best"
    with use(conv2d="depthwise"):
        assert ran(emulator, x, w) == {"conv_tensor"}
    with use(conv2d="pipelined"):
        assert ran(emulator, x, w) == {"conv"}


def test_an_older_gpu_gets_the_next_best(emulator):
    emulator.capability = 75
    x, w = numbers(0, (1, 16, 5, 5)), numbers(1, (8, 16, 3, 3))
    assert ran(emulator, x, w) == {"conv"}
    assert ran(emulator, x, w, kernel=variants("conv2d", "emu")["tensor"]) == {"conv"}
    assert ran(emulator, x.astype("f4"), w.astype("f4")) == {"conv"}
    assert not source.made_for("conv_wide.cu", "float16", 75) and source.made_for("conv_wide.cu", "float16", 80)


def test_tf32_is_a_switch(emulator):
    shapes = (1, 4, 5, 5), (3, 4, 3, 3)
    x, w = (minidl.tensor(numbers(0, shape, "f4"), device="emu", requires_grad=True) for shape in shapes)
    for allowed, precision, expected in ((False, "fast", False), (True, "fast", True), (True, "direct", False)):
        emulator.launched.clear()
        with config.allow_tf32(allowed), config.conv_precision(precision):
            F.conv2d(x, w).sum().backward()
        for entry in ENTRIES.values():
            assert (f"{entry}_tensor" in emulator.launched) == expected


def test_tiles_are_chosen_by_what_there_is_to_do(emulator):
    emulator.multiprocessors = 100
    small, wide, narrow = conv_products.TENSOR
    choose = lambda *arguments: conv_products.choose(emulator, conv_products.TENSOR, *arguments)
    assert choose(128 * 100, 128, 1, False) is wide
    assert choose(128 * 99, 128, 1, False) is small, "a processor would be idle"
    assert choose(128 * 100, 128, 1, True) is narrow
    assert choose(128 * 100, 64, 1, False) is small, "half of the columns would be nothing"
    assert choose(128 * 100, 192, 1, False) is wide
    assert choose(64, 128 * 100, 1, False) is small
    assert choose(128, 128, 1, False, 100) is wide, "parts are blocks too"


def test_much_shared_memory_is_asked_for(emulator, monkeypatch):
    """A GPU refuses a launch with more than 48 KB that the kernel was not told of."""
    made, function = [], emulator.function
    monkeypatch.setattr(emulator, "function", lambda *arguments: made.append(function(*arguments)) or made[-1])
    for name, expected in (("wide", [None, conv_products.TENSOR.wide.shared]), ("several tiles", [None, None])):
        made.clear()
        variants("conv2d", "emu")["tensor"](*operands(SHAPES[name][0], "float16")["conv2d"])
        assert [getattr(kernel, "max_dynamic_shared_size_bytes", None) for kernel in made] == expected


# ---- numbers and fragments -----------------------------------------------------------------------------------------------


def test_tf32_is_rounded_to_the_nearest_and_away_from_zero(emulator):
    values = np.array([1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 1 + 3 * 2**-11, 2.0**-130, np.inf, np.nan, 0], np.float32)
    rounded = np.array([1 + 2**-10, -1 - 2**-10, 1, 1 + 4 * 2**-11, 2.0**-130, np.inf, np.nan, 0], np.float32)
    x, w = np.zeros((1, 4, 1, len(values)), np.float32), np.zeros((1, 4, 1, 1), np.float32)
    x[0, 0, 0], w[0, 0] = values, 1
    y = variants("conv2d", "emu")["tensor"](x, w, None, conv2d_geometry(x.shape, w.shape), "tf32")
    np.testing.assert_array_equal(y[0, 0, 0], rounded)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fragments_are_where_the_manual_says(dtype):
    """PTX ISA, "Matrix fragments for mma.m16n8k8" (.tf32) and "... mma.m16n8k16" (.f16), formula by formula."""
    rng, per = np.random.default_rng(0), 4 // np.dtype(dtype).itemsize
    a = rng.integers(-4, 5, (16, 8 * per)).astype(dtype)       # small whole numbers: every sum is exact
    b = rng.integers(-4, 5, (8 * per, 8)).astype(dtype)
    registers_a, registers_b = np.empty((32, 4, per), dtype), np.empty((32, 2, per), dtype)
    for lane in range(32):
        group, within = lane >> 2, lane % 4
        for i in range(4):                                      # tf32: a0 a1 a2 a3; f16: a0a1 a2a3 a4a5 a6a7
            row, k = group + 8 * (i % 2), within * per + 4 * per * (i // 2)
            registers_a[lane, i] = a[row, k : k + per]
        for i in range(2):
            k = within * per + 4 * per * i
            registers_b[lane, i] = b[k : k + per, group]
    d = np.empty((32, 4), np.float32)
    gpu = Emulator(folder=Path(__file__).parent / "kernels")
    arguments = registers_a.view(np.uint32).reshape(-1), registers_b.view(np.uint32).reshape(-1), d.reshape(-1)
    gpu.function("fragments.cu", "product", source.defines(dtype))((1,), (32,), arguments)
    expected = a.astype("f8") @ b.astype("f8")
    for lane in range(32):
        for i in range(4):
            assert d[lane, i] == expected[(lane >> 2) + 8 * (i // 2), lane % 4 * 2 + i % 2]


# ---- planted bugs --------------------------------------------------------------------------------------------------------

BUGS = {
    "BUG_NO_BARRIER_AFTER_COPY": ("conv2d", "float16"),
    "BUG_WAIT_FOR_ONE_TOO_FEW": ("conv2d", "float32"),
    "BUG_FRAGMENTS_OUT_OF_ORDER": ("conv2d_weight_grad", "tf32"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows(bug, emulator):
    verb, kind = BUGS[bug]
    variant, dtype = UNITS[kind]
    arguments = operands(SHAPES["several tiles"][0], dtype)[verb]
    expected, wrong = exact(verb, arguments), []
    emulator.options = (bug,)
    for emulator.schedule in SCHEDULES:
        wrong.append(not error(variants(verb, "emu")[variant](*arguments), expected) < LIMIT[kind])  # NaN is wrong too
    assert any(wrong)
