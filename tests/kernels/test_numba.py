"""The teaching variant: chosen by name only, imported and compiled when called, the same numbers as the others.

That every kernel equals its reference is tested with the other variants, family by family (``check`` in cases.py).
"""
import threading

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels import numba_loops, variants
from minidl.kernels.cpu.threads import get_num_threads, set_num_threads
from minidl.ops.geometry import conv2d_geometry, pool2d_geometry
from tests.kernels.cases import draw
from tests.kernels.cpu.test_engine import STEP, run

VERBS = [verb for verbs in numba_loops.VERBS.values() for verb in verbs]


@pytest.mark.parametrize("verb", VERBS)
def test_it_is_there_and_nobodys_default(verb):
    assert "numba" in variants(verb) and kernels.lookup(verb) is not variants(verb)["numba"]
    with kernels.use("numba"):
        assert kernels.lookup(verb) is variants(verb)["numba"]
    file, line = variants(verb)["numba"].written_in
    assert file.read_text(encoding="utf-8").splitlines()[line - 1].startswith(f"def {verb}(")


def test_numba_is_imported_by_the_first_call():
    code = """
import sys
import numpy as np
from minidl import kernels
kernels.variants("softmax")["numba"].written_in
with kernels.use("numba"):
    softmax = kernels.lookup("softmax")
    assert "numba" not in sys.modules
    print(softmax(np.zeros((1, 2), np.float32), 1).tolist(), "numba" in sys.modules)
"""
    assert run(code)[0] == "[[0.5, 0.5]] True"


def test_without_numba_the_error_says_what_to_do():
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from minidl import kernels
from minidl.errors import ConfigError
print(kernels.lookup("softmax")(np.zeros((1, 2), np.float32), 1).tolist())
with kernels.use("numba"):
    try:
        kernels.lookup("softmax")(np.zeros((1, 2), np.float32), 1)
    except ConfigError as error:
        print(error)
"""
    result, error = run(code)[0].splitlines()
    assert result == "[[0.5, 0.5]]"
    assert error.startswith("kernel 'softmax': variant 'numba' needs Numba") and "pip install numba" in error and "numpy" in error


def test_a_training_step():
    """A whole step of ResNet-20, chosen by the environment, against NumPy's."""
    found, expected = (np.array(run(STEP, MINIDL_KERNELS=name)[0].split(), float) for name in ("numba", "numpy"))
    # float32 sums in another order, through 20 layers and back.
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_other_dtypes_are_left_to_numpy(monkeypatch):
    geom = pool2d_geometry((1, 2, 4, 4), 2)
    pool, taken = variants("max_pool2d")["numba"], variants("max_pool2d")["numpy"]
    monkeypatch.setattr(numba_loops.Variant, "_kernel", property(lambda self: pytest.fail("called")))
    for dtype in ("float16", "int64", "int32"):
        x = (10 * draw(0, (1, 2, 4, 4))).astype(dtype)
        y, indices = pool(x, geom)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, taken(x, geom)[0])
    mixed = variants("softmax_grad")["numba"](draw(0, (2, 3), "float32"), draw(1, (2, 3), "float64"), 1)
    assert mixed.dtype == np.float32


def test_the_number_of_threads_changes_no_bit():
    geom = conv2d_geometry((5, 3, 9, 8), (4, 3, 3, 3), 1, 1)
    x, w, gy = draw(0, (5, 3, 9, 8), "float32"), draw(1, (4, 3, 3, 3), "float32"), draw(2, (5, 4, 9, 8), "float32")
    conv2d, weight_grad, norm = (variants(verb)["numba"] for verb in ("conv2d", "conv2d_weight_grad", "batch_norm"))
    before, results = get_num_threads(), set()
    try:
        for count in (1, 2, 64):                     # more than there are: as many as Numba has
            set_num_threads(count)
            found = conv2d(x, w, None, geom), weight_grad(gy, x, geom), norm(x, None, None, 1e-5)[0]
            results.add(tuple(a.tobytes() for a in found))
    finally:
        set_num_threads(before)
    assert len(results) == 1


def test_two_threads_may_call_at_once():
    """With one of Numba's threading layers the process would end."""
    x, errors = draw(0, (40, 30), "float32"), []
    expected = variants("softmax")["numba"](x, 1)

    def work():
        for _ in range(50):
            if variants("softmax")["numba"](x, 1).tobytes() != expected.tobytes():
                errors.append("other numbers")

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []


def test_loops_are_compiled_where_no_folder_can_be_written(monkeypatch):
    import numba

    from minidl.kernels.numba_loops.jit import compiled

    given = []

    def njit(cache=False, **options):
        given.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr("minidl.kernels.numba_loops.jit.njit", njit)
    assert compiled()(lambda x: x + 1)(2) == 3 and given == [True, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value):
    """As NumPy: a NaN stays one, the largest of a window of -inf is -inf, a dropped infinity is NaN."""
    x = np.full((1, 1, 4, 4), value, np.float32)
    x[0, 0, 3, 3] = 1
    geom = pool2d_geometry(x.shape, 2)
    calls = {"max_pool2d": (x, geom), "softmax": (x, 3), "log_softmax": (x, 3), "dropout": (x, 0.5, (1, 2))}
    for verb, arguments in calls.items():
        got, expected = variants(verb)["numba"](*arguments), variants(verb)["numpy"](*arguments)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=verb)  # an ulp or two of exp and log
