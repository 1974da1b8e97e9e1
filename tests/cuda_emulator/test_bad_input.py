"""What a CUDA kernel cannot take: nothing at all, other dtypes, more elements than 32 bits count, variants that do not exist."""
from types import SimpleNamespace

import numpy as np
import pytest

from minidl import kernels
from minidl.errors import ConfigError, DTypeError, ShapeError
from minidl.kernels import registry, variants
from minidl.kernels.cuda.launch import launch
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry

F32 = np.float32
EMPTY = {
    "conv2d": (np.empty((0, 2, 5, 5), F32), np.ones((4, 2, 3, 3), F32), None, conv2d_geometry((0, 2, 5, 5), (4, 2, 3, 3))),
    "conv2d_input_grad": (np.empty((0, 4, 3, 3), F32), np.ones((4, 2, 3, 3), F32), conv2d_geometry((0, 2, 5, 5), (4, 2, 3, 3))),
    "conv2d_weight_grad": (np.empty((0, 4, 3, 3), F32), np.empty((0, 2, 5, 5), F32), conv2d_geometry((0, 2, 5, 5), (4, 2, 3, 3))),
    "im2col": (np.empty((0, 2, 5, 5), F32), conv2d_geometry((0, 2, 5, 5), (4, 2, 3, 3))),
    "max_pool2d": (np.empty((0, 2, 5, 5), F32), pool2d_geometry((0, 2, 5, 5), 2)),
    "avg_pool2d": (np.empty((0, 2, 5, 5), F32), pool2d_geometry((0, 2, 5, 5), 2)),
    "batch_norm": (np.empty((0, 4, 3), F32), None, None, 1e-5),
    "batch_norm_grad": (np.empty((0, 4, 3), F32), np.empty((0, 4, 3), F32), None, np.zeros(4, F32), np.ones(4, F32)),
    "layer_norm": (np.empty((0, 4), F32), None, None, 1, 1e-5),
    "local_response_norm": (np.empty((0, 4, 3), F32), 5, 1e-4, 0.75, 1.0),
    "softmax": (np.empty((3, 0), F32), 1),
    "log_softmax": (np.empty((0, 3), F32), 1),
    "softmax_cross_entropy": (np.empty((0, 3), F32), np.empty(0, np.int64), None, -100, 0.0),
    "gelu": (np.empty((0, 3), F32), "none"),
    "channel_sum": (np.empty((0, 3, 2), F32),),
    "dropout": (np.empty((0, 3), F32), 0.5, (1, 2)),
    "philox_bits": (1, 2, 0),
    "attention": (np.empty((0, 3, 4), F32), np.empty((0, 5, 4), F32), np.empty((0, 5, 4), F32), 0.5),
}  # fmt: skip


@pytest.mark.parametrize("verb", EMPTY)
def test_nothing(verb, emulator):
    """A grid without blocks is an error to CUDA: every variant has to see that there is nothing to launch."""
    expected = variants(verb, "cpu")["numpy"](*EMPTY[verb])
    for name, kernel in variants(verb, "emu").items():
        got = kernel(*EMPTY[verb])
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)   # sums over nothing are 0


@pytest.mark.parametrize("dtype", ["int64", "complex64", "longdouble", "bool"])
def test_dtypes_without_kernels_are_computed_by_the_array_module(dtype, emulator):
    a = np.array([[1, 0], [1, 1]], dtype)
    np.testing.assert_array_equal(kernels.lookup("add", "emu")(a, a), np.add(a, a))
    geom = pool2d_geometry((1, 1, 2, 2), 2)
    if a.dtype.kind in "if":                         # complex numbers have no largest
        y, indices = kernels.lookup("max_pool2d", "emu")(a[None, None], geom)
        assert y.dtype == a.dtype and y.item() == 1 and indices.item() == 0
    assert not emulator.launched


def test_two_dtypes_are_not_mixed_in_a_kernel(emulator):
    x, w = np.ones((1, 2, 3, 3), np.float32), np.ones((4, 2, 1, 1), np.float64)
    y = kernels.lookup("conv2d", "emu")(x, w, None, conv2d_geometry(x.shape, w.shape))
    assert (y == 2).all() and not emulator.launched
    with pytest.raises(DTypeError, match="conv_naive: w has dtype float64, the kernel takes float32"):
        launch(emulator, "conv.cu", "conv_naive", (x, w, None, x, 1, *[1] * 16), dtype="float32", work=1)
    with pytest.raises(ConfigError, match="no CUDA kernel takes longdouble; they take float32, float64, float16, bfloat16"):
        launch(emulator, "conv.cu", "conv_naive", (), dtype="longdouble", work=1)


class Huge:
    """An array that says it has 2^33 + 5 elements."""

    size = 2**33 + 5
    shape, dtype, flags = (size,), np.dtype(np.float32), SimpleNamespace(c_contiguous=True)


def test_more_elements_than_32_bits_can_count():
    """The number of elements reaches the kernel whole, and the grid stays one that CUDA can start."""
    launched = []
    gpu = SimpleNamespace(
        name="fake", xp=SimpleNamespace(ndarray=Huge), threads=256, multiprocessors=132, capability=90,
        function=lambda file, entry, defines: lambda grid, block, values, shared_mem: launched.append((grid, block, values)),
    )  # fmt: skip
    x, y = Huge(), Huge()
    launch(gpu, "elementwise.cu", "relu_naive", (x, y, x.size), dtype="float32", work=x.size)
    ((grid, block, (_, _, n)),) = launched
    assert n.dtype == np.int64 and n == 2**33 + 5 and grid[0] < 2**31 and block == (256,)
    with pytest.raises(ShapeError, match=f"softmax_naive: D={x.size} does not fit int; split the array into smaller ones"):
        launch(gpu, "softmax.cu", "softmax_naive", (x, y, 1, x.size, 0), dtype="float32", work=1)
    assert len(launched) == 1


@pytest.mark.parametrize("device", ["cuda", "emu"])
def test_a_variant_that_does_not_exist(device, emulator):
    with pytest.raises(ConfigError, match=r"'softmax' has no variant 'fastest' on .*; it has: "):
        with kernels.use(softmax="fastest"):
            kernels.lookup("softmax", device)
    words = f"'softmax' has no variant 'vector' on '{device}'; it has: cu"
    with kernels.use(softmax="vector"), pytest.raises(ConfigError, match=words):
        kernels.lookup("softmax", device)            # there is one, on the CPU


def test_a_variant_in_the_environment_that_does_not_exist(monkeypatch):
    monkeypatch.setenv(registry.ENVIRONMENT, "softmax=fastest")
    kernels.refresh()
    with pytest.raises(ConfigError, match="MINIDL_KERNELS='softmax=fastest': kernel 'softmax' has no variant 'fastest'"):
        kernels.lookup("softmax", "emu")
    monkeypatch.undo()
    kernels.refresh()
