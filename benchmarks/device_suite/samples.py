"""A verb's sample on the device: the arguments of minidl.inspect.kernel_samples, in another size and dtype."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from minidl import kernels
from minidl.inspect import kernel_samples
from minidl.inspect.kernel_samples import Sample

# Arrays of some 130 MB, more than twice what the largest L2 cache holds.
_LARGE = {"N": 512, "ROWS": 32768, "TOKENS": (512, 197, 192), "DRAWS": 1 << 25,
         "PARAMETERS": [(512, 512, 3, 3)] * 8 + [(4096, 2048), (512,), (2048,)]}  # fmt: skip
_TINY = {"N": 2, "C": 8, "H": 4, "W": 4, "ROWS": 4, "CLASSES": 12, "TOKENS": (2, 5, 8), "HEADS": 2, "WORDS": 20, "DRAWS": 64,
        "PARAMETERS": [(4, 3, 3, 3), (5,)]}  # fmt: skip
# Sizes that are a multiple of nothing, and one whose channels tensor cores take: what is wrong at an edge shows here.
_RAGGED = {"N": 6, "C": 24, "H": 14, "W": 14, "ROWS": 37, "CLASSES": 101, "TOKENS": (2, 33, 30), "HEADS": 3, "WORDS": 50,
          "DRAWS": 1027, "PARAMETERS": [(7, 5, 3, 3), (13,)]}  # fmt: skip
_EVEN = {**_RAGGED, "C": 64, "TOKENS": (2, 32, 48)}
LARGE, TINY, RAGGED, EVEN = "large", "tiny", "ragged", "even"
SIZES = {LARGE: _LARGE, TINY: _TINY, RAGGED: _RAGGED, EVEN: _EVEN}

PLAIN = ("cupy", "numpy")  # variants that are array-module code, not kernels

# Statistics that a verb of 16-bit arrays takes in float32.
WIDE = {"mean", "invstd"}


@contextlib.contextmanager
def sized(sizes: dict[str, Any]) -> Iterator[None]:
    """A block in which samples have these sizes."""
    kept = {name: getattr(kernel_samples, name) for name in sizes}
    vars(kernel_samples).update(sizes)
    try:
        yield
    finally:
        vars(kernel_samples).update(kept)


@functools.lru_cache(maxsize=1)
def _on_host(verb: str, size: str) -> Sample:
    """It takes seconds to draw, and is asked for once for each precision."""
    with sized(SIZES[size]):
        return kernel_samples.sample(verb)


def sample(verb: str, dtype: str, xp: Any, size: str) -> Sample:
    """The sample of a verb with its arrays on a device, its floats of ``dtype``; ``size`` is one of ``SIZES``."""
    found = _on_host(verb, size)
    names = argument_names(verb)
    names += [""] * (len(found.arguments) - len(names))
    there = tuple(upload(xp, value, dtype, name in WIDE) for name, value in zip(names, found.arguments, strict=False))
    return found._replace(arguments=there)


def argument_names(verb: str) -> list[str]:
    """How the contract calls a verb's arguments: "(x (N,C,...), w (C,)|None, eps) -> y" are x, w, eps."""
    return _names(kernels.spec(verb).signature.partition("->")[0])


def result_names(verb: str) -> list[str]:
    """How it calls the results."""
    return _names(kernels.spec(verb).signature.partition("->")[2])


def _names(text: str) -> list[str]:
    depth, names = 0, [""]
    text = text.strip()
    for letter in text[1:-1] if text.startswith("(") else text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip().partition(" ")[0].partition(":")[0] for name in names]


def upload(xp: Any, value: Any, dtype: str, wide: bool = False) -> Any:
    """An argument on the device, in the same order of memory: maps stay channels-last."""
    if isinstance(value, list):
        return [upload(xp, item, dtype, wide) for item in value]
    if not hasattr(value, "__array__"):
        return dtype if value == "float32" else value  # philox_uniform is told its dtype
    order = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
    there = xp.asarray(value.transpose(order).copy())
    if there.dtype.kind == "f" and not wide:
        there = there.astype(dtype_of(xp, dtype), copy=False)
    return there.transpose([order.index(axis) for axis in range(value.ndim)])


def dtype_of(xp: Any, name: str) -> Any:
    """The dtype of a name; bfloat16 is ml_dtypes'."""
    if name != "bfloat16":
        return xp.dtype(name)
    import ml_dtypes

    return xp.dtype(ml_dtypes.bfloat16)


def verbs(device: str) -> list[str]:
    """The verbs that have kernels of our own on a device, and a sample."""
    return [verb for verb in kernel_samples.SAMPLES if set(kernels.variants(verb, device)) - set(PLAIN)]
