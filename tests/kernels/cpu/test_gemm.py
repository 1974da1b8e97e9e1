"""Matrix products in parts on the pool."""
import numpy as np
import pytest

from minidl.kernels.cpu import blas, gemm, threads

SHAPES = [(2, 1, 2), (5, 3, 7), (64, 200, 33), (257, 96, 31), (31, 96, 257), (300, 17, 300)]


@pytest.fixture
def three_threads():
    before = threads.get_num_threads()
    threads.set_num_threads(3)
    yield
    threads.set_num_threads(before)


def operand(rng, shape, dtype, layout):
    """A matrix whose rows lie dense, or its columns, or with room between its rows."""
    if layout == "transposed":
        return rng.standard_normal(shape[::-1]).astype(dtype).T
    if layout == "part":
        return rng.standard_normal((shape[0], shape[1] + 5)).astype(dtype)[:, 2 : 2 + shape[1]]
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(
    "layouts", [("plain", "plain"), ("transposed", "plain"), ("plain", "transposed"), ("part", "transposed")]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, k, n", SHAPES)
def test_parts_make_the_product(m, k, n, dtype, layouts, three_threads, monkeypatch):
    if blas.product("s") is None:
        pytest.skip("NumPy has another BLAS than OpenBLAS with 64-bit integers here")
    monkeypatch.setattr(gemm.np, "matmul", lambda *_, **__: pytest.fail("NumPy multiplied"))
    rng = np.random.default_rng(m * n)
    a, b = operand(rng, (m, k), dtype, layouts[0]), operand(rng, (k, n), dtype, layouts[1])
    room = np.full(m * n + 32, 7, dtype)             # a band on both sides must stay
    got = gemm.product(a, b, room[16:-16].reshape(m, n))
    expected = np.einsum("ik,kj->ij", a.astype("f8"), b.astype("f8"))
    # Sums of at most 200 products of order one, in another order.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4 if dtype == "float32" else 1e-12)
    assert (room[:16] == 7).all() and (room[-16:] == 7).all()


def test_what_numpy_multiplies(three_threads, monkeypatch):
    """Vectors, integers, batches, and matrices that are dense in neither direction."""
    monkeypatch.setattr(threads, "run", lambda *_: pytest.fail("the pool multiplied"))
    large, batch = np.ones((512, 512), np.float32), np.ones((2, 256, 256), np.float32)
    wide = np.ones((512, 16384), np.float32)
    for a, b in ((large[:1], wide), (large[:, ::2], large[::2][:256]), (batch, batch)):
        out = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
        np.testing.assert_array_equal(gemm.product(a, b, out), a.shape[-1])
    whole = np.ones((256, 256), np.int64)
    np.testing.assert_array_equal(gemm.product(whole, whole, np.empty((256, 256), np.int64)), 256)


def test_without_openblas(three_threads, monkeypatch):
    monkeypatch.setattr(blas, "product", lambda letter: None)
    gemm._kernel.cache_clear()
    a = np.ones((512, 512), np.float32)
    np.testing.assert_array_equal(gemm.product(a, a, np.empty_like(a)), 512)
    gemm._kernel.cache_clear()
