"""Every operation of the table that PyTorch has, too: values, gradients, dtypes, shapes, and refusal of the same bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minidl
from minidl import Tensor
from tests.opdb import OPS, Op, Sample, flat, run, wrap

# NaN, logarithms of 0 and overflow are among the samples on purpose, and calls that PyTorch warns of.
IGNORED = "ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
pytestmark = [pytest.mark.parity, *map(pytest.mark.filterwarnings, IGNORED)]

SHARED = [op for op in OPS if op.torch is not None]
shared = pytest.mark.parametrize("op", SHARED, ids=str)

# Two implementations that each are within half of this of the exact result (tests/opdb/base.py); float16 rounds in PyTorch
# between the steps of a fused operation, where minidl computes in float32.
TOLERANCE = {
    "float64": {"rtol": 1e-10, "atol": 1e-11},
    "float32": {"rtol": 5e-5, "atol": 1e-5},
    "float16": {"rtol": 2e-2, "atol": 1e-2},
}


def name_of(dtype) -> str:
    """The same name for both libraries' dtypes."""
    return str(dtype).removeprefix("torch.")


def to_torch(torch, arrays, needs=()):
    # Copied into new memory in row order: PyTorch takes no negative strides.
    tensors = [torch.from_numpy(np.array(a, order="C")) for a in arrays]
    for i in needs:
        tensors[i].requires_grad_()
    return tensors


def torch_run(torch, op: Op, sample: Sample, tensors):
    args, kwargs = sample.fill(tensors)
    return flat(op.in_torch(torch)(*args, **kwargs))


def not_in_torch(error: Exception) -> bool:
    """PyTorch has the operation, but not for this dtype on the CPU."""
    return "not implemented for" in str(error) or "not support" in str(error)


