"""Mistakes that CUDA code makes are found: in the result, by the emulator or a sanitizer.  What is right is not accused."""
import numpy as np
import pytest

from minidl.kernels import spec, variants
from minidl.kernels.cuda import launch as launching
from minidl.ops.geometry import conv2d_geometry
from tests.cuda_emulator.emulator import COMPILER, SCHEDULES, Emulator, EmulatorError
from tests.cuda_emulator.planted import launch
from tests.cuda_emulator.sanitized import library, run

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the CUDA emulator needs g++")

BY_RESULT = {"neighbour": 2.0 * ((np.arange(64) + 33) % 64), "uninitialised": np.ones(64)}
BY_THE_EMULATOR = {
    "divergent_barrier": "divergent __syncthreads: some threads at .*planted.cu:1[34]",
    "barrier_not_reached": "deadlock: thread|divergent __syncthreads",
    "shuffle_mask": "lane 16 calls, but is not in mask 0000ffff|is not in mask",
    "half_warp": "deadlock: thread .* waits at .*planted.cu:.* for lanes of mask ffffffff",
}
BY_A_SANITIZER = {
    "past_shared": ("address,undefined", "index 64 out of bounds"),
    "past_dynamic": ("address,undefined", "use-after-poison"),
    "misaligned": ("address,undefined", "misaligned address"),
    "index_overflow": ("address,undefined", "signed integer overflow"),
    "neighbour": ("thread", "data race"),
    "count": ("thread", "data race"),
    "race_between_blocks": ("thread", "data race"),
}


@pytest.mark.parametrize("kernel", BY_RESULT)
def test_a_wrong_result(kernel):
    found = {schedule: launch(kernel, True, schedule=schedule) for schedule in SCHEDULES}
    assert any(not np.array_equal(y, BY_RESULT[kernel]) for y in found.values()), "no schedule shows it"
    for schedule in SCHEDULES:
        np.testing.assert_array_equal(launch(kernel, False, schedule=schedule), BY_RESULT[kernel])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kernel", BY_THE_EMULATOR)
def test_an_error_of_the_emulator(kernel, schedule):
    with pytest.raises(EmulatorError, match=BY_THE_EMULATOR[kernel]):
        launch(kernel, True, schedule=schedule)
    launch(kernel, False, schedule=schedule)


@pytest.mark.slow                                    # each builds the kernels once more, under a sanitizer
@pytest.mark.parametrize("kernel", BY_A_SANITIZER)
def test_a_report_of_a_sanitizer(kernel):
    sanitizers, words = BY_A_SANITIZER[kernel]
    if library(sanitizers) is None:
        pytest.skip(f"g++ has no library for {sanitizers}")
    wrong, right = (
        run(sanitizers, ["-m", "tests.cuda_emulator.planted", kernel, how, sanitizers], capture_output=True)
        for how in ("wrong", "right")
    )
    assert wrong.returncode and words in wrong.stderr, wrong.stderr[-3000:]
    assert "planted.cu" in wrong.stderr, "the report does not say where"
    assert right.returncode == 0 and words not in right.stderr, right.stderr[-3000:]


# ---- a mistake planted in a kernel of ours, by a macro in its text ------------------------------------------------------
def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


IN_OUR_KERNELS = {
    "BUG_NO_BARRIER_BEFORE_READING": ("batch_norm", "naive", (numbers(4, 5, 7, 7), None, None, 1e-5)),
    "BUG_NO_BARRIER_BEFORE_REUSE": ("batch_norm", "naive", (numbers(4, 5, 7, 7), None, None, 1e-5)),
    "BUG_NO_BARRIER_BEFORE_JOINING": ("batch_norm", "cuda", (numbers(4, 5, 7, 7), None, None, 1e-5)),
    "BUG_NO_BARRIER_BEFORE_ADDING": ("channel_sum", "cuda", (numbers(70, 6),)),
    "BUG_NO_BARRIER_BEFORE_NEXT_TILE": (
        "conv2d", "cuda", (numbers(2, 8, 9, 9), numbers(70, 8, 3, 3), None, conv2d_geometry((2, 8, 9, 9), (70, 8, 3, 3), 1, 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", IN_OUR_KERNELS)
def test_our_kernels_with_a_bug_are_wrong(bug, monkeypatch):
    """Under one schedule at least, and without the bug under none: the schedules are what makes such bugs visible."""
    verb, variant, arguments = IN_OUR_KERNELS[bug]
    monkeypatch.setattr(launching, "_gpus", {})
    expected = variants(verb, "cpu")["reference"](*arguments)

    def wrong(schedule, options):
        launching.attach(Emulator(schedule, options=options))
        got = variants(verb, "emu")[variant](*arguments)
        pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True)
        limits = spec(verb).tolerance["float32"]
        return any(not np.allclose(a, b, limits.rtol, limits.atol) for a, b in pairs)

    assert not any(wrong(schedule, ()) for schedule in SCHEDULES)
    assert any(wrong(schedule, (bug,)) for schedule in SCHEDULES), "no schedule shows it"


SANITIZED = {
    "BUG_NO_ATOMIC": ("thread", "max_pool2d_grad", "naive", "data race"),
    "BUG_STORE_PAST_THE_END": ("address,undefined", "conv2d", "cuda", "heap-buffer-overflow"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", SANITIZED)
def test_our_kernels_with_a_bug_are_reported(bug):
    sanitizers, verb, variant, words = SANITIZED[bug]
    if library(sanitizers) is None:
        pytest.skip(f"g++ has no library for {sanitizers}")
    wrong, right = (
        run(sanitizers, ["-m", "tests.cuda_emulator.planted", "--verb", verb, variant, sanitizers, *options], capture_output=True)
        for options in ([bug], [])
    )
    assert wrong.returncode and words in wrong.stderr, wrong.stderr[-3000:]
    assert right.returncode == 0 and words not in right.stderr, right.stderr[-3000:]
