"""Vector local response normalisation: windows at the first and last channels, ragged channels, and memory beside the arrays."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import variants
from minidl.kernels.cpu import dispatch, threads
from tests.kernels.cases import arrange, assert_close, layouts, seeds
from tests.kernels.cpu.guards import guard_bands

SHAPES = [(2, 96, 5, 7), (3, 1, 9, 8), (1, 3, 11, 13), (2, 17, 4, 9), (1, 40, 70), (130, 5), (1, 16, 1, 1)]


@settings(deadline=None, max_examples=40)
@given(shape=st.sampled_from(SHAPES), layout=layouts, seed=seeds, size=st.sampled_from([1, 2, 5, 8, 16]),
       beta=st.sampled_from([0.75, 1.0, 0.3]), k=st.sampled_from([1.0, 2.0]))
def test_equals_numpy_in_float64(shape, layout, seed, size, beta, k):
    rng = np.random.default_rng(seed)
    x, gy = (arrange(rng.standard_normal(shape).astype(np.float32), layout) for _ in range(2))
    options = size, 0.5, beta, k
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "COSTLY", 0)
        check = guard_bands(patch)
        for verb, arrays in (("local_response_norm", (x,)), ("local_response_norm_grad", (gy, x))):
            got = variants(verb)["vector"](*arrays, *options)
            expected = variants(verb)["numpy"](*[a.astype(np.float64) for a in arrays], *options)
            assert_close(verb, got, expected.astype(np.float32), "float32")
        check()


def test_threads_change_nothing():
    x = np.random.default_rng(0).standard_normal((4, 20, 16, 16)).astype(np.float32)
    before, results = threads.get_num_threads(), set()
    try:
        for count in (1, 3):
            threads.set_num_threads(count)
            results.add(variants("local_response_norm_grad")["vector"](x, x, 5, 1e-2, 0.75, 2.0).tobytes())
    finally:
        threads.set_num_threads(before)
    assert len(results) == 1
