"""Values added where an index says: every variant against a loop, and that against NumPy's add.at."""
import numpy as np
import pytest

from minidl.kernels import variants
from tests.kernels.cases import FLOATS, LAYOUTS, arrange, assert_close, draw, under_test

INDICES = {
    "repeated": np.array([[2, 0, 2], [2, 3, 0]]), "negative": np.array([-1, 3, -1]), "slice": slice(1, 3),
    "mask": np.arange(4) % 2 == 0, "two arrays": (np.array([0, 1, 0, 0]), np.array([2, 2, 2, 1])),
    "array and slice": (np.array([3, 3]), slice(None, None, 2)),
    "axis": (slice(None), np.array([1, 1, 0])), "none": np.zeros(0, np.int64), "element": (1, 2),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*FLOATS, "int64"])
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_values_are_added_where_an_index_says(index, dtype, layout):
    x = np.arange(4 * 3 * 2, dtype=dtype).reshape(4, 3, 2)
    values = (10 * draw(1, x[index].shape)).astype(dtype)
    expected = arrange(x, layout)
    variants("add_at_")["reference"](expected, index, values)
    np.testing.assert_allclose(expected.astype("f8"), added(x, index, values), rtol=1e-3)    # float16 has three digits
    for name, kernel in under_test("add_at_"):
        got, again = arrange(x, layout), arrange(x, layout)
        kernel(got, index, values)
        kernel(again, index, values)
        assert_close("add_at_", got, expected, "float64" if dtype == "int64" else dtype)
        assert got.tobytes() == again.tobytes() or name.endswith("cuda naive")


def added(x, index, values):
    y = x.astype("f8")
    np.add.at(y, index, values)
    return y


def test_a_value_for_all_places():
    for _, kernel in under_test("add_at_"):
        x = np.zeros((3, 2), "float32")
        kernel(x, np.array([0, 2, 0]), np.array([1, 10], "float32"))
        np.testing.assert_array_equal(x, [[2, 20], [0, 0], [1, 10]])
