"""Every operation of the table on the second of two GPUs of the stand-in, which refuses host arrays and other devices' arrays."""

import pytest

from tests.cuda_emulator.emulator import COMPILER
from tests.cuda_emulator.test_operations import MOVABLE
from tests.fake_cupy import fake_cupy
from tests.ops.test_table import assert_close, gradients, numbers

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.skipif(COMPILER is None, reason="the CUDA emulator needs g++"),
]


@pytest.mark.parametrize("op", MOVABLE, ids=str)
def test_the_same_as_on_the_cpu(op, install):
    install(fake_cupy())
    for sample in op.draw():
        (here, here_grads), (there, there_grads) = (gradients(op, sample, device=device) for device in ("cpu", "cuda:1"))
        tolerance = op.close("float64")
        assert_close(numbers(there), numbers(here), sample, **tolerance)
        if op.grad and sample.smooth:
            pairs = [(a, b) for a, b in zip(there_grads, here_grads, strict=True) if b is not None]
            assert_close([a.numpy() for a, _ in pairs], [b.numpy() for _, b in pairs], sample, **tolerance)
            assert {a.device for a, _ in pairs} <= {"cuda:1"}
