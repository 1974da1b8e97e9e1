"""Matrix products through cuBLAS: every argument of its calls, checked with a library that takes the same ones."""
import ctypes
import threading
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import nn
from minidl.backend import get_backend
from minidl.config import allow_tf32
from minidl.errors import DeviceError
from minidl.kernels.cuda import cublas
from tests.cuda_emulator.emulator import Emulator

GPU = Emulator()                                     # for the tests that launch no kernel
SIZES = st.integers(0, 5)


@pytest.fixture
def calls():
    GPU.blas.calls.clear()
    return GPU.blas.calls


def numbers(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def product(a, b):
    assert cublas.takes(a, b)
    before = a.copy(), b.copy()
    y = cublas.matmul(GPU, a, b)
    expected = np.matmul(a.astype("f8"), b.astype("f8"))
    assert y.dtype == a.dtype and y.shape == expected.shape
    # Sums of some terms of order one, in the accumulation type; float16 is rounded once more.
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-5, "float64": 1e-13}[a.dtype.name]
    np.testing.assert_allclose(y.astype("f8"), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])
    return y


@st.composite
def operands(draw):
    """Two arrays for matmul: any shapes that broadcast, each cut out of a larger array, with transposed axes and odd steps."""
    m, k, n = draw(SIZES), draw(SIZES), draw(SIZES)
    batch = draw(st.lists(st.integers(0, 3), max_size=3))
    shapes = []
    for matrix in ((m, k), (k, n)):
        lead = batch[draw(st.integers(0, len(batch))) :]
        shapes.append((*(1 if draw(st.booleans()) else size for size in lead), *matrix))
    return [laid_out(draw, shape) for shape in shapes]


