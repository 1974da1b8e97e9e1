"""Generators: reproducible, independent streams, small state, fair draws, safe among threads."""
import threading

import numpy as np
import pytest

from minidl.backend import rng
from minidl.backend.rng import Generator
from minidl.errors import ConfigError, ShapeError

DRAWS = {
    "uniform": lambda g: g.uniform((3, 4), -1, 2),
    "normal": lambda g: g.normal((5,), 1, 2, np.float64),
    "randint": lambda g: g.randint(-5, 5, (7,)),
    "permutation": lambda g: g.permutation(9),
    "bernoulli": lambda g: g.bernoulli(0.3, (11,)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_and_a_state_repeat_the_draws(draw):
    a, b = Generator(5), Generator(5)
    first = draw(a)
    assert np.array_equal(first, draw(b)) and not np.array_equal(first, draw(a))
    state = a.get_state()
    assert state == (5, 2) and all(type(number) is int for number in state)
    later = draw(a)
    b.set_state(state)
    assert np.array_equal(later, draw(b))
    assert np.array_equal(first, draw(a.manual_seed(5)))


def test_a_draw_does_not_depend_on_the_size_of_the_one_before():
    a, b = Generator(1), Generator(1)
    a.uniform((1000,))
    b.uniform(())
    assert np.array_equal(a.normal((4,)), b.normal((4,)))


def test_shapes_and_dtypes():
    g = Generator(0)
    for shape in ((), (0,), (2, 0, 3), (2, 3), 4):
        expected = (shape,) if isinstance(shape, int) else shape
        for dtype in (np.float16, np.float32, np.float64):
            for values in (g.uniform(shape, -2, 3, dtype), g.normal(shape, 1, 2, dtype), g.bernoulli(0.5, shape, dtype)):
                assert type(values) is np.ndarray and values.shape == expected and values.dtype == dtype
        integers = g.randint(0, 3, shape, np.int32)
        assert type(integers) is np.ndarray and integers.shape == expected and integers.dtype == np.int32


def test_ranges_and_frequencies():
    g, n = Generator(2), 100_000
    values = g.uniform((n,), 2, 3, np.float16)
    assert values.min() >= 2 and values.max() < 3
    counts = np.bincount(g.randint(0, 10, (n,)), minlength=10)
    # Five standard deviations of a binomial count.
    assert len(counts) == 10 and abs(counts - n / 10).max() < 5 * np.sqrt(n * 0.09)
    chance = np.array([0.0, 0.25, 1.0])
    rates = g.bernoulli(chance, (n, 3)).mean(axis=0)
    assert rates[0] == 0 and rates[2] == 1 and abs(rates[1] - 0.25) < 5 * np.sqrt(0.1875 / n)
    assert g.bernoulli(chance).shape == (3,)
    first = np.bincount([g.permutation(4)[0] for _ in range(2000)], minlength=4)
    assert abs(first - 500).max() < 5 * np.sqrt(2000 * 3 / 16)
    assert sorted(g.permutation(50).tolist()) == list(range(50))
    assert g.permutation(0).shape == (0,)


def test_keys_are_unique_among_threads():
    g, keys = Generator(3), []
    threads = [threading.Thread(target=lambda: keys.extend([g.next_key() for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 2000 and g.get_state() == (3, 2000)


def test_the_default_generator():
    state = rng.get_rng_state()
    try:
        assert rng.manual_seed(8) is rng.default_generator
        first = rng.default_generator.uniform((3,))
        rng.set_rng_state((8, 0))
        assert np.array_equal(first, rng.default_generator.uniform((3,)))
    finally:
        rng.set_rng_state(state)
    assert Generator().initial_seed() != Generator().initial_seed()
    assert Generator(-1).initial_seed() == 2**64 - 1


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda g: g.manual_seed(1.5), ConfigError, "seed=1.5, but it must be an integer"),
        (lambda g: g.manual_seed(2**64), ConfigError, "must be an integer from"),
        (lambda g: g.set_state((1, 2, 3)), ConfigError, "must be .seed, offset."),
        (lambda g: g.uniform((2, -1)), ShapeError, "no axis may be negative"),
        (lambda g: g.normal((2,), dtype=np.int64), ConfigError, "int64 is not float16"),
        (lambda g: g.randint(3, 3), ConfigError, "low=3 and high=3"),
        (lambda g: g.permutation(-1), ConfigError, "n=-1"),
        (lambda g: g.bernoulli(1.5, (2,)), ConfigError, "from 0 to 1, found 1.5"),
    ],
)
def test_bad_requests(call, error, message):
    with pytest.raises(error, match=message):
        call(Generator(0))
