"""How fast the variants of a kernel are, beside each other, beside PyTorch and below the machine's roofs.

The contenders take turns, A B C C B A ..., so that a slow second hits all of them; a ratio is the median over the rounds of the
ratio within a round.  ``python -m benchmarks`` is for figures to be kept: it does the same in a process per library.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from minidl import kernels
from minidl.errors import ConfigError
from minidl.inspect.kernel_samples import Sample, sample

SAMPLE_SECONDS = 5e-3  # a sample repeats its contender until it lasts about this long
SETTLE = 0.02  # seconds: PyTorch's OpenMP threads spin for a while after a call, and would take a core from the next one
NOISY = 0.15  # quartiles further apart than this part of the median: the machine was doing something else as well
ORACLE = "reference"

Call = Callable[[], Any]


class Timing(NamedTuple):
    """Seconds of one call: the quartiles of the rounds, and the ratio to the first contender's, round by round."""

    low: float
    median: float
    high: float
    ratio: float

    @property
    def noisy(self) -> bool:
        return self.high - self.low > NOISY * self.median


class Measured(NamedTuple):
    """The contenders of a verb.  One of ``flop`` and ``moved`` (bytes read and written, each array once) is its work."""

    verb: str
    what: str
    flop: float
    moved: float
    timings: dict[str, Timing]

    def rate(self, contender: str) -> float:
        """GFLOP/s or GB/s at the median."""
        return (self.flop or self.moved) / self.timings[contender].median / 1e9


def contenders(verb: str, found: Sample, oracle: bool, torch: Any = None) -> dict[str, Call]:
    """The CPU variants of a verb and, given the module, PyTorch.

    ``oracle``: the reference variant too, which takes seconds to minutes.
    """
    calls: dict[str, Call] = {}
    known = kernels.variants(verb, "cpu")
    for name in dict.fromkeys(("vector", "numpy", *sorted(known))):  # what the ratios are to first
        if name in known and (name != ORACLE or oracle):
            calls[name] = functools.partial(known[name], *found.arguments, **found.options)
    if torch is not None and found.torch is not None:
        tensors = [torch.from_numpy(a) if hasattr(a, "__array__") else a for a in found.arguments]
        calls["torch"] = found.torch(torch, *tensors)
    return calls


def measure(verb: str, rounds: int, oracle: bool = False, torch: Any = None) -> Measured:
    """Time a verb's contenders on its sample.

    Raises:
        ConfigError: the verb does not exist, or there is no sample of its arguments.
    """
    kernels.spec(verb)
    found = sample(verb)
    calls = contenders(verb, found, oracle, torch)
    results = {name: call() for name, call in calls.items()}  # compiles, too
    moved = sum(map(_bytes, [*found.arguments, results["numpy"]]))
    results.clear()
    repeats = {name: max(1, round(SAMPLE_SECONDS / _seconds(call, 1))) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            seconds[name].append(_seconds(calls[name], repeats[name]))
    first = seconds[names[0]]
    return Measured(verb, found.what, found.flop, moved, {name: _timing(taken, first) for name, taken in seconds.items()})


def _seconds(call: Call, repeats: int) -> float:
    time.sleep(SETTLE)
    gc.collect()
    call()  # wakes this contender's threads
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return max(time.perf_counter() - begin, 1e-9) / repeats


def _timing(seconds: Sequence[float], first: Sequence[float]) -> Timing:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(low, median, high, statistics.median(a / b for a, b in zip(seconds, first, strict=True)))


def _bytes(value: Any) -> int:
    """Of all arrays in an argument or a result."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return sum(map(_bytes, value))
    return getattr(value, "nbytes", 0)


class Roofs(NamedTuple):
    """What the machine does at most on these threads; None where llvmlite is missing."""

    gflops: float | None
    gbytes: float | None


def roofs() -> Roofs:
    """Measured now, with kernels of our own (:mod:`minidl.kernels.cpu.roofs`)."""
    from minidl.kernels.cpu.engine import Unavailable
    from minidl.kernels.cpu.roofs import copy_bandwidth, fma_peak

    try:
        return Roofs(fma_peak(), copy_bandwidth())
    except Unavailable:
        return Roofs(None, None)


def find_torch(threads: int) -> Any:
    """PyTorch on so many threads, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def verbs_with_samples(asked: Iterable[str]) -> tuple[list[str], list[str]]:
    """(the verbs asked for, or all; those of all that have no sample).

    Raises:
        ConfigError: a verb asked for does not exist or has no sample.
    """
    from minidl.inspect.kernel_samples import SAMPLES

    chosen = list(dict.fromkeys(asked))
    for verb in chosen:
        kernels.spec(verb)
        if verb not in SAMPLES:
            raise ConfigError(f"{verb}: there is no sample of its arguments, so it cannot be timed")
    known = kernels.verbs()
    return chosen or [v for v in known if v in SAMPLES], [] if chosen else [v for v in known if v not in SAMPLES]
