"""Every operation of the table on the emulator: the CUDA backend computes what the CPU does, forward and backward."""
import pytest

from tests.opdb import OPS, Op
from tests.ops.test_table import assert_close, gradients, numbers

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
MOVABLE = [op for op in OPS if "devices" not in op.without]


@pytest.mark.parametrize("op", MOVABLE, ids=str)
def test_the_same_as_on_the_cpu(op: Op, emulator):
    for sample in op.draw():
        (here, here_grads), (there, there_grads) = (gradients(op, sample, device=device) for device in ("cpu", "emu"))
        tolerance = op.close("float64")
        assert_close(numbers(there), numbers(here), sample, **tolerance)
        if op.grad and sample.smooth:
            pairs = [(a, b) for a, b in zip(there_grads, here_grads, strict=True) if b is not None]
            assert_close([a.numpy() for a, _ in pairs], [b.numpy() for _, b in pairs], sample, **tolerance)
            assert {a.device for a, _ in pairs} <= {"emu"}
