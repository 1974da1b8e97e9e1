"""Random numbers from a counter: Philox4x32-10 keyed by a seed.

The whole state of a Generator is two integers, (seed, offset).  Every draw takes the next offset as its own stream, so a
draw never depends on how much an earlier one took, and a kernel that knows its key can draw its numbers again: that is how
dropout's backward pass finds its mask.
"""
import math
import os
import threading
from typing import Any

import numpy as np

from minidl.errors import ConfigError, ShapeError
from minidl.kernels import lookup

Shape = int | tuple[int, ...]

_LIMIT = 1 << 64


class Generator:
    """A seeded source of random arrays; safe to share between threads.

    Args:
        seed: any integer from -2^63 to 2^64 - 1; without one, the operating system's randomness.

    >>> a, b = Generator(7), Generator(7)
    >>> bool((a.uniform((2, 3)) == b.uniform((2, 3))).all())
    True
    """

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self._seed = 0
        self._offset = 0
        self.manual_seed(int.from_bytes(os.urandom(8), "little") if seed is None else seed)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, offset={self._offset})"

    def manual_seed(self, seed: int) -> "Generator":
        """Start again from ``seed``; returns the generator itself."""
        with self._lock:
            self._seed, self._offset = _word(seed, "seed"), 0
        return self

    def initial_seed(self) -> int:
        """The seed in use, as a number from 0 to 2^64 - 1."""
        return self._seed

    def get_state(self) -> tuple[int, int]:
        """(seed, offset): plain integers, all there is to save."""
        with self._lock:
            return self._seed, self._offset

    def set_state(self, state: tuple[int, int]) -> None:
        """Continue from what ``get_state`` returned."""
        if len(state) != 2:
            raise ConfigError(f"Generator.set_state: {state!r} is not a state; it must be (seed, offset), as get_state gives")
        seed, offset = _word(state[0], "seed"), _word(state[1], "offset")
        with self._lock:
            self._seed, self._offset = seed, offset

    def next_key(self) -> tuple[int, int]:
        """A key (seed, offset) that no other call gets, for a kernel that draws its own numbers."""
        with self._lock:
            key = self._seed, self._offset
            self._offset = (self._offset + 1) % _LIMIT
        return key

    def uniform(self, shape: Shape = (), low: float = 0.0, high: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
        """Numbers spread evenly over [low, high)."""
        shape, dtype = _shape(shape), _floating(dtype, "uniform")
        if dtype.kind == "V":                        # bfloat16: 8 bits, so that no number below 1 is rounded to it
            steps = np.floor(self.uniform(shape) * np.float32(256)) / np.float32(256)
            return (steps * np.float32(high - low) + np.float32(low)).astype(dtype)
        values = lookup("philox_uniform")(shape, self.next_key(), dtype)
        if (low, high) != (0.0, 1.0):
            values *= dtype.type(high - low)
            values += dtype.type(low)
            if high > low:  # rounding may reach high, which the interval does not hold
                np.minimum(values, np.nextafter(dtype.type(high), dtype.type(low)), out=values)
        return values

    def normal(self, shape: Shape = (), mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
        """Normally distributed numbers, by Box and Muller's transform."""
        shape, dtype = _shape(shape), _floating(dtype, "normal")
        if dtype.kind == "V":
            return self.normal(shape, mean, std).astype(dtype)
        values = lookup("philox_normal")(shape, self.next_key(), dtype)
        if (mean, std) != (0.0, 1.0):
            values *= dtype.type(std)
            values += dtype.type(mean)
        return values

    def randint(self, low: int, high: int, shape: Shape = (), dtype: Any = np.int64) -> np.ndarray:
        """Whole numbers from low to high - 1.  The modulo favours none by more than (high - low) / 2^64."""
        if high <= low:
            raise ConfigError(f"randint: low={low} and high={high}, but high must be greater")
        shape = _shape(shape)
        values = (self._words(math.prod(shape)) % np.uint64(high - low)).astype(np.int64) + low
        return values.astype(dtype).reshape(shape)

    def permutation(self, n: int) -> np.ndarray:
        """The numbers 0 .. n-1 in random order, int64."""
        if n < 0:
            raise ConfigError(f"permutation: n={n}, but it must be at least 0")
        # Sorting 64-bit keys is fair up to ties, which have a chance of n^2 / 2^65.
        return np.argsort(self._words(n), kind="stable").astype(np.int64, copy=False)

    def bernoulli(self, p: Any, shape: Shape | None = None, dtype: Any = np.float32) -> np.ndarray:
        """1 with probability p, else 0; p is a number or an array that broadcasts to shape (by default p's own)."""
        chance = np.asarray(p, np.float64)
        if chance.size and not ((chance >= 0) & (chance <= 1)).all():
            raise ConfigError(f"bernoulli: p must be from 0 to 1, found {chance.min()} to {chance.max()}")
        drawn = self.uniform(chance.shape if shape is None else shape, dtype=np.float64)
        return np.asarray(drawn < chance).astype(dtype)

    def _words(self, n: int) -> np.ndarray:
        return lookup("philox_bits")(*self.next_key(), 2 * n).view(np.uint64)


def _word(number: int, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not -(1 << 63) <= number < _LIMIT:
        raise ConfigError(f"Generator: {what}={number!r}, but it must be an integer from -2^63 to 2^64 - 1")
    return int(number) % _LIMIT


def _shape(shape: Shape) -> tuple[int, ...]:
    shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    if any(n < 0 for n in shape):
        raise ShapeError(f"random shape {shape}: no axis may be negative")
    return shape


def _floating(dtype: Any, name: str) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype not in (np.float16, np.float32, np.float64) and dtype.name != "bfloat16":
        raise ConfigError(f"{name}: dtype {dtype} is not float16, bfloat16, float32 or float64; for whole numbers use randint")
    return dtype


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator, which initialisation, dropout and random creation use; returns it."""
    return default_generator.manual_seed(seed)


def get_rng_state() -> tuple[int, int]:
    """The default generator's state, (seed, offset)."""
    return default_generator.get_state()


def set_rng_state(state: tuple[int, int]) -> None:
    """Put the default generator back to what ``get_rng_state`` returned."""
    default_generator.set_state(state)
