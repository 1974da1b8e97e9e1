"""bfloat16 as a dtype of tensors: made, converted, computed with, printed, saved."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn, optim
from minidl.io import checkpoint, safetensors
from minidl.kernels import use
from tests.opdb import OPS, Op, run, wrap
from tests.ops.test_table import numbers

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
bf16 = np.dtype(ml_dtypes.bfloat16)


def test_it_is_not_imported_with_minidl():
    code = "import sys, minidl; minidl.randn(2) @ minidl.randn(2); print('ml_dtypes' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_names():
    assert minidl.bfloat16 == bf16 and minidl.bfloat16 is minidl.bfloat16
    for name in ("bfloat16", minidl.bfloat16, ml_dtypes.bfloat16):
        assert minidl.zeros(2, dtype=name).dtype == bf16
    with pytest.raises(AttributeError, match="'minidl' has no attribute 'bfloat8'"):
        minidl.bfloat8  # noqa: B018


def test_it_is_floating_point():
    x = minidl.ones(2, dtype="bfloat16", requires_grad=True)
    assert x.is_floating_point() and x.element_size() == 2
    (x * 3.0).sum().backward()
    assert x.grad.dtype == bf16 and x.grad.tolist() == [3.0, 3.0]
    nn.Parameter(minidl.zeros(2, dtype="bfloat16"))


def test_conversions():
    x = minidl.tensor([1.00390625, -2.5, 1e30])  # the first lies between two numbers of bfloat16: it goes to the even one
    assert x.bfloat16().tolist() == [1.0, -2.5, float(bf16.type(1e30))]
    assert x.to(minidl.bfloat16).float().dtype == np.float32
    assert x.bfloat16().half().dtype == np.float16 and x.bfloat16().double().dtype == np.float64
    assert x.bfloat16().astype("bfloat16") is not x
    assert minidl.tensor([1, 2]).bfloat16().long().tolist() == [1, 2]
    x.requires_grad_()
    x.bfloat16().sum().backward()
    assert x.grad.dtype == np.float32


def test_promotion():
    narrow = minidl.ones(2, dtype="bfloat16")
    for other, expected in (("float32", "float32"), ("float16", "float32"), ("float64", "float64"), ("int64", "bfloat16"),
                            ("bool", "bfloat16"), ("bfloat16", "bfloat16")):  # fmt: skip
        assert (narrow + minidl.ones(2, dtype=other)).dtype.name == expected
        assert (minidl.ones(2, dtype=other) + narrow).dtype.name == expected
    assert (narrow * minidl.tensor(2.0)).dtype == bf16, "a number yields to a vector"
    assert (narrow / 3).dtype == (2 ** narrow).dtype == (narrow > 0.5).to(narrow.dtype).dtype == bf16


def test_printing_and_reading_back():
    x = minidl.tensor([[0.1, -2.0]], dtype="bfloat16")
    assert repr(x) == "tensor([[ 0.1001, -2.0000]], dtype=bfloat16)"
    assert x[0, 1].item() == -2.0 and isinstance(x.tolist()[0][0], float)
    assert f"{x[0, 0]:.2f}" == "0.10"


def test_sums_are_float32_inside():
    x = minidl.ones(1000, dtype="bfloat16")
    assert x.sum().item() == 1000.0 and x.mean().item() == 1.0, "8 bits alone would stop at 256"
    assert (x.reshape(1, -1) @ x.reshape(-1, 1)).item() == 1000.0
    assert F.linear(x.reshape(1, -1), x.reshape(1, -1)).item() == 1000.0


def test_random_numbers():
    u, n = minidl.rand(4000, dtype="bfloat16"), minidl.randn(4000, dtype="bfloat16")
    assert u.dtype == n.dtype == bf16 and 0 <= u.float().min().item() and u.float().max().item() < 1
    # The mean of 4000 uniform numbers deviates by 0.0046, of normal ones by 0.016; a step of 1/256 shifts the former by 0.002.
    assert abs(u.float().mean().item() - 0.5) < 0.02 and abs(n.float().mean().item()) < 0.08


# bfloat16 has 8 bits: an operation that is computed in float32 and rounded once is 2^-9 off; formulas of gradients round some
# times more.  Their operands are rounded first, and the reference starts from the same ones.
LIMIT = {"rtol": 0.03, "atol": 0.03}


@pytest.mark.parametrize("op", [op for op in OPS if "float32" in op.dtypes and op.name != "Tensor.to(dtype)"], ids=str)
def test_every_operation(op: Op):
    """Each operation takes bfloat16, keeps it, and is what float32 says, forward and backward."""
    for sample in op.draw():
        narrow = sample.cast(bf16)
        wide = narrow.map(lambda a: a.astype(np.float32) if a.dtype == bf16 else a)
        if not sample.smooth:
            continue
        outputs = run(op, narrow, wrap(narrow.arrays()))
        expected = numbers(run(op, wide, wrap(wide.arrays())))
        for y, e in zip(outputs, expected, strict=True):
            if e.dtype == np.float32 and any(a.dtype == bf16 for a in narrow.arrays()):
                assert y.dtype == bf16, f"{sample}: {y.dtype}"
            scale = max(1.0, np.abs(e[np.isfinite(e)]).max(initial=0)) if e.dtype.kind == "f" else 1.0
            np.testing.assert_allclose(y.numpy().astype("f8") / scale, e / scale, **LIMIT, err_msg=str(sample))
        if op.grad:
            leaves = [i for i, a in enumerate(wide.arrays()) if a.dtype.kind == "f" and i not in sample.constants]
            rng = np.random.default_rng(1)
            got = _gradients(op, narrow, leaves, rng, bf16)
            want = _gradients(op, wide, leaves, np.random.default_rng(1), np.dtype("float32"))
            for g, e in zip(got, want, strict=True):
                assert (g is None) == (e is None)
                if g is not None:
                    assert g.dtype == bf16, sample
                    scale = max(1.0, np.abs(e.numpy()).max(initial=0))
                    found = g.numpy().astype("f8") / scale
                    np.testing.assert_allclose(found, e.numpy() / scale, rtol=0.06, atol=0.06, err_msg=str(sample))


def _gradients(op, sample, leaves, rng, dtype):
    inputs = wrap([a.copy() for a in sample.arrays()], leaves)
    recorded = [o for o in run(op, sample, inputs) if o.requires_grad]
    gys = [minidl.from_numpy(np.asarray(rng.standard_normal(o.shape)).astype(bf16)).to(o.dtype) for o in recorded]
    return minidl.grad(recorded, [inputs[i] for i in leaves], gys, allow_unused=True) if recorded else []


@pytest.mark.parametrize("verb", ["conv2d", "batch_norm", "softmax", "attention", "mean", "layer_norm", "softmax_cross_entropy"])
def test_a_recorded_backward_pass(verb):
    op = next(o for o in OPS if verb in o.verbs)
    for sample in op.draw():
        narrow = sample.cast(bf16)
        if sample.smooth and narrow.arrays()[0].size:
            leaves = [i for i, a in enumerate(narrow.arrays()) if a.dtype == bf16 and i not in sample.constants]
            inputs = wrap([a.copy() for a in narrow.arrays()], leaves)
            outputs = [o for o in run(op, narrow, inputs) if o.requires_grad]
            gys = [minidl.ones_like(o) for o in outputs]
            grads = minidl.grad(outputs, [inputs[i] for i in leaves], gys, create_graph=True, allow_unused=True)
            assert {g.dtype for g in grads if g is not None} <= {bf16}


def test_saving(tmp_path):
    x = minidl.randn(3, 5, dtype="bfloat16").numpy()
    safetensors.save_file({"x": x}, tmp_path / "x.safetensors")
    loaded, _ = safetensors.load_file(tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes().count(b"BF16") == 1
    np.testing.assert_array_equal(loaded["x"], x.astype(np.float32))  # widened, which is exact
    checkpoint.save(tmp_path / "step-1.checkpoint", {"x": x})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "step-1.checkpoint")["x"].astype(bf16), x)


def test_a_net_of_bfloat16(tmp_path):
    """Everything in 16 bits: it trains, and a saved state is loaded to the same bits; small updates are lost to rounding."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(minidl.bfloat16)
    assert {p.dtype for p in net.parameters()} == {bf16}
    assert nn.Linear(2, 2).bfloat16().weight.dtype == bf16 and nn.Linear(2, 2).half().weight.dtype == np.float16
    x, labels = minidl.randn(16, 4, dtype="bfloat16"), minidl.arange(16) % 3
    for step in (optim.SGD(net.parameters(), lr=0.1, momentum=0.9), optim.Adam(net.parameters(), lr=0.01)):
        before = F.cross_entropy(net(x), labels).item()
        for _ in range(20):
            step.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            step.step()
        assert F.cross_entropy(net(x), labels).item() < before
    safetensors.save_file({k: v.numpy() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
    other = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to("bfloat16")
    other.load_state_dict(safetensors.load_file(tmp_path / "net.safetensors")[0])
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    weight = minidl.ones(1, dtype="bfloat16", requires_grad=True)
    weight.grad = minidl.ones(1, dtype="bfloat16")
    optim.SGD([weight], lr=0.001).step()
    assert weight.item() == 1.0, "1 - 0.001 is rounded back to 1: this is what float32 parameters are for"


def test_another_process_can_compute_with_it():
    """Pickled tensors and arrays of others are the first of their dtype there."""
    code = """
import pickle, sys, minidl
x = pickle.loads(bytes.fromhex(sys.argv[1]))
x.requires_grad_()
(x * x + x.square()).sum().backward()
assert x.grad.dtype.name == "bfloat16", x.grad.dtype
"""
    subprocess.run([sys.executable, "-c", code, pickle.dumps(minidl.ones(2, dtype="bfloat16")).hex()], check=True)
    code = """
import minidl, ml_dtypes, numpy as np
a = np.ones(2, ml_dtypes.bfloat16)
assert (minidl.from_numpy(a) * 2.5).dtype == (minidl.tensor(a).mean() * 2.5).dtype == a.dtype
assert (minidl.ones(2) * a).dtype == np.float32
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(TypeError, match="add: expected a Tensor or a number, found ndarray"):
        minidl.ones(2) + np.zeros(2, [("a", "f4")])


def test_infinities():
    x = minidl.tensor([1.0, math.inf, math.nan], dtype="bfloat16")
    assert minidl.isfinite(x).tolist() == [True, False, False] and minidl.isnan(x).tolist() == [False, False, True]
    assert F.max_pool2d(minidl.full((1, 1, 2, 2), -math.inf, dtype="bfloat16"), 2).item() == -math.inf
    image = minidl.tensor([[[[3.0, math.nan], [1.0, 2.0]], [[-math.inf, -math.inf], [-math.inf, -math.inf]]]], dtype="bfloat16")
    for variant in ("numpy", "vector"):
        with use(max_pool2d=variant):
            image.grad = None
            y = F.max_pool2d(image.requires_grad_(), 2)
            y.sum().backward()
        assert str(y.flatten().tolist()) == "[nan, -inf]"
        assert image.grad.flatten().tolist() == [0, 1, 0, 0, 1, 0, 0, 0]  # to the NaN, and to the first of equals
