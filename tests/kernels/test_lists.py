"""What is done to all arrays of a list: every variant against loops, in one launch and in several chunks."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels import variants
from tests.kernels.cases import FLOATS, assert_close, draw, examples, layouts, seeds, under_test

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)
VERBS = {"ema_": {"decay": 0.9}, "scale_": {"factor": 0.3}}


def arrays_of(shapes, seed, dtype, layout):
    return [draw(seed + i, shape, dtype, layout) for i, shape in enumerate(shapes)]


def check_in_place(verb, shapes, dtype, layout, seed):
    options = VERBS[verb]
    values = [arrays_of(shapes, seed + 100, dtype, layout)] if verb == "ema_" else []
    expected = arrays_of(shapes, seed, dtype, "contiguous")
    variants(verb)["reference"](expected, *values, **options)
    for name, kernel in under_test(verb):
        got, given = arrays_of(shapes, seed, dtype, layout), [[a.copy() for a in some] for some in values]
        kernel(got, *given, **options)
        assert_close(verb, tuple(got), tuple(expected), dtype)
        for some, before in zip(given, values, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(some, before, strict=True)), f"{name} wrote a value"


@pytest.mark.parametrize("dtype", FLOATS)
@examples(15)
@given(shapes=shapes, layout=layouts, seed=seeds)
def test_every_variant_equals_the_reference(shapes, dtype, layout, seed):
    for verb in VERBS:
        check_in_place(verb, shapes, dtype, layout, seed)
    arrays = arrays_of(shapes, seed, dtype, layout)
    expected = variants("square_sum")["reference"](arrays)
    for name, kernel in under_test("square_sum"):
        got, again = kernel(arrays), kernel(arrays)
        assert_close("square_sum", got, expected, "float64" if dtype == "float64" else "float32")
        assert got.tobytes() == again.tobytes(), f"{name}: two runs gave different bits"


def test_several_chunks():
    """More elements than one block takes, beside an array of one."""
    shapes = [(40_001,), (), (3, 5)]
    for verb in VERBS:
        options, arrays = VERBS[verb], arrays_of(shapes, 0, "float32", "contiguous")
        values = [arrays_of(shapes, 9, "float32", "contiguous")] if verb == "ema_" else []
        expected = [a.copy() for a in arrays]
        variants(verb)["numpy"](expected, *values, **options)
        for _, kernel in under_test(verb):
            got = [a.copy() for a in arrays]
            kernel(got, *values, **options)
            assert_close(verb, tuple(got), tuple(expected), "float32")
    arrays = arrays_of(shapes, 0, "float32", "contiguous")
    exact = sum(float((a.astype("f8") ** 2).sum()) for a in arrays)
    for _, kernel in under_test("square_sum"):
        assert float(kernel(arrays)) == pytest.approx(exact, rel=1e-6)   # sums of 64 in float32, the rest in float64
