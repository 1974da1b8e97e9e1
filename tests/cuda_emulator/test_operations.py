"""Every operation of the table on the emulator: the CUDA backend computes what the CPU does, forward and backward."""
import pytest

from tests.cuda_emulator.emulator import SCHEDULES
from tests.opdb import OPS, Op, images, losses, nets
from tests.ops.test_table import assert_close, gradients, numbers

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
MOVABLE = [op for op in OPS if "devices" not in op.without]
# Those that launch kernels of their own, in which threads work together; the others are the array module's.
LAUNCHING = {id(op) for family in (images, losses, nets) for op in family.OPS}


@pytest.mark.parametrize("op, schedule", [
    pytest.param(op, schedule, id=f"{op}-{schedule}") for op in MOVABLE
    for schedule in (SCHEDULES if id(op) in LAUNCHING else ["forward"])
])  # fmt: skip
def test_the_same_as_on_the_cpu(op: Op, schedule, emulator):
    emulator.schedule = schedule
    for sample in op.draw():
        (here, here_grads), (there, there_grads) = (gradients(op, sample, device=device) for device in ("cpu", "emu"))
        tolerance = op.close("float64")
        assert_close(numbers(there), numbers(here), sample, **tolerance)
        if op.grad and sample.smooth:
            pairs = [(a, b) for a, b in zip(there_grads, here_grads, strict=True) if b is not None]
            assert_close([a.numpy() for a, _ in pairs], [b.numpy() for _, b in pairs], sample, **tolerance)
            assert {a.device for a, _ in pairs} <= {"emu"}
