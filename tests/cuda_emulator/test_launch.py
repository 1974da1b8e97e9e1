"""What a launch refuses, and how numbers and arrays reach a kernel."""
import numpy as np
import pytest

from minidl.errors import ConfigError, DeviceError, DTypeError, ShapeError
from minidl.kernels import lookup, use, variants
from minidl.kernels.cuda import launch as launching
from minidl.kernels.cuda import source
from minidl.kernels.cuda.launch import launch
from tests.cuda_emulator.emulator import EmulatorError


def relu(gpu, x, y, n, entry="relu", dtype="float32"):
    launch(gpu, "elementwise.cu", entry, (x, y, n), dtype=dtype, work=max(1, x.size))


def test_parameters_are_read_from_the_text():
    parameters = source.entries("elementwise.cu")["relu"]
    assert [(p.name, p.type, p.pointer, p.const) for p in parameters] == [
        ("x", "T", True, True), ("y", "T", True, False), ("n", "Index", False, False),
    ]  # fmt: skip
    assert parameters[2].dtype("float16") == np.int64
    weight_grad = {p.name: p for p in source.entries("conv.cu")["conv_weight_grad"]}
    assert weight_grad["partial"].dtype("float16") == np.float32 and weight_grad["gy"].dtype("bfloat16") == "bfloat16"


def test_every_kernel_can_be_read():
    """A kernel that is written through a macro would be missed, and could not be launched."""
    for file in source.files():
        assert len(source.entries(file)) == source.read(file).count("__global__"), file


def test_what_is_refused(emulator):
    x, y = np.ones(4, np.float32), np.empty(4, np.float32)
    with pytest.raises(DTypeError, match="relu: x has dtype float64, the kernel takes float32"):
        relu(emulator, x.astype("f8"), y, 4)
    with pytest.raises(ShapeError, match=r"relu: x of shape \(2,\) is not contiguous: strides \(8,\)"):
        relu(emulator, x[::2], y, 2)
    with pytest.raises(DTypeError, match="relu: y is a list, expected an array on emu"):
        relu(emulator, x, [0.0], 4)
    with pytest.raises(ShapeError, match=r"takes 3 arguments, got 2"):
        launch(emulator, "elementwise.cu", "relu", (x, y), dtype="float32", work=4)
    with pytest.raises(ShapeError, match="max_pool: C=4294967296 does not fit int; split the array"):
        launch(emulator, "pool.cu", "max_pool", (x, y, np.empty(4, np.int64), 4, 1 << 32, *[1] * 12), dtype="float32", work=4)
    with pytest.raises(ConfigError, match="no CUDA kernel takes int32; they take float32"):
        source.defines("int32")


def test_a_variant_that_is_not_there(emulator):
    words = "'relu' has no variant 'vector' on 'emu'; it has: cuda, naive, numpy"
    with use(relu="vector"), pytest.raises(ConfigError, match=words):
        lookup("relu", "emu")


def test_without_an_emulator(monkeypatch):
    monkeypatch.setattr(launching, "_gpus", {})
    with pytest.raises(DeviceError, match="device 'emu': no emulator is attached"):
        lookup("relu", "emu")(np.ones(3, np.float32))


def test_a_part_of_an_array_may_begin_anywhere(emulator):
    """16-byte accesses would be misaligned; the kernel that makes none is launched instead."""
    x = np.arange(-8, 9, dtype=np.float32)[1:]
    np.testing.assert_array_equal(variants("relu", "emu")["cuda"](x), np.maximum(x, 0))
    assert emulator.launched == {"relu_naive"}


def test_nothing_is_launched_for_nothing(emulator):
    for verb, arguments in (("relu", (np.ones((0, 3), np.float32),)), ("dropout", (np.ones(0, np.float32), 0.5, (1, 2)))):
        assert variants(verb, "emu")["cuda"](*arguments).size == 0
    assert not emulator.launched


def test_what_falls_through(emulator):
    """Integers have no kernel: NumPy (CuPy on a GPU) computes them."""
    np.testing.assert_array_equal(lookup("add", "emu")(np.arange(3), np.arange(3)), [0, 2, 4])
    assert not emulator.launched


def test_a_grid_is_small_and_covers_everything(emulator):
    """More elements than all threads of the grid: the loop goes round."""
    x = np.arange(-20_000, 20_000, dtype=np.float64)
    np.testing.assert_array_equal(variants("relu", "emu")["naive"](x), np.maximum(x, 0))


def test_a_block_too_large(emulator):
    x = np.ones(4, np.float32)
    with pytest.raises(EmulatorError, match="a block has 1 to 1024 threads"):
        launch(emulator, "elementwise.cu", "relu", (x, x.copy(), 4), dtype="float32", grid=(1,), block=(2048,))
