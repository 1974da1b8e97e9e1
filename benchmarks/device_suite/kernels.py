"""Every verb's variants beside each other on one sample: time on the device, rate, and how much of a roof that is.

A verb's work is counted the same way for all its variants.  Bytes: every array of its arguments and results once, read or
written.  Operations, where they are the work (convolution, attention): two for each multiply-accumulate of the plain formula.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.device_suite.environment import COPY, FMA, MATMUL
from benchmarks.device_suite.features import BFLOAT16
from benchmarks.device_suite.samples import LARGE, TINY, sample, verbs
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, in_a_line, timing
from minidl import kernels
from minidl.inspect.kernel_samples import Sample
from minidl.kernels.cuda.launch import computes

DTYPES = ("float32", "bfloat16")
TINY_VERBS = ("relu", "conv2d", "softmax", "sgd_")
FIRST = ("cuda", "tensor")  # the order of variants; the rest follows as it comes
PLAIN = ("cupy", "numpy")
# Of the plain variant's results, relative to their norm.  float32 products may be rounded to TF32's 11 bits (5e-4 each),
# bfloat16 keeps 8 bits (4e-3 each); a wrong kernel is off by its results' own size.
ALLOWED = {"float32": 5e-3, "bfloat16": 3e-2}
SECONDS = 4.0  # a variant that takes longer than this for a launch is named, not timed


def tasks(suite: Suite) -> Iterator[Task]:
    for dtype in DTYPES:
        for verb in verbs(suite.device.name):
            if not suite.tiny or (verb in TINY_VERBS and dtype == "float32"):
                yield Task(f"{verb} {dtype}", verb_of(suite, verb, dtype), least=8.0)


def verb_of(suite: Suite, verb: str, dtype: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(_: Deadline) -> dict[str, Any]:
        device = suite.device
        try:
            found = sample(verb, dtype, device.xp, TINY if suite.tiny else LARGE)
        except ModuleNotFoundError as error:
            raise Missing(f"{dtype} needs {error.name}") from None
        return measure(device, verb, dtype, found)

    return run


def measure(device: Any, verb: str, dtype: str, found: Sample) -> dict[str, Any]:
    """A verb's variants on its sample; each is compared with the plain one before it is timed."""
    known = kernels.variants(verb, device.name)
    plain = next((name for name in PLAIN if name in known), None)
    expected = known[plain](*found.arguments, **found.options) if plain else None
    moved = bytes_of(found.arguments) + bytes_of(expected)
    entry: dict[str, Any] = {"what": found.what, "dtype": dtype, "flop": found.flop, "moved": moved,
                             "timings": {}, "errors": {}, "missing": {}}  # fmt: skip
    for name in dict.fromkeys((*(v for v in FIRST if v in known), *known)):
        if not computes(verb, device.name, name, *found.arguments, **found.options):
            entry["missing"][name] = "not for these arguments"
            continue

        def call(kernel: Callable[..., Any] = known[name]) -> Any:
            return kernel(*found.arguments, **found.options)

        try:
            error = 0.0 if name == plain else distance(device.xp, call(), expected)
            entry["errors"][name] = error
            if not error <= ALLOWED[dtype]:
                entry["missing"][name] = f"WRONG: differs from {plain} by {error:.3g} of its size"
            elif (once := seconds(device, call)) > SECONDS:
                entry["missing"][name] = f"one launch takes {once:.1f} s"
            else:
                entry["timings"][name] = timing(device.spans(call))
        except Exception as failure:
            if not device.alive():
                raise
            entry["missing"][name] = in_a_line(failure)
    return entry


def seconds(device: Any, call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    device.synchronize()
    return time.perf_counter() - begin


def bytes_of(value: Any) -> int:
    """Of all arrays in arguments or a result."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return sum(map(bytes_of, value))
    return int(getattr(value, "nbytes", 0))


def distance(xp: Any, got: Any, expected: Any) -> float:
    """The largest, over the arrays of two results, of the norm of their difference over the expected one's norm."""
    pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True)
    return max((_distance(xp, a, b) for a, b in pairs if b is not None), default=0.0)


def _distance(xp: Any, a: Any, b: Any) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    a, b = a.astype(xp.float32), b.astype(xp.float32)
    norm = float(xp.sqrt((b * b).sum(dtype=xp.float64)))
    difference = float(xp.sqrt(((a - b) ** 2).sum(dtype=xp.float64)))
    if norm == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / norm


def roof_of(entry: dict[str, Any], variant: str) -> str:
    """The roof that a variant of a measured verb stays under."""
    if not entry["flop"]:
        return COPY
    if variant == "tensor":
        return f"{MATMUL} {'tf32' if entry['dtype'] == 'float32' else BFLOAT16}"
    return FMA


def rate(entry: dict[str, Any], variant: str) -> tuple[float, str]:
    """(rate, its unit) of a variant at the median."""
    seconds = entry["timings"][variant]["median"]
    return (entry["flop"] / seconds / 1e12, "TFLOP/s") if entry["flop"] else (entry["moved"] / seconds / 1e9, "GB/s")
