"""What the kernel tests share: memory layouts, comparison under a contract, and running every variant of a verb."""
import os

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from minidl.kernels import lookup, spec, variants

FLOATS = ("float16", "float32", "float64")           # parameters of tests, not drawn: drawn, some would be among no example
LAYOUTS = ("contiguous", "reversed", "sliced", "channels_last")

layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)

device = "cpu"  # whose kernels are tested: pytest --device emu, --device cuda, --device numba-cuda


def simulated():
    """Whether Numba's simulator stands in for a GPU: a launch takes milliseconds for each thread."""
    return device == "numba-cuda" and os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def examples(count):
    """Settings of a test with hypothesis: so many examples; a few where each takes long, in the simulator and under TSan."""
    watched = "thread" in os.environ.get("MINIDL_EMULATOR_SANITIZE", "")
    return settings(deadline=None, max_examples=4 if simulated() else 12 if watched else count)


def under_test(verb):
    """(name, kernel) of every variant of a verb on the device under test but the oracle; NumPy arrays in and out.

    "numba-cuda" is the variant "numba" of CUDA, which needs a package more than the others.
    """
    numba = device == "numba-cuda"
    for name, kernel in variants(verb, "cuda" if numba else device).items():
        if name == "reference" or (device != "cpu" and (name == "numba") != numba):
            continue
        yield f"{device} {name}", on_gpu(kernel) if device == "cuda" or numba and not simulated() else kernel


def on_gpu(kernel):
    """A kernel of CuPy arrays as one of NumPy arrays; what it writes is copied back."""

    def run_there(*arguments, **options):
        import cupy

        there = [upload(cupy, a) for a in arguments]
        result = kernel(*there, **options)
        for here, written in zip(arguments, there, strict=True):
            if isinstance(here, list):
                for i, (a, b) in enumerate(zip(here, written, strict=True)):
                    if a is None and b is not None:
                        here[i] = cupy.asnumpy(b)
                    elif isinstance(a, np.ndarray):
                        a[...] = cupy.asnumpy(b)
        if result is None:
            return None
        return tuple(map(cupy.asnumpy, result)) if isinstance(result, tuple) else cupy.asnumpy(result)

    return run_there


def upload(cupy, value):
    """To the GPU with the same strides' order and signs, so that layouts are tested there too."""
    if isinstance(value, list):
        return [upload(cupy, v) for v in value]
    if not isinstance(value, np.ndarray):
        return value
    order = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
    signs = tuple(slice(None, None, -1 if s < 0 else 1) for s in value.strides)
    straight = cupy.asarray(np.ascontiguousarray(value[signs].transpose(order)))
    return straight.transpose(np.argsort(order).tolist())[signs]


def draw(seed, shape, dtype="float64", layout="contiguous"):
    """Normal numbers in the given memory layout, the same numbers in each."""
    return arrange(np.random.default_rng(seed).standard_normal(shape).astype(dtype), layout)


def arrange(values, layout):
    """The same values, held in memory another way."""
    if not values.ndim:
        return values.copy()  # a number has one layout, and indexing it would make a NumPy scalar
    if layout == "reversed":  # every stride negative
        backwards = (slice(None, None, -1),) * values.ndim
        return values[backwards].copy()[backwards]
    if layout == "sliced":  # every other element of a larger array, whose rest is NaN
        room = np.full([2 * n for n in values.shape], np.nan if values.dtype.kind == "f" else -1, values.dtype)
        every_other = (slice(None, None, 2),) * values.ndim
        room[every_other] = values
        return room[every_other]
    if layout == "channels_last" and values.ndim >= 3:
        return np.moveaxis(np.moveaxis(values, 1, -1).copy(), -1, 1)
    return values.copy()


def assert_close(verb, got, expected, dtype, scale=1.0):
    """Every array of ``got`` is within the tolerance of the verb's contract; ``scale`` is the size of the sums behind it."""
    got, expected = (result if isinstance(result, tuple) else (result,) for result in (got, expected))
    assert len(got) == len(expected)
    tolerance = spec(verb).tolerance[str(dtype)]
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = a.astype(np.float64), np.asarray(b).astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance.rtol, atol=tolerance.atol * scale, err_msg=verb)


def check(verb, *arguments, dtype, scale=1.0):
    """Every variant of a verb against its reference; twice for the same bits; and its inputs as they were before.

    Only the "naive" CUDA kernels may use atomics, which add in another order every time on a GPU.

    Returns the reference's result.
    """
    kept = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    expected = variants(verb)["reference"](*arguments)
    for name, kernel in under_test(verb):
        got, again = kernel(*arguments), kernel(*arguments)
        assert_close(verb, got, expected, dtype, scale)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, again)), strict=True):
            same = name.endswith("cuda naive") or a.tobytes() == b.tobytes()
            assert same, f"{verb} {name}: two runs gave different bits"
            assert not any(np.shares_memory(a, x) for x in arguments if isinstance(x, np.ndarray)), f"{verb} {name}: a view"
    for before, after in zip(kept, arguments, strict=True):
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, after, err_msg=f"{verb} wrote an input")
    return expected


def run(verb, *arguments, **options):
    """The default variant."""
    return lookup(verb, "cpu")(*arguments, **options)
