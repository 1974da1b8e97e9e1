"""The teaching kernels for a GPU: there by name only, and right on ragged shapes (``--device numba-cuda``: GPU or simulator).

That their results are those of the oracle, also on random shapes, is tested with the other variants, family by family.
"""
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels import numba_loops, variants
from minidl.kernels.numba_loops import cuda as gpu_loops
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry
from tests.kernels import cases
from tests.kernels.cases import check, draw
from tests.kernels.cpu.test_engine import run

VERBS = [verb for family in gpu_loops.FAMILIES for verb in numba_loops.VERBS[family]]
on_threads = pytest.mark.skipif("cases.device != 'numba-cuda'", reason="with --device numba-cuda")
in_simulator = pytest.mark.skipif("not cases.simulated()", reason="with --device numba-cuda, without a GPU")
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
EPS = 1e-5


# ---- without a GPU and without the simulator ----------------------------------------------------------------------------
@pytest.mark.parametrize("verb", VERBS)
def test_it_is_there_and_nobodys_default(verb):
    found = variants(verb, "cuda")
    assert "numba" in found and kernels.lookup(verb, "cuda") is not found["numba"]
    with kernels.use("numba"):
        assert kernels.lookup(verb, "cuda") is found["numba"]
    file, line = found["numba"].written_in
    assert file.parent.name == "cuda" and file.read_text(encoding="utf-8").splitlines()[line - 1].startswith(f"def {verb}(")


