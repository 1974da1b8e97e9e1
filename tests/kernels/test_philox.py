"""Philox, dropout and embedding: known answers, every variant against the reference, and the statistics of the draws."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.errors import DataError
from minidl.kernels import variants
from minidl.kernels.reference.philox import philox4x32
from tests.kernels.cases import FLOATS, LAYOUTS, check, draw, examples, layouts, run, seeds, under_test

few = examples(40)
keys = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))

# Published with Random123 (kat_vectors, philox4x32 of ten rounds): counter, key, words.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers(counter, key, words):
    assert philox4x32(counter, key) == words


def test_bits_are_the_words_of_consecutive_counters():
    seed, offset = 0x299F31D0_A4093822, 0x03707344_13198A2E
    for _, kernel in under_test("philox_bits"):
        words = kernel(seed, offset, 10)
        expected = [w for i in range(3) for w in philox4x32((i, 0, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))][:10]
        assert words.dtype == np.uint32 and words.tolist() == expected


@few
@given(key=keys, n=st.integers(0, 70))
def test_every_variant_draws_the_same_bits(key, n):
    check("philox_bits", *key, n, dtype="float32")


def test_a_long_draw_starts_with_the_short_one():
    """More than one block of counters; the blocks must not show."""
    long = run("philox_bits", 3, 4, 100_001)
    assert np.array_equal(long[:70_001], run("philox_bits", 3, 4, 70_001))
    assert long[65_537] == philox4x32((65_537 // 4, 0, 4, 0), (3, 0))[65_537 % 4]


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(key=keys, shape=st.lists(st.integers(0, 5), max_size=3).map(tuple))
def test_uniform_and_normal(key, shape, dtype):
    uniform = check("philox_uniform", shape, key, dtype, dtype=dtype)
    assert ((uniform >= 0) & (uniform < 1)).all()
    check("philox_normal", shape, key, dtype, dtype=dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_moments(dtype):
    n = 200_000
    uniform = run("philox_uniform", (n,), (1, 2), dtype).astype("float64")
    normal = run("philox_normal", (n,), (1, 3), dtype).astype("float64")
    # Five standard deviations of each estimate; float16 uniforms are rounded down by half of 2^-11 on average.
    assert abs(uniform.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n) + (2.5e-4 if dtype == "float16" else 0)
    assert abs(normal.mean()) < 5 / np.sqrt(n) and abs(normal.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(np.corrcoef(normal[::2], normal[1::2])[0, 1]) < 5 / np.sqrt(n / 2)  # the pairs of Box and Muller


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(key=keys, shape=st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), layout=layouts,
       p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), seed=seeds)
def test_dropout(key, shape, dtype, layout, p, seed):
    check("dropout", draw(seed, shape, dtype, layout), p, key, dtype=dtype)
    check("dropout_mask", shape, p, key, dtype, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mask_depends_on_the_position_and_not_on_the_memory(layout):
    x = draw(0, (2, 3, 4, 5), "float32")
    y = run("dropout", draw(0, x.shape, "float32", layout), 0.4, (5, 6))
    np.testing.assert_array_equal(y, x * run("dropout_mask", x.shape, 0.4, (5, 6), "float32"))


def test_dropout_keeps_the_expectation():
    """Inverted dropout, 10,000 draws: the mean stays 1 within 0.01."""
    for p in (0.1, 0.5):
        draws = np.stack([run("dropout", np.ones(16), p, (0, offset)) for offset in range(10_000)])
        assert abs(draws.mean() - 1) < 0.01
        assert abs((draws == 0).mean() - p) < 0.01


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(num=st.integers(1, 6), dim=st.integers(0, 4), shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
       layout=layouts, seed=seeds)
def test_embedding(num, dim, shape, dtype, layout, seed):
    indices = np.random.default_rng(seed).integers(0, num, shape)
    y = check("embedding", draw(seed, (num, dim), dtype, layout), indices, dtype=dtype)
    check("embedding_grad", draw(seed, y.shape, dtype, layout), indices, num, dtype=dtype)


@pytest.mark.parametrize("index", [4, -1])
def test_an_index_out_of_range_is_named(index):
    for name in variants("embedding"):
        with pytest.raises(DataError, match=rf"index {index} is outside 0\.\.3"):
            variants("embedding")[name](np.ones((4, 2)), np.array([0, index]))
        with pytest.raises(DataError, match=rf"index {index} is outside 0\.\.3"):
            variants("embedding_grad")[name](np.ones((2, 2)), np.array([0, index]), 4)


def test_the_rows_of_an_index_are_added_in_their_order():
    """Float sums depend on the order: bringing the rows of each index together beforehand must not change a bit."""
    indices = np.random.default_rng(0).integers(0, 3, 5000)
    gy = draw(1, (5000, 2), "float32")
    expected = np.stack([np.add.reduceat(gy[indices == k], [0], axis=0)[0] for k in range(3)])
    assert run("embedding_grad", gy, indices, 3).tobytes() == expected.tobytes()