def assert_equal(ours, theirs, what, dtype):
    assert len(ours) == len(theirs), what
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:  # no gradient, or a gradient of zeros: the same to an optimiser
            assert all(t is None or not t.any() for t in (a, b)), what
            continue
        assert a.shape == tuple(b.shape), f"{what}: shape {a.shape}, PyTorch {tuple(b.shape)}"
        assert name_of(a.dtype) == name_of(b.dtype), f"{what}: {a.dtype}, PyTorch {b.dtype}"
        np.testing.assert_allclose(
            a.detach().numpy().astype(np.float64),
            b.detach().numpy().astype(np.float64),
            **TOLERANCE[dtype],
            err_msg=str(what),
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
@shared
def test_values_and_gradients(op: Op, dtype, torch):
    if dtype == "float16" and "half" in op.without:
        pytest.skip(op.without["half"])
    for sample in op.draw():
        sample = sample.cast(dtype)
        needs = sample.differentiable() if op.grad else []
        if (
            unequal_padding(sample)
            or "nan" in op.without
            and any(np.isnan(a).any() for a in sample.arrays() if a.dtype.kind == "f")
        ):
            continue
        theirs_in = to_torch(torch, sample.arrays(), needs)
        try:
            theirs = torch_run(torch, op, sample, theirs_in)
        except RuntimeError as e:
            if not_in_torch(e):
                continue
            raise
        ours_in = wrap(sample.arrays(), needs)
        ours = run(op, sample, ours_in)
        assert_equal(ours, theirs, sample, dtype)
        recorded = [k for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a.requires_grad and b.requires_grad]
        assert [a.requires_grad for a in ours] == [b.requires_grad for b in theirs], sample
        if not recorded:
            continue
        rng = np.random.default_rng(0)
        gys = [np.asarray(rng.standard_normal(ours[k].shape)).astype(ours[k].dtype) for k in recorded]
        got = minidl.grad([ours[k] for k in recorded], [ours_in[i] for i in needs], wrap(gys), allow_unused=True)
        try:
            expected = torch.autograd.grad(
                [theirs[k] for k in recorded], [theirs_in[i] for i in needs], to_torch(torch, gys), allow_unused=True
            )
        except RuntimeError as e:
            if not_in_torch(e):
                continue
            raise
        for i, g, e in zip(needs, got, expected, strict=True):
            if g is not None and e is not None:  # where an input is NaN, no gradient means anything
                nowhere = np.asarray(np.isnan(sample.arrays()[i]))
                g.data = np.where(nowhere, 0, g.data)
                e[torch.from_numpy(nowhere)] = 0
        assert_equal(got, expected, f"gradients of {sample}", dtype)


def unequal_padding(sample: Sample) -> bool:
    padding = sample.kwargs.get("padding")
    return isinstance(padding, tuple) and isinstance(padding[0], tuple)


# ---------------------------------------------------------------------------------------------------------- promotion
KINDS = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")


def both(op: Op, sample: Sample, torch):
    """(outputs or None) of both libraries; None stands for an error."""
    try:
        ours = run(op, sample, wrap(sample.arrays()))
    except (minidl.errors.MinidlError, TypeError, ValueError):
        ours = None
    try:
        theirs = torch_run(torch, op, sample, to_torch(torch, sample.arrays()))
    except (RuntimeError, TypeError, ValueError, IndexError) as e:
        if "not implemented for" in str(e):  # of its CPU kernels; minidl may be wider
            return None, None
        theirs = None
    return ours, theirs


@pytest.mark.parametrize("op", [op for op in SHARED if op.elementwise], ids=str)
def test_promotion(op: Op, torch):
    """Every combination of dtypes, with axes and without: the same dtype and values, or an error in both."""
    first = next(iter(op.draw()))
    wrong = []
    for dtypes in itertools.product(KINDS, repeat=len(first.args)):
        for shapes in itertools.product(((2, 3), ()), repeat=len(first.args)):
            rng = np.random.default_rng(0)
            arrays = (np.asarray(rng.integers(1, 4, s)).astype(t) for s, t in zip(shapes, dtypes, strict=True))
            sample = Sample(*arrays, **first.kwargs)
            ours, theirs = both(op, sample, torch)
            if differ(ours, theirs) and not ("bool" in dtypes and (op.name, "bool") in DIFFERS):
                wrong.append(f"{dtypes} {shapes}: {told(ours)}, PyTorch {told(theirs)}")
    assert not wrong, f"{op}: {len(wrong)} differ\n" + "\n".join(wrong[:20])


# (operation, what is among its dtypes): why minidl differs from PyTorch.
DIFFERS = {
    ("ops.square", "bool"): "NumPy has no square of bool; it is computed in float32, in PyTorch in int64",
    ("ops.sign", "bool"): "NumPy has no sign of bool; refused",
    ("ops.relu", "bool"): "a bool is not negative: as it is",
    ("ops.sub", "bool"): "PyTorch refuses to subtract with a bool, minidl only a bool from a bool",
    ("ops.sub(alpha)", "bool"): "as ops.sub",
    ("ops.pow", "bool"): "NumPy computes two bools in int8",
    ("ops.fmod", "bool"): "NumPy computes two bools in int8",
    ("ops.remainder", "bool"): "NumPy computes two bools in int8",
    ("ops.floor_divide", "bool"): "NumPy computes two bools in int8",
}


def differ(ours, theirs) -> bool:
    if ours is None or theirs is None:
        return (ours is None) != (theirs is None)
    for a, b in zip(ours, theirs, strict=True):
        if name_of(a.dtype) != name_of(b.dtype) or a.shape != tuple(b.shape):
            return True
        x, y = (np.asarray(t.numpy(), np.float64) for t in (a, b))
        if not np.allclose(x, y, rtol=1e-2 if a.dtype == np.float16 else 1e-5, equal_nan=True):
            return True
    return False


def told(outputs) -> str:
    return (
        "an error"
        if outputs is None
        else ", ".join(f"{name_of(o.dtype)} {np.asarray(o.numpy()).reshape(-1)[:3]}" for o in outputs)
    )


@pytest.mark.parametrize("op", [op for op in SHARED if not op.elementwise and "dtypes" not in op.without], ids=str)
def test_other_dtypes(op: Op, torch):
    """Integers, bool, and two floating-point types at once: the same dtypes, or an error in both."""
    wrong = []
    for sample in op.draw():
        if unequal_padding(sample) or any(a.size == 0 for a in sample.arrays()):
            continue  # PyTorch does not look at the dtype of nothing
        floating = [i for i, a in enumerate(sample.arrays()) if a.dtype.kind == "f"]
        cases = {"int64": dict.fromkeys(floating, "int64"), "bool": dict.fromkeys(floating, "bool")}
        if len(floating) > 1:
            cases["float32 and float64"] = {i: "float32" if i == floating[0] else "float64" for i in floating}
            cases["int64 and float32"] = {i: "int64" if i == floating[0] else "float32" for i in floating}
        for case, dtypes in cases.items():
            if case in op.without:
                continue
            arrays = [
                np.asarray(np.nan_to_num(a).clip(-9, 9)).astype(dtypes[i]) if i in dtypes else a
                for i, a in enumerate(sample.arrays())
            ]
            rest = iter(arrays)
            other = sample.map(lambda _, rest=rest: next(rest))
            ours, theirs = both(op, other, torch)
            if (
                (ours is None) != (theirs is None)
                or ours is not None
                and [(name_of(t.dtype), t.shape) for t in ours] != [(name_of(t.dtype), tuple(t.shape)) for t in theirs]
            ):
                wrong.append(f"{case} {other}: {told(ours)}, PyTorch {told(theirs)}")
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("op", "bad"), [pytest.param(op, bad, id=f"{op}-{i}") for op in SHARED for i, bad in enumerate(op.bad)]
)
def test_bad_input_is_refused_by_both(op: Op, bad, torch):
    """tests/ops/test_bad_input.py has seen minidl refuse it; here PyTorch must, or the table says why it does not."""
    tensors = to_torch(torch, bad.sample.arrays())
    if bad.torch:
        torch_run(torch, op, bad.sample, tensors)
    else:
        with pytest.raises((RuntimeError, IndexError, TypeError, ValueError, AssertionError, ArithmeticError)):
            torch_run(torch, op, bad.sample, tensors)


def test_the_table_names_what_is_not_compared():
    """Without a counterpart are only the verbs that users do not call."""
    assert not [op.name for op in OPS if op.torch is None and op.name.startswith(("ops.", "F.", "Tensor."))]


def test_scalars_do_not_promote(torch):
    """Python numbers take the tensor's dtype, unless that would lose their kind."""
    for dtype, number in itertools.product(KINDS, (True, 2, 2.5)):
        ours, theirs = Tensor(np.ones(2, dtype), minidl.zeros(1).F), torch.ones(2, dtype=getattr(torch, dtype))
        for operation in (lambda x, n: x + n, lambda x, n: n * x, lambda x, n: x / n, lambda x, n: x > n):
            assert name_of(operation(ours, number).dtype) == name_of(operation(theirs, number).dtype), (dtype, number)
