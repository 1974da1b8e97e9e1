"""Every operation of the table under autocast: its rule decides what it is computed in, and gradients come back in float32."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minidl
from minidl.amp import RULES
from minidl.autograd import function as core
from tests.opdb import OPS, Op, run, wrap
from tests.ops.test_table import gradients, numbers
from tests.sources import ROOT

pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

operations = pytest.mark.parametrize("op", OPS, ids=str)
ENTRIES = {op.verbs[0]: op for op in OPS if len(op.verbs) == 1}
# bfloat16 has 8 bits: rounding an input changes it by 2^-9 of itself at most, and so does rounding the result.  The samples
# are of order one, with sums of a few dozen terms and slopes up to ten.
LIMIT = {"rtol": 0.06, "atol": 0.06}


def test_every_operation_has_a_rule():
    assert set(core.functions) - set(RULES) == set(), "say in minidl/autograd/autocast.py what autocast does with them"
    assert set(RULES) - set(core.functions) == set(), "rules for operations that there are not"


def test_a_function_without_a_rule_is_left_alone():
    class Twice(core.Function):
        def forward(self, F, x):
            return F.add(x, x)

        def backward(self, F, gy):
            return (F.add(gy, gy),)

    class Narrow(Twice):
        autocast = "lower"

    x = minidl.ones(3, requires_grad=True)
    with minidl.autocast("bfloat16"):
        assert Twice.apply(x).dtype == minidl.float32
        assert Narrow.apply(x).dtype == minidl.bfloat16
    with pytest.raises(TypeError, match="Wrong: autocast='fast' is no rule; the rules are 'lower', 'float32'"):
        type("Wrong", (Twice,), {"autocast": "fast"})


def spied(verb, monkeypatch):
    """The dtypes of the floating-point arrays that the Function of ``verb`` gets, one set for each call."""
    calls: list[set[str]] = []
    cls = core.functions[verb]
    if cls.forward is not core.Function.forward:
        forward = cls.forward

        def spy(self, F, *arrays, **options):
            calls.append({a.dtype.name for a in arrays if a is not None and a.dtype.kind in "fV"})
            return forward(self, F, *arrays, **options)

        monkeypatch.setattr(cls, "forward", spy)
    else:  # Unary and Binary call the backend's verb themselves
        from minidl.backend.select import cpu

        original = getattr(cpu, verb)

        def spy_verb(*arrays):
            calls.append({a.dtype.name for a in arrays if getattr(a, "dtype", None) is not None and a.dtype.kind in "fV"})
            return original(*arrays)

        monkeypatch.setattr(cpu, verb, spy_verb)
    return calls


@pytest.mark.parametrize("given", ["float32", "bfloat16"])
@pytest.mark.parametrize("verb", sorted(v for v in RULES if v in ENTRIES and v != "to_device"))
def test_what_an_operation_is_computed_in(verb, given, monkeypatch):
    calls = spied(verb, monkeypatch)
    expected = {"lower": "bfloat16", "float32": "float32"}.get(RULES[verb], given)
    minidl.bfloat16  # noqa: B018 - its arrays can be made from here on
    for sample in ENTRIES[verb].draw():
        sample = sample.cast("float32")
        tensors = wrap(sample.arrays(), sample.differentiable())
        inputs = [t.to(given) if t.is_floating_point() else t for t in tensors]
        with minidl.autocast("bfloat16"):
            run(ENTRIES[verb], sample, inputs)
    seen = set().union(*calls)
    assert seen, "the operation was not reached"
    if verb != "astype":
        assert seen == {expected}


@operations
def test_values_and_gradients(op: Op):
    """Under autocast an operation is what it is in float32, but for the rounding; gradients have their inputs' dtype."""
    if "float32" not in op.dtypes:
        pytest.skip(f"{op} does not compute in float32")
    for sample in op.draw():
        sample = sample.cast("float32")
        if not sample.smooth:
            continue  # a step at a kink is no rounding error
        expected, expected_grads = gradients(op, sample)
        with minidl.autocast("bfloat16"):
            outputs, grads = gradients(op, sample)
        for y, e in zip(numbers(outputs), numbers(expected), strict=True):
            assert y.shape == e.shape
            if e.dtype.kind != "f":
                continue
            scale = max(1.0, np.abs(e[np.isfinite(e)]).max(initial=0))
            np.testing.assert_allclose(y.astype("f8") / scale, e.astype("f8") / scale, **LIMIT, err_msg=str(sample))
        for g, e in zip(grads, expected_grads, strict=True):
            assert (g is None) == (e is None)
            if g is not None:
                assert g.dtype == e.dtype == np.float32
                scale = max(1.0, np.abs(e.numpy()).max(initial=0))
                np.testing.assert_allclose(g.numpy() / scale, e.numpy() / scale, **LIMIT, err_msg=str(sample))


def test_the_documented_table_is_true():
    page = ROOT / "docs" / "mixed-precision.md"
    if not page.is_file():
        pytest.skip("docs/ is not beside the tests")
    rows = re.findall(r"^\| (lower|float32|widest) \| ([^|]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {rule: re.findall(r"`(\w+)`", verbs) for rule, verbs in rows} == {
        rule: sorted(v for v in RULES if RULES[v] == rule) for rule in ("lower", "float32", "widest")
    }
