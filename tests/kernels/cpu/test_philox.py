"""Vector Philox and dropout: the bits of the NumPy variant, and nothing written beside the result."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import variants
from minidl.kernels.cpu import dispatch, memory, threads
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.launch import Program
from minidl.kernels.cpu.philox import PIECE, Stream
from minidl.kernels.reference.philox import philox4x32
from tests.kernels.cases import arrange, layouts
from tests.kernels.cpu.guards import BAND, MARK, guard_bands

FLOAT32 = np.dtype(np.float32)
keys = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
lengths = st.sampled_from([0, 1, 15, 16, 17, 63, 64, 65, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 70])


@settings(deadline=None, max_examples=40)
@given(key=keys, n=lengths, p=st.sampled_from([2.0**-32, 0.1, 0.5, 0.999]))
def test_the_same_bits(key, n, p):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    x[::7], x[3::11], x[5::13] = np.nan, np.inf, -0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "COSTLY", 0)
        check = guard_bands(patch)
        for verb, arguments in (("philox_uniform", ((n,), key, FLOAT32)), ("dropout_mask", ((n,), p, key, FLOAT32)),
                                ("dropout", (x, p, key))):
            got, expected = variants(verb)["vector"](*arguments), variants(verb)["numpy"](*arguments)
            assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes(), verb
        check()


@settings(deadline=None, max_examples=20)
@given(key=keys, n=lengths)
def test_words_stay_inside(key, n):
    room = np.full(n + 2 * BAND, MARK, np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "COSTLY", 0)
        patch.setattr(memory, "empty", lambda shape, dtype: room[BAND : BAND + n].view(dtype))
        words = variants("philox_bits")["vector"](*key, n)
    assert words.dtype == np.uint32 and np.array_equal(words, variants("philox_bits")["numpy"](*key, n))
    assert (room[:BAND] == MARK).all() and (room[BAND + n :] == MARK).all()


def test_a_word_at_the_threshold_is_kept():
    key, n = (5, 6), 2000
    words = variants("philox_bits")["numpy"](*key, n)
    for word in (words[:20], words[words >> 31 == 1][:20]):          # on both sides of what a signed number holds
        for limit in word.tolist():
            mask = variants("dropout_mask")["vector"]((n,), limit / 2**32, key, FLOAT32)
            assert np.array_equal(mask > 0, words >= limit)


def test_counters_have_an_upper_half():
    k = Kernel("words", 4)
    out, first = k.pointer("out", 16, element="i32"), k.integer("first")
    for i, words in enumerate(Stream(k).words(first)):
        k.store(words, out + i * k.bytes)
    words, first = np.zeros(16, np.int32), 2**32 - 2
    Program(k)(alone=True, out=words, first=first, **dict(zip(Stream.NAMES, (1, 2**32 - 1, 3, 4), strict=True)))
    counters = [(n % 2**32, n >> 32, 3, 4) for n in range(first, first + 4)]
    assert words.view(np.uint32).tolist() == [w for counter in counters for w in philox4x32(counter, (1, 2**32 - 1))]


@settings(deadline=None, max_examples=10)
@given(layout=layouts)
def test_an_element_keeps_its_word_wherever_it_lies(layout):
    x = np.random.default_rng(0).standard_normal((2, 5, 11, 13)).astype(np.float32)
    got = variants("dropout")["vector"](arrange(x, layout), 0.3, (1, 2))
    np.testing.assert_array_equal(got, variants("dropout")["numpy"](x, 0.3, (1, 2)))


def test_threads_change_nothing():
    before, results = threads.get_num_threads(), set()
    try:
        for count in (1, 3):
            threads.set_num_threads(count)
            results.add(variants("dropout_mask")["vector"]((5 * PIECE + 3,), 0.5, (3, 4), FLOAT32).tobytes())
    finally:
        threads.set_num_threads(before)
    assert len(results) == 1