def laid_out(draw, shape):
    """An array of that shape whose elements lie in memory in some order, with steps and gaps."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from((1, 1, 1, 2, -1))) for _ in shape]
    gaps = [draw(st.sampled_from((0, 0, 3))) for _ in shape]
    whole = numbers([shape[axis] * abs(steps[axis]) + gaps[axis] for axis in order], seed=draw(st.integers(0, 9)))
    cut = tuple(slice(None, shape[axis] * abs(steps[axis]), None) for axis in order)
    x = whole[cut].transpose(np.argsort(order))
    return x[tuple(slice(None, None, step) for step in steps)]


@settings(max_examples=200)
@given(operands())
def test_any_shapes_and_strides(arrays):
    product(*arrays)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shapes", [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)), ((2, 3), (3, 4)),
], ids=str)  # fmt: skip
def test_vectors_and_dtypes(shapes, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    product(*(numbers(shape, dtype) for shape in shapes))


def test_views_are_used_where_they_lie(calls, monkeypatch):
    """Transposed matrices, rows with a gap between them and batches at one distance need no copy."""
    monkeypatch.setattr(GPU, "xp", types.SimpleNamespace(empty=np.empty))                  # nothing there that copies
    wide = numbers((4, 9, 8))
    cublas.matmul(GPU, wide[0, :, :5], wide[1, :5, :7])
    cublas.matmul(GPU, wide[0, :, :5], wide[1, :7, :5].T)
    cublas.matmul(GPU, wide[0, :7].T, wide[1, :7])
    cublas.matmul(GPU, wide[:, :3, :5], wide[:, :, :5].swapaxes(1, 2))
    cublas.matmul(GPU, wide, wide[2, :, :].T)
    assert calls == [
        ("cublasGemmEx", (0, 0, 7, 9, 5, 8, 8, 7)),                                       # n, m, k; the second operand first
        ("cublasGemmEx", (1, 0, 7, 9, 5, 8, 8, 7)),
        ("cublasGemmEx", (0, 1, 8, 8, 7, 8, 8, 8)),
        ("cublasGemmStridedBatchedEx", (1, 0, 9, 3, 5, 8, 72, 8, 72, 9, 27, 4)),
        ("cublasGemmEx", (1, 0, 9, 36, 8, 8, 8, 9)),                                      # four matrices as one tall one
    ]  # fmt: skip


def test_one_matrix_for_a_whole_batch_is_not_repeated(calls):
    a, b = numbers((5, 2, 3)), numbers((3, 4))
    product(np.broadcast_to(a[0], (5, 2, 3)), b)
    product(b.T, a.swapaxes(1, 2))
    assert [c[1][-1] for c in calls if "Batched" in c[0]] == [5, 5]
    assert calls[0][1][8] == 0 and calls[1][1][8] == 0                                     # the step of the repeated operand


def test_heads_of_attention_are_copied_once(calls):
    """(batch, heads, length, size) seen through (batch, length, heads, size): two distances between matrices, not one."""
    q, k = (numbers((2, 4, 3, 5), seed=seed).transpose(0, 2, 1, 3) for seed in (0, 1))
    product(q, k.swapaxes(2, 3))
    assert [name for name, _ in calls] == ["cublasGemmStridedBatchedEx"] and calls[0][1][-1] == 6


def test_nothing_to_multiply(calls):
    np.testing.assert_array_equal(product(numbers((2, 0)), numbers((0, 3))), np.zeros((2, 3)))
    assert product(numbers((0, 4)), numbers((4, 3))).shape == (0, 3) and not calls


@pytest.mark.parametrize("a, b", [
    (numbers((2, 3)), numbers((3, 2), "float64")), (np.ones((2, 3), int), np.ones((3, 2), int)),
    (numbers((2, 3)), numbers((2, 3))), (numbers((2, 1, 3)), numbers((3, 3, 1))), (numbers(()), numbers((1, 1))),
], ids=["dtypes", "integers", "shapes", "batches", "0-d"])  # fmt: skip
def test_what_is_left_to_the_array_module(a, b):
    assert not cublas.takes(a, b)


def test_tf32_is_a_choice():
    a, b = numbers((4, 64)), numbers((64, 4), seed=1)
    exact = product(a, b)
    rounded = cublas.matmul(GPU, a, b, tf32=True)
    assert cublas.matmul(GPU, a.astype("f8"), b.astype("f8"), tf32=True).dtype == "f8"
    difference = np.abs(rounded - exact).max()
    assert 1e-5 < difference < 0.05                  # 10 bits: 5e-4 of each factor, in sums of 64 products


def test_a_handle_for_each_thread_and_a_workspace_for_each_stream():
    gpu = Emulator()
    a = numbers((2, 2))
    for stream in (0, 64, 0):
        gpu.stream = stream
        cublas.matmul(gpu, a, a)
    gpu.stream = 128
    thread = threading.Thread(target=cublas.matmul, args=(gpu, a, a))
    thread.start()
    thread.join()
    addresses = [address for address, size in gpu.blas.workspaces.values() if size == 32 << 20]
    assert [*gpu.blas.workspaces] == [None, 64, 128] and len(set(addresses)) == 3          # None: the null stream
    assert len(gpu.blas.calls) == 4


def test_an_error_of_the_library():
    gpu = Emulator()
    gpu.blas.cublasGemmEx = lambda *arguments: 7
    with pytest.raises(DeviceError, match=r"matmul: cuBLAS reports an unsupported value or parameter.* \(status 7\)"):
        cublas.matmul(gpu, numbers((2, 2)), numbers((2, 2)))


def test_without_the_library(monkeypatch):
    def missing(name, *rest):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    cublas.load.cache_clear()
    words = r"matmul: cuBLAS is not found \(.*libcublas.so: cannot open.*pip install 'minidl\[cuda13\]'"
    with pytest.raises(DeviceError, match=words):
        cublas.load()


def test_the_library_gets_its_types(monkeypatch):
    """A pointer passed without them would lose its upper half."""
    class Library:
        def __getattr__(self, name):
            found = type("Function", (), {})()
            setattr(self, name, found)
            return found

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    cublas.load.cache_clear()
    library = cublas.load()
    cublas.load.cache_clear()
    assert library.cublasGemmEx.argtypes[7] is ctypes.c_void_p and library.cublasGemmEx.restype is ctypes.c_int
    assert len(library.cublasGemmEx.argtypes) == 19 and len(library.cublasGemmStridedBatchedEx.argtypes) == 23


def test_linear_and_matmul_go_through_it(emulator):
    x, layer = minidl.tensor(numbers((2, 3, 4)), device="emu", requires_grad=True), nn.Linear(4, 5).to("emu")
    y = layer(x)
    (y @ y.transpose(-1, -2)).sum().backward()
    host = x.detach().cpu().requires_grad_()
    weight, bias = (p.detach().cpu().requires_grad_() for p in layer.parameters())
    expected = host @ weight.T + bias
    (expected @ expected.transpose(-1, -2)).sum().backward()
    for found, wanted in ((y, expected), (x.grad, host.grad), (layer.weight.grad, weight.grad)):
        np.testing.assert_allclose(found.detach().numpy(), wanted.detach().numpy(), rtol=1e-4, atol=1e-4)  # sums of 30 terms
    # forward: linear, matmul; backward: two of the matmul, then linear's input and weight
    assert [name for name, _ in emulator.blas.calls] == [
        "cublasGemmEx", *["cublasGemmStridedBatchedEx"] * 3, "cublasGemmEx", "cublasGemmEx"]  # fmt: skip
    wide = minidl.tensor(numbers((4, 64)), device="emu")
    with allow_tf32(True):
        rounded = wide @ wide.T
    assert 0 < (rounded - wide @ wide.T).abs().max().item() < 0.05
    assert get_backend("emu").matmul(np.arange(4).reshape(2, 2), np.eye(2, dtype=int)).tolist() == [[0, 1], [2, 3]]
