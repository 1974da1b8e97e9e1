"""Every operation under autocast by CUDA kernels: 16-bit arrays, float32 parameters beside them, the CPU's results."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from tests.cuda_emulator.conftest import emulator  # noqa: F401 - a fixture
from tests.opdb import OPS, Op
from tests.ops.test_table import gradients, numbers

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
MOVABLE = [op for op in OPS if "devices" not in op.without and "float32" in op.dtypes]
# Both round to 8 bits at the same places; sums in another order sometimes round to a neighbour, an ulp of 2^-7 away, and
# operations of several steps do so several times.
LIMIT = {"rtol": 0.03, "atol": 0.03}


@pytest.mark.parametrize("op", MOVABLE, ids=str)
def test_the_same_as_on_the_cpu(op: Op, emulator):  # noqa: F811
    for sample in op.draw():
        sample = sample.cast("float32")
        if not sample.smooth:
            continue
        with minidl.autocast("bfloat16"):
            (here, here_grads), (there, there_grads) = (gradients(op, sample, device=device) for device in ("cpu", "emu"))
        pairs = [(a, b) for a, b in zip(there_grads, here_grads, strict=True) if b is not None]
        assert [y.dtype for y in there] == [y.dtype for y in here]
        assert {g.dtype for g, _ in pairs} <= {np.dtype("float32")} and {g.device for g, _ in pairs} <= {"emu"}
        for a, b in [*zip(numbers(there), numbers(here), strict=True), *((a.numpy(), b.numpy()) for a, b in pairs)]:
            scale = max(1.0, np.abs(b.astype("f8")[np.isfinite(b)]).max(initial=0))
            np.testing.assert_allclose(a.astype("f8") / scale, b.astype("f8") / scale, **LIMIT, err_msg=str(sample))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("channels", [3, 8], ids=["single numbers", "packs of them"])
def test_batch_norm_reads_float32_parameters(channels, dtype, training, emulator):  # noqa: F811
    """Parameters that no 16-bit number holds: 1 + 2^-12 would become 1."""
    x = minidl.randn(4, channels, 5, 5).to(dtype)
    w, b, mean = (
        minidl.tensor((values * 3)[:channels])
        for values in ([1 + 2.0**-12, 1000.03, -1.0], [2.0**-20, -1000.03, 3.0], [300.25, 0.0, 1.0])
    )
    var = minidl.ones(channels)
    found = []
    for device in ("cpu", "emu"):
        xs, ws, bs, ms, vs = (t.clone().to(device) for t in (x, w, b, mean, var))
        for t in (xs, ws, bs):
            t.requires_grad_()
        y = minidl.nn.functional.batch_norm(xs, ms, vs, ws, bs, training=training, relu=True)
        assert y.dtype.name == dtype
        y.backward(minidl.ones_like(y))
        assert ws.grad.dtype == bs.grad.dtype == np.float32 and xs.grad.dtype.name == dtype
        found.append([t.detach().cpu().float().numpy() for t in (y, xs.grad, ws.grad, bs.grad)])
    assert any(name.startswith("batch_norm_apply") for name in emulator.launched), "it fell through to plain code"
    # Both compute in float32 and round once: a neighbour at most.
    ulp = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=ulp, atol=ulp * max(1e-3, np.abs(b).max()))
