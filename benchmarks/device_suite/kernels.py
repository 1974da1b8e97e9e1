"""Every verb's variants beside each other on one sample: time on the device, rate, and how much of a roof that is.

A verb's work is counted the same way for all its variants.  Bytes: every array of its arguments and results once, read or
written; what is updated in place, twice.  Operations, where they are the work (convolution, attention): two for each
multiply-accumulate of the plain formula.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.device_suite.devices import Device
from benchmarks.device_suite.environment import COPY, FMA, MATMUL
from benchmarks.device_suite.features import BFLOAT16, FLOAT32, TF32
from benchmarks.device_suite.samples import LARGE, PLAIN, TINY, sample, verbs
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, in_a_line, timing
from minidl import kernels
from minidl.inspect.kernel_samples import Sample
from minidl.kernels.cuda.launch import computes

PRECISIONS = (FLOAT32, TF32, BFLOAT16)
CONVOLUTIONS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")  # what is told its precision, as the last argument
TINY_VERBS = ("relu", "conv2d", "softmax", "sgd_")
FIRST = ("cuda", "tensor")  # the order of variants; the rest follows as it comes
# Differences from the plain variant, relative to the result's norm: sums in another order; factors rounded to TF32's 11 bits
# (5e-4 each); results of 8 bits (4e-3 each).  A wrong kernel is off by its results' own size.
ALLOWED = {FLOAT32: 1e-3, TF32: 5e-3, BFLOAT16: 3e-2}
SECONDS = 4.0  # a variant that takes longer than this for a launch is named, not timed


def tasks(suite: Suite) -> Iterator[Task]:
    for precision in (FLOAT32,) if suite.tiny else PRECISIONS:
        known = verbs(suite.device.name)
        for verb in known if precision != TF32 else CONVOLUTIONS:
            if not suite.tiny or verb in TINY_VERBS:
                yield Task(f"{verb} {precision}", verb_of(suite, verb, precision), least=8.0)


def verb_of(suite: Suite, verb: str, precision: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(_: Deadline) -> dict[str, Any]:
        dtype = BFLOAT16 if precision == BFLOAT16 else FLOAT32
        try:
            found = sample(verb, dtype, suite.device.xp, TINY if suite.tiny else LARGE)
        except ModuleNotFoundError as error:
            raise Missing(f"{dtype} needs {error.name}") from None
        return measure(suite.device, verb, precision, found)

    return run


def measure(device: Device, verb: str, precision: str, found: Sample) -> dict[str, Any]:
    """A verb's variants on its sample; each is compared with the plain one before it is timed."""
    known = kernels.variants(verb, device.name)
    plain = next((name for name in PLAIN if name in known), None)
    expected = known[plain](*found.arguments, **found.options) if plain else None
    entry: dict[str, Any] = {
        "what": found.what, "precision": precision, "flop": found.flop, "moved": moved(verb, found.arguments, expected),
        "timings": {}, "errors": {}, "missing": {},
    }  # fmt: skip
    arguments = (*found.arguments, "tf32") if precision == TF32 else found.arguments

    def computing(name: str, arguments: tuple[Any, ...]) -> bool:
        return computes(verb, device.name, name, *arguments, **found.options)

    for name in dict.fromkeys((*(v for v in FIRST if v in known), *known)):
        if precision == TF32 and computing(name, found.arguments):
            continue  # float32 in any case: it is timed there
        if not computing(name, arguments):
            entry["missing"][name] = "not for these arguments"
            continue

        def call(kernel: Callable[..., Any] = known[name]) -> Any:
            return kernel(*arguments, **found.options)

        try:
            error = 0.0 if name == plain else distance(device.xp, call(), expected)
            entry["errors"][name] = error
            if not error <= ALLOWED[precision]:
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


def moved(verb: str, arguments: tuple[Any, ...], result: Any) -> int:
    """Bytes that a verb has to read and to write.  One that ends in ``_`` writes its lists too, but for the second: gradients."""
    lists = [value for value in arguments if isinstance(value, list)]
    written = bytes_of(result) + (bytes_of(lists) - bytes_of(lists[1]) if verb.endswith("_") else 0)
    return bytes_of(arguments) + written


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
    return f"{MATMUL} {entry['precision']}" if variant == "tensor" else FMA


def rate(entry: dict[str, Any], variant: str) -> tuple[float, str]:
    """(rate, its unit) of a variant at the median."""
    seconds = entry["timings"][variant]["median"]
    return (entry["flop"] / seconds / 1e12, "TFLOP/s") if entry["flop"] else (entry["moved"] / seconds / 1e9, "GB/s")
