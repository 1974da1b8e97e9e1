"""The kernel language: what each construct computes, and that mistakes are found in Python."""
import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import engine
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.filters import transpose
from minidl.kernels.cpu.launch import LaunchError, Program

W = 4                                                # any machine has these; what the width is changes nothing here
few = settings(deadline=None, max_examples=8)        # each example is compiled
small = st.integers(0, 50)


def fresh(name):
    """A kernel under a name of its own: symbols of one process must differ."""
    fresh.count = getattr(fresh, "count", 0) + 1
    return Kernel(f"test_{name}_{fresh.count}", W)


def integers_of(k, *values):
    """Let ``k`` write integers to out[0..]; the program returns them for given parameters."""
    out = k.pointer("out", len(values), element="i64")
    for i, value in enumerate(values):
        k.store(k.spread(value, "i64"), out + 8 * W * i)
    program = Program(k)

    def run(**parameters):
        result = np.zeros(W * len(values), np.int64)
        program(out=result, alone=True, **parameters)
        return result[::W].tolist()
    return run


def test_integer_arithmetic():
    k = fresh("arithmetic")
    a, b = k.integers("a", "b")
    run = integers_of(k, a + b, a - b, 3 - a, a * b, (a + 100) // (b + 1), (a + 100) % (b + 1), k.minimum(a, b), k.maximum(a, b),
                      k.ceil_div(a + 100, b + 1), 2 + a * 1 + 0, k.select(a < b, a, 7), k.select((a >= b) & (b > 2), 1, 0),
                      k.select((a <= b) | a.equals(9), 1, 0))
    for x, y in ((5, 3), (3, 5), (9, 9), (0, 0), (9, 0)):
        assert run(a=x, b=y) == [
            x + y, x - y, 3 - x, x * y, (x + 100) // (y + 1), (x + 100) % (y + 1), min(x, y), max(x, y),
            -(-(x + 100) // (y + 1)), 2 + x, x if x < y else 7, int(x >= y and y > 2), int(x <= y or x == 9)]


@few
@given(low=small, high=small, step=st.integers(1, 7))
def test_loops_are_ranges(low, high, step):
    k = fresh("loop")
    out, (first, last) = k.pointer("out", 1, element="i64"), k.integers("first", "last")
    for begin, end in ((first, last), (low, high)):  # bounds known when it runs, and known when it is built
        with k.loop(begin, end, step) as i:
            k.store(k.load(out, element="i64") + k.spread(i * i + 1, "i64"), out)
    result = np.zeros(W, np.int64)
    Program(k)(alone=True, out=result, first=low, last=high)
    assert result[0] == 2 * sum(i * i + 1 for i in range(low, high, step))


@few
@given(n=small)
def test_carried_state(n):
    """Fibonacci numbers in registers: two integers that change places."""
    k = fresh("carry")
    count = k.integer("n")
    a, b = k.carry(count, [k.same(0), k.same(1)], lambda s: [s[1], s[0] + s[1]])
    expected = [0, 1]
    for _ in range(n):
        expected = [expected[1], expected[0] + expected[1]]
    assert integers_of(k, a, b)(n=n) == expected


def test_carry_nests_and_takes_vectors_and_pointers():
    k = fresh("nested")
    x, y = k.pointer("x", "rows", "columns", W), k.pointer("y", W)
    rows, columns = k.integers("rows", "columns")

    def row(state):
        return k.carry(columns, state, lambda s: [s[0] + k.load(s[1]), s[1] + k.bytes])
    k.store(k.carry(rows, [k.constant(0), x], row)[0], y)
    data, result = np.arange(3 * 5 * W, dtype=np.float32), np.zeros(W, np.float32)
    Program(k)(alone=True, x=data, y=result, rows=3, columns=5)
    np.testing.assert_array_equal(result, data.reshape(-1, W).sum(axis=0))


@pytest.mark.parametrize("n", [-1, 0, 1, W - 1, W, W + 1])
def test_masks_leave_the_other_lanes_alone(n):
    k = fresh("mask")
    x, y, count = k.pointer("x"), k.pointer("y", W), k.integer("n")
    mask = k.first_lanes(count)
    k.store(k.load(x, mask) + k.constant(1), y, mask)
    k.store(k.load(x, k.first_lanes(n)), y + k.bytes)
    kept = min(max(n, 0), W)
    # Memory beyond the first lanes does not exist: a load that touched it would crash or be seen by a sanitizer.
    x_values, y_values = np.arange(1, W + 1, dtype=np.float32), np.full(2 * W, -1, np.float32)
    Program(k)(alone=True, x=x_values, y=y_values, n=n)
    expected = [i + 2 if i < kept else -1 for i in range(W)] + [i + 1 if i < kept else 0 for i in range(W)]
    assert y_values.tolist() == expected


def test_branches():
    k = fresh("branches")
    out, n = k.pointer("out", 2 * W), k.integer("n")
    with k.when(n > 3):
        k.store(k.constant(1), out)
    k.either(n.equals(5), lambda: k.store(k.constant(2), out + k.bytes), lambda: k.store(k.constant(3), out + k.bytes))
    program = Program(k)
    for value, expected in ((2, (0, 3)), (4, (1, 3)), (5, (1, 2))):
        result = np.zeros(2 * W, np.float32)
        program(alone=True, out=result, n=value)
        assert (result[0], result[W]) == expected


def test_integers_in_lanes():
    k = fresh("bits")
    x, y, z = k.pointer("x", W, element="i64"), k.pointer("y", W, element="i32"), k.pointer("z", W, element="i64")
    value = k.load(x, element="i64")
    k.store(k.convert(value, "i32") ^ k.lane_numbers(), y)
    k.store((value >> 4) & k.lane_numbers("i64"), z)
    numbers = np.array([-1, 2**40 + 5, 2**31, 77], np.int64)
    low, high = np.zeros(W, np.int32), np.zeros(W, np.int64)
    Program(k)(alone=True, x=numbers, y=low, z=high)
    assert low.tolist() == (numbers.astype(np.int32) ^ np.arange(4, dtype=np.int32)).tolist()
    assert high.tolist() == ((numbers >> 4) & np.arange(4)).tolist()


def test_lanes_change_places():
    k = fresh("shuffle")
    source, out = k.pointer("source", W, W), k.pointer("out", W + 1, W)
    rows = [k.load(source + i * k.bytes) for i in range(W)]
    k.prefetch(source + 4096)                        # beyond the array: asking for memory touches none
    for i, column in enumerate([*transpose(k, rows), k.shuffle(rows[0], rows[1], [W, 0, 2 * W - 1, 1])]):
        k.store(column, out + i * k.bytes)
    square, result = np.arange(W * W, dtype=np.float32).reshape(W, W), np.zeros((W + 1, W), np.float32)
    Program(k)(source=square, out=result, alone=True)
    np.testing.assert_array_equal(result[:W], square.T)
    assert result[W].tolist() == [square[1, 0], square[0, 0], square[1, W - 1], square[0, 1]]
    with pytest.raises(ValueError, match="shuffle: expected 4 lanes between 0 and 7"):
        k.shuffle(rows[0], rows[1], [0, 1, 2, 8])
    with pytest.raises(ValueError, match="transpose: needs 4 vectors, a power of two, found 3"):
        transpose(k, rows[:3])


def test_vectors():
    k = fresh("vectors")
    x, y = k.pointer("x", 2 * W), k.pointer("y", 6 * W)
    wide, whole = k.pointer("wide", W, element="double"), k.pointer("whole", W, element="i64")
    a, b = k.load(x), k.load(x + k.bytes)
    results = [a + b, a - b, a * b, a / b, k.fma(a, b, k.broadcast(x + 4)), k.select((a > b) | a.unordered(), a, k.constant(0.1))]
    for i, value in enumerate(results):
        k.store(value, y + i * k.bytes)
    k.store(k.square_root(k.convert(b, "double")), wide)
    k.store(k.convert(k.select(a.equals(b), k.constant(7, "i32"), k.spread(k.same(-2))), "i64"), whole)
    data = np.array([[1, -2, np.nan, 4], [3, -5, 0.5, 4]], np.float32)
    y_values, wide_values, whole_values = np.zeros((6, W), np.float32), np.zeros(W), np.zeros(W, np.int64)
    Program(k)(alone=True, x=data, y=y_values, wide=wide_values, whole=whole_values)
    a, b = data
    with np.errstate(invalid="ignore"):
        expected = [a + b, a - b, a * b, a / b, a * b + data[0, 1], np.where((a > b) | np.isnan(a), a, np.float32(0.1))]
        np.testing.assert_array_equal(y_values, expected)
        np.testing.assert_array_equal(wide_values, np.sqrt(b.astype(np.float64)))
    assert whole_values.tolist() == [-2, -2, -2, 7]


def test_bits_of_numbers():
    k = fresh("bits")
    x, y = k.pointer("x", W), k.pointer("y", 5 * W, element="i32")
    a = k.load(x)
    bits = k.bits(a, "i32")
    whole = k.bits(k.convert(k.constant(-3, "i32"), "float"), "i32")
    for i, value in enumerate([bits, bits >> 23, bits & k.constant(0xFF, "i32"), k.bits(k.rotated(a, 1), "i32"), whole]):
        k.store(value, y + i * k.bytes)
    data, result = np.array([1, -2.5, np.inf, 1e-3], np.float32), np.zeros((5, W), np.int32)
    Program(k)(alone=True, x=data, y=result)
    plain = data.view(np.int32)
    np.testing.assert_array_equal(result, [plain, plain >> 23, plain & 0xFF, np.roll(plain, -1),
                                           np.full(W, -3, np.float32).view(np.int32)])


@pytest.mark.parametrize("tasks", [0, 1, 7, 64])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_threads_shares_cover_every_task_once(tasks, threads):
    k = fresh("shares")
    out, n = k.pointer("out", "n"), k.integer("n")
    with k.parallel(n) as i:
        k.copy_float(out + 4 * n, out + 4 * i)
    address = engine.load(k.text(), k.name)[0]
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    out = np.zeros(tasks + 1, np.float32)
    slots = (ctypes.c_int64 * 2)(out.ctypes.data, tasks)
    covered = np.zeros(tasks)
    for thread in range(threads):
        out[:] = 0
        out[tasks] = 1
        run(ctypes.addressof(slots), thread, threads)
        covered += out[:tasks]
    assert (covered == 1).all()


def wrong_operands():
    def case(what, error, message):
        return pytest.param(what, error, message, id=message[:30])
    yield case(lambda k, n, x: k.load(x) + 1, TypeError, "expected a Vector, found 1")
    yield case(lambda k, n, x: n + k.load(x), TypeError, r"\+: expected a Int")
    yield case(lambda k, n, x: k.load(n), TypeError, "load: expected a Pointer")
    yield case(lambda k, n, x: n + 1.5, TypeError, "expected a Int, found 1.5")
    yield case(lambda k, n, x: x + k.load(x), TypeError, "pointer +")
    yield case(lambda k, n, x: k.load(x, element="half"), TypeError, "no vectors of 'half'")
    yield case(lambda k, n, x: k.load(x) + k.load(x, element="double"), TypeError, "vectors of float and of double")
    yield case(lambda k, n, x: k.fma(*[k.load(x, element="i32")] * 3), TypeError, "fma: needs lanes of float or double")
    yield case(lambda k, n, x: k.convert(k.load(x), "i32"), TypeError, "cannot turn lanes of float into i32")
    yield case(lambda k, n, x: k.load(x) ^ k.load(x), TypeError, "xor: needs lanes of integers, found float")
    yield case(lambda k, n, x: k.load(x, element="i32") / k.load(x, element="i32"), TypeError, "div: needs lanes of float")
    yield case(lambda k, n, x: k.load(x) >> 3, TypeError, "ashr: needs lanes of integers, found float")
    yield case(lambda k, n, x: k.bits(k.load(x), "i64"), TypeError, "lanes of float and of i64 are not of one size")
    yield case(lambda k, n, x: k.store(k.load(x), x, n > 0), TypeError, "store: expected a Mask")
    yield case(lambda k, n, x: k.when(n).__enter__(), TypeError, "when: expected a Bool")
    yield case(lambda k, n, x: 1 if n > 0 else 2, TypeError, "only known when the kernel runs")
    yield case(lambda k, n, x: k.select(n > 0, x, n), TypeError, "two values of one kind")
    yield case(lambda k, n, x: k.carry(n, [n], lambda s: [x]), TypeError, "the body must return")
    yield case(lambda k, n, x: k.integer("n"), ValueError, "two parameters are called 'n'")
    yield case(lambda k, n, x: n + Kernel("other", W).integer("m"), ValueError, "belongs to kernel other")
    yield case(lambda k, n, x: _leak(k, n), ValueError, "inside a loop or branch that has ended")
    yield case(lambda k, n, x: (k.loop(n).__enter__(), k.text()), ValueError, "still open")


def _leak(k, n):
    with k.loop(n) as i:
        inside = i + 1
    return inside + 1


@pytest.mark.parametrize("what, error, message", list(wrong_operands()))
def test_mistakes_are_found_in_python(what, error, message):
    k = Kernel("wrong", W)
    n, x = k.integer("n"), k.pointer("x")
    with pytest.raises(error, match=message.replace("+", r"\+") if message == "pointer +" else message):
        what(k, n, x)


def test_a_launch_checks_its_arrays():
    k = fresh("guarded")
    x = k.pointer("x", "n", 2)
    k.integer("n")
    k.store(k.constant(0), x)
    program = Program(k)
    program(x=np.ones(8, np.float32), n=4)
    with pytest.raises(LaunchError, match="x has 7 elements, the kernel touches 8"):
        program(x=np.ones(7, np.float32), n=4)
    with pytest.raises(LaunchError, match="x must be C-contiguous float32, found float64"):
        program(x=np.ones(8), n=4)
    with pytest.raises(LaunchError, match="C-contiguous"):
        program(x=np.ones(16, np.float32)[::2], n=4)
