"""Every verb's variants beside each other on one sample: time on the device, rate, and how much of a roof that is.

A verb's work is counted the same way for all its variants.  Bytes: every array of its arguments and results once, read or
written; what is updated in place, twice.  Operations, where they are the work (convolution, attention): two for each
multiply-accumulate of the plain formula.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.device_suite.devices import Device
from benchmarks.device_suite.environment import COPY, FMA, MATMUL
from benchmarks.device_suite.features import BFLOAT16, FLOAT32, TF32
from benchmarks.device_suite.samples import LARGE, PLAIN, TINY, argument_names, result_names, sample, verbs
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, in_a_line, timing
from minidl import kernels
from minidl.inspect.kernel_samples import Sample
from minidl.kernels.cuda.launch import computes

PRECISIONS = (FLOAT32, TF32, BFLOAT16)
CONVOLUTIONS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")  # what is told its precision, as the last argument
TINY_VERBS = ("relu", "conv2d", "softmax", "sgd_")
KEPT = "kept"  # a result that each variant of a verb chooses for itself, and an argument of its gradient
FIRST = ("cuda", "tensor")  # the order of variants; the rest follows as it comes
# Differences from the plain variant, relative to the result's norm: sums in another order; factors rounded to TF32's 11 bits
# (5e-4 each); results of 8 bits (4e-3 each).  A wrong kernel is off by its results' own size.
ALLOWED = {FLOAT32: 1e-3, TF32: 5e-3, BFLOAT16: 3e-2}
SECONDS = 4.0  # a variant that takes longer than this for a launch is named, not timed


def tasks(suite: Suite) -> Iterator[Task]:
    for verb in verbs(suite.device.name):
        for precision in (FLOAT32,) if suite.tiny else PRECISIONS:
            if (verb in TINY_VERBS or not suite.tiny) and (verb in CONVOLUTIONS or precision != TF32):
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
    compared = [name != KEPT for name in result_names(verb)]

    for name in dict.fromkeys((*(v for v in FIRST if v in known), *known)):
        arguments = with_kept(device, verb, name, found.arguments)
        if precision == TF32:
            if computes(verb, device.name, name, *arguments, **found.options):
                continue  # float32 in any case: it is timed there
            arguments = (*arguments, "tf32")
        if not computes(verb, device.name, name, *arguments, **found.options):
            entry["missing"][name] = "not for these arguments"
            continue

        def call(kernel: Callable[..., Any] = known[name], arguments: tuple[Any, ...] = arguments) -> Any:
            return kernel(*arguments, **found.options)

        try:
            error = 0.0 if name == plain else distance(device.xp, call(), expected, compared)
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


def with_kept(device: Device, verb: str, variant: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a gradient with what this variant's own forward pass keeps for it: each keeps something else."""
    names = argument_names(verb)
    if KEPT not in names:
        return arguments
    forward, at = kernels.variants(verb.removesuffix("_grad"), device.name), names.index(KEPT)
    given = [value for name, value in zip(names, arguments, strict=False) if name not in ("gy", KEPT)]
    return (*arguments[:at], forward[variant](*given)[1], *arguments[at + 1 :]) if variant in forward else arguments


def moved(verb: str, arguments: tuple[Any, ...], result: Any) -> int:
    """Bytes that a verb has to read and to write.

    One that ends in ``_`` writes its first array too, or its lists but for the second: gradients, or the values to follow.
    """
    if verb == "add_at_":  # of x only what the values meet
        x, index, values = arguments
        return bytes_of(index) + 3 * bytes_of(values)
    if not verb.endswith("_"):
        return bytes_of(arguments) + bytes_of(result)
    lists = [value for value in arguments if isinstance(value, list)]
    return bytes_of(arguments) + (bytes_of([lists[0], *lists[2:]]) if lists else bytes_of(arguments[0]))


def bytes_of(value: Any) -> int:
    """Of all arrays in arguments or a result."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return sum(map(bytes_of, value))
    return int(getattr(value, "nbytes", 0))


def distance(xp: Any, got: Any, expected: Any, compared: Iterable[bool] = ()) -> float:
    """The largest, over the arrays of two results, of the norm of their difference over the expected one's norm.

    ``compared``: for each array whether it counts; default: all do.
    """
    pairs = list(zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True))
    counted = [*compared, *[True] * len(pairs)]
    chosen = (pair for pair, counts in zip(pairs, counted, strict=False) if counts and pair[1] is not None)
    return max((_distance(xp, *pair) for pair in chosen), default=0.0)


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