FIRST_CALL = """
import sys
import sys
from types import SimpleNamespace

import numpy as np
from minidl.kernels import variants
from minidl.errors import ConfigError
softmax = variants("softmax", "cuda")["numba"]
assert "numba" not in sys.modules
sys.modules.update({})
try:
    softmax(np.zeros((1, 2), np.float32), 1)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("hidden, found, remedy", [
    ("", "finds no GPU that Numba can use: ", "or set NUMBA_ENABLE_CUDASIM=1 to run it in Numba's simulator, on NumPy arrays"),
    ("numba=None", "needs Numba, which does not work here (", "or choose another of cuda, cupy, naive"),
])  # fmt: skip
def test_numba_is_imported_by_the_first_call_which_says_what_is_missing(hidden, found, remedy):
    code = FIRST_CALL.replace("update({})", f"update({hidden})")
    error, _ = run(code, CUDA_VISIBLE_DEVICES="", NUMBA_ENABLE_CUDASIM="0")
    assert error.startswith(f"kernel 'softmax': variant 'numba' {found}"), error
    assert error.strip().endswith(f"; pip install 'minidl[numba-cuda]', {remedy}"), error


# ---- on threads ---------------------------------------------------------------------------------------------------------
# Sizes that are no multiple of a block; more numbers than the simulator has threads, and fewer than a block has.
@on_threads
@dtypes
@pytest.mark.parametrize("case", [
    ((2, 3, 6, 7), (4, 3, 3, 2), (2, 1), 1, 1, 1),
    ((1, 4, 5, 5), (6, 2, 2, 3), 1, (0, 2), (2, 1), 2),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1, 1),
])  # fmt: skip
def test_convolution(case, dtype):
    x_shape, w_shape, *options = case
    geom = conv2d_geometry(x_shape, w_shape, *options)
    x, w, b = draw(0, x_shape, dtype), draw(1, w_shape, dtype), draw(2, w_shape[:1], dtype)
    y = check("conv2d", x, w, b, geom, "fast", True, dtype=dtype)
    check("conv2d_input_grad", y, w, geom, dtype=dtype)
    check("conv2d_weight_grad", y, x, geom, dtype=dtype)
    check("col2im", check("im2col", x, geom, dtype=dtype), geom, dtype=dtype)


@on_threads
@dtypes
@pytest.mark.parametrize("options", [(2,), (3, 2, 1), ((3, 2), (1, 2), (1, 0), (1, 2)), ((2, 3), 3, 1, 1, True)])
def test_pooling(options, dtype):
    x = draw(0, (2, 3, 6, 7), dtype)
    x[0, 0, :3] = 1                                  # ties: the first wins
    x[1, 1, 2, 3] = np.nan
    geom = pool2d_geometry(x.shape, *options)
    y, indices = check("max_pool2d", x, geom, dtype=dtype)
    gy = draw(1, y.shape, dtype)
    check("max_pool2d_grad", gy, indices, geom, dtype=dtype)
    check("max_pool2d_take", x, indices, geom, dtype=dtype)
    for include in (True, False):
        check("avg_pool2d", x, geom, include, dtype=dtype)
        check("avg_pool2d_grad", gy, geom, include, dtype=dtype)


@on_threads
@dtypes
@pytest.mark.parametrize("shape", [(3, 2, 5), (5, 3), (2, 1, 3, 3)])
def test_batch_norm(shape, dtype):
    x, gy, w, b = draw(0, shape, dtype), draw(1, shape, dtype), draw(2, shape[1:2], dtype), draw(3, shape[1:2], dtype)
    for weights in ((w, b), (None, None)):
        y, mean, invstd = check("batch_norm_relu", x, *weights, gy, EPS, dtype=dtype)
        check("batch_norm_relu_grad", gy, x, *weights, y, mean, invstd, True, dtype=dtype)
        check("batch_norm", x, *weights, EPS, dtype=dtype)
        check("batch_norm_grad", gy, x, weights[0], mean, invstd, dtype=dtype)
        check("batch_norm_inference", x, *weights, mean, mean * mean, EPS, dtype=dtype)


@on_threads
@dtypes
@pytest.mark.parametrize("size", [1, 3, 13])
def test_softmax(size, dtype):
    x, gy = draw(0, (size, 3), dtype), draw(1, (size, 3), dtype)
    x[0, 1] = 300                                    # its exponential is too large for float32
    y = check("softmax", x, 0, dtype=dtype)
    check("softmax_grad", gy, y, 0, dtype=dtype)
    y = check("log_softmax", x, 0, dtype=dtype)
    check("log_softmax_grad", gy, y, 0, dtype=dtype)


@on_threads
@dtypes
@pytest.mark.parametrize("size", [1, 4, 61])
def test_dropout(size, dtype):
    check("dropout", draw(0, (size,), dtype), 0.4, (2**63 + 5, 2**40 + 7), dtype=dtype)
    check("dropout_mask", (size,), 0.4, (3, 4), dtype, dtype=dtype)


@on_threads
@pytest.mark.parametrize("verb, arguments", {
    "softmax": (np.empty((0, 3), np.float32), 1),
    "dropout": (np.empty(0, np.float32), 0.5, (1, 2)),
    "im2col": (np.empty((0, 1, 3, 3), np.float32), conv2d_geometry((0, 1, 3, 3), (1, 1, 2, 2))),
    "batch_norm": (np.empty((0, 2, 3), np.float32), None, None, EPS),
}.items())  # fmt: skip
def test_nothing(verb, arguments):
    """A grid of no blocks would be an error."""
    for _, kernel in cases.under_test(verb):
        result = kernel(*arguments)
        assert (result[0] if isinstance(result, tuple) else result).size == 0


@in_simulator
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value):
    x = np.array([[1, value, 2]], np.float32)
    for verb in ("softmax", "log_softmax"):
        got, expected = variants(verb, "cuda")["numba"](x, 1), variants(verb, "cpu")["numpy"](x, 1)
        np.testing.assert_allclose(got, expected, rtol=1e-6)  # an ulp or two of exp and log


@in_simulator
def test_other_dtypes_are_left_to_the_array_module(monkeypatch):
    monkeypatch.setattr(numba_loops.Variant, "_kernel", property(lambda self: pytest.fail("called")))
    y = variants("softmax", "cuda")["numba"](np.zeros((1, 4), np.float16), 1)
    assert y.dtype == np.float16 and (y == 0.25).all()


# ---- for a GPU that is not there ----------------------------------------------------------------------------------------
def signatures(real):
    """Every kernel by its name, with the types that it is launched with for arrays of ``real``."""
    from numba import types

    from minidl.kernels.numba_loops.cuda import blocks, conv, dropout, norm, pool
    from minidl.kernels.numba_loops.sizes import Sizes

    s, log, word = types.NamedUniTuple(types.int64, len(Sizes._fields), Sizes), types.boolean, types.uint64
    x1, x2, x3, x4 = (types.Array(real, ndim, "C") for ndim in (1, 2, 3, 4))
    i2, i4 = (types.Array(types.int64, ndim, "C") for ndim in (2, 4))
    launched = {
        conv.im2col_kernel: (x4, s, x3), conv.col2im_kernel: (x3, s, x4), pool.max_pool_kernel: (x4, s, x4, i4),
        pool.max_pool_grad_kernel: (x4, i4, s, x4), pool.take_kernel: (x2, i2, x2), pool.avg_pool_kernel: (x4, s, x2, x4),
        pool.avg_pool_grad_kernel: (x4, s, x2, x4), blocks.statistics_kernel: (x3, types.float64, x1, x1),
        blocks.gradient_sums_kernel: (x3, x3, x1, x1, x1, x1), blocks.softmax_kernel: (x2, x2, log),
        blocks.softmax_grad_kernel: (x2, x2, x2, log), norm.affine_kernel: (x3, x1, x1, x1, x3),
        norm.input_grad_kernel: (x3, x3, x1, x1, x1, x1, x1, x3), dropout.dropout_kernel: (x1, word, real, word, word, x1),
    }  # fmt: skip
    there = {name for module in (blocks, conv, dropout, norm, pool) for name in vars(module) if name.endswith("_kernel")}
    assert there == {kernel.py_func.__name__ for kernel in launched}
    return launched


@pytest.mark.skipif("cases.simulated()", reason="the simulator compiles nothing")
@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_compile_for_a_gpu(dtype, capability, monkeypatch):
    """To PTX, which takes Numba-CUDA and NVVM, but no driver."""
    cuda = pytest.importorskip("numba.cuda", reason="Numba is not installed")
    if cuda.implementation != "NVIDIA":
        pytest.skip("numba-cuda is not installed: pip install 'minidl[numba-cuda]'")
    from numba import types
    from numba.cuda import dispatcher

    # Functions that kernels call are compiled for the GPU at hand.
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=capability))
    for kernel, arguments in signatures(getattr(types, dtype)).items():
        for function in vars(sys.modules[kernel.py_func.__module__]).values():
            if hasattr(function, "overloads"):
                function.overloads.clear()           # of another capability
        ptx, _ = cuda.compile_ptx(kernel.py_func, arguments, cc=capability)
        assert f".target sm_{capability[0]}{capability[1]}" in ptx and ".visible .entry" in ptx
