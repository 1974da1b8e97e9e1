"""What every operation of the table must do: values, dtypes, layouts, sizes, devices, and nothing besides."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl.autograd import function as core
from minidl.kernels import use
from tests.kernels.cases import LAYOUTS, arrange
from tests.opdb import OPS, Op, Sample, flat, run, wrap

# NaN, logarithms of 0 and overflow are among the samples on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

operations = pytest.mark.parametrize("op", OPS, ids=str)
differentiable = pytest.mark.parametrize("op", [op for op in OPS if op.grad], ids=str)


def numbers(outputs):
    return [o.detach().numpy() for o in outputs]


def assert_same(got, expected, what):
    """The same shapes, dtypes and bits (NaN equals NaN, and -0 is not 0)."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, what
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), f"{what}: {a} is not {b}"


def assert_close(got, expected, what, **tolerance):
    assert len(got) == len(expected), what
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), **tolerance, err_msg=str(what))


def gradients(op, sample, create_graph=False, device="cpu"):
    """The outputs, and the gradient of every input that has one (None where it is unused), for fixed output gradients."""
    inputs = wrap([a.copy() for a in sample.arrays()], sample.differentiable(), device)
    outputs = run(op, sample, inputs)
    recorded = [o for o in outputs if o.requires_grad]
    if not recorded:
        return outputs, []
    rng = np.random.default_rng(1)
    gys = [minidl.from_numpy(np.asarray(rng.standard_normal(o.shape)).astype(o.dtype)).to(o.device) for o in recorded]
    xs = [inputs[i] for i in sample.differentiable()]
    return outputs, list(minidl.grad(recorded, xs, gys, create_graph=create_graph, allow_unused=True))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@operations
def test_value(op: Op, dtype):
    if dtype not in op.dtypes:
        pytest.skip(f"{op} does not compute in {dtype}")
    for sample in op.draw():
        sample = sample.cast(dtype)
        exact = sample.cast("float64")
        with np.errstate(all="ignore"):
            expected = [np.asarray(y) for y in flat(op.reference(*exact.args, **exact.kwargs))]
        outputs = numbers(run(op, sample, wrap(sample.arrays())))
        floating = any(a.dtype.kind == "f" for a in sample.arrays())
        for y, e in zip(outputs, expected, strict=True):
            kind = "f" if e.dtype.kind == "f" else e.dtype.kind
            assert y.dtype.kind == kind, f"{sample}: {y.dtype}, expected a kind of {e.dtype}"
            if kind == "f" and floating and op.name != "Tensor.to(dtype)":
                assert y.dtype == dtype, f"{sample}: the dtype is not kept"
        assert_close(outputs, expected, sample, **op.close(dtype))


@operations
def test_samples_cover_sizes(op: Op):
    """Each operation has samples of size 0 and of no axes, or says why not."""
    samples = op.draw()
    assert any(a.size == 0 for s in samples for a in s.arrays()) or "empty" in op.without
    assert any(a.ndim == 0 for s in samples for a in s.arrays()) or "scalar" in op.without


@pytest.mark.parametrize("layout", [x for x in LAYOUTS if x != "contiguous"])
@operations
def test_layout(op: Op, layout):
    """Strides make no difference beyond the order in which sums are taken, forward and backward."""
    for sample in op.draw():
        other = sample.map(lambda a: arrange(a, layout))
        assert_close(
            numbers(run(op, other, wrap(other.arrays()))),
            numbers(run(op, sample, wrap(sample.arrays()))),
            sample,
            **op.close("float64"),
        )
        if op.grad and sample.smooth:
            assert_close(
                *([g.numpy() for g in gradients(op, s)[1] if g is not None] for s in (other, sample)),
                sample,
                **op.close("float64"),
            )


@operations
def test_inputs_are_not_changed(op: Op):
    for sample in op.draw():
        arrays = [a.copy() for a in sample.arrays()]
        inputs = wrap(arrays, sample.differentiable())
        outputs = [o for o in run(op, sample, inputs) if o.requires_grad]
        if outputs:
            gys = [minidl.ones_like(o) for o in outputs]
            minidl.grad(outputs, [inputs[i] for i in sample.differentiable()], gys, allow_unused=True)
            assert all((g.numpy() == 1).all() for g in gys), "an output gradient was changed"
        assert_same(arrays, sample.arrays(), sample)


@operations
def test_twice_gives_the_same_bits(op: Op):
    for sample in op.draw():
        results = []
        for _ in range(2):
            outputs, grads = gradients(op, sample)
            results.append(numbers(outputs) + [g.numpy() for g in grads if g is not None])
        assert_same(*results, sample)


@operations
def test_no_graph_unless_asked_for(op: Op):
    for sample in op.draw():
        with minidl.no_grad():
            outputs = run(op, sample, wrap(sample.arrays(), sample.differentiable()))
            # An operation that has nothing to do may return its input itself, which is a leaf.
            assert all(o.is_leaf for o in outputs)
        assert not any(o.requires_grad for o in run(op, sample, wrap(sample.arrays())))


@operations
def test_graph_when_asked_for(op: Op):
    """An output of a differentiable operation needs a gradient; one that holds integers never does."""
    found = False
    for sample in op.draw():
        if sample.differentiable():
            outputs = run(op, sample, wrap(sample.arrays(), sample.differentiable()))
            assert all(o.is_floating_point() for o in outputs if o.requires_grad)
            found = found or any(o.requires_grad for o in outputs)
    assert found == (op.grad or op.name == "Tensor.to(dtype)")


@differentiable
def test_gradients_keep_shape_and_dtype(op: Op):
    for dtype in op.dtypes:
        for sample in op.draw():
            sample = sample.cast(dtype)
            arrays = sample.arrays()
            for i, g in zip(sample.differentiable(), gradients(op, sample)[1], strict=False):
                assert g is None or (g.shape, g.dtype) == (arrays[i].shape, arrays[i].dtype), sample


@differentiable
def test_two_levels_agree(op: Op):
    """The backward pass of arrays and the recorded one run the same formulas, or a kernel for one of them."""
    for sample in op.draw():
        if sample.smooth:
            arrays, recorded = (gradients(op, sample, create_graph=c)[1] for c in (False, True))
            assert [g is None for g in arrays] == [g is None for g in recorded], sample
            compare = assert_same if not op.composites else assert_close
            tolerance = {} if not op.composites else op.close("float64")  # the kernel sums in another order
            compare(
                *([g.detach().numpy() for g in level if g is not None] for level in (arrays, recorded)),
                sample,
                **tolerance,
            )


@operations
def test_kernel_variants_agree(op: Op):
    for sample in op.draw():
        outputs, grads = gradients(op, sample)
        with use("reference"):
            expected, expected_grads = gradients(op, sample)
        assert_close(numbers(outputs), numbers(expected), sample, **op.close("float64"))
        assert_close(
            *([g.numpy() for g in level if g is not None] for level in (grads, expected_grads)),
            sample,
            **op.close("float64"),
        )


# ------------------------------------------------------------------------------------------------------- completeness
def entries_of(attribute):
    """{verb: the first operation that names it}"""
    return {verb: op for op in reversed(OPS) for verb in getattr(op, attribute)}


def test_names_are_unique():
    names = [op.name for op in OPS]
    assert len(set(names)) == len(names)


def test_every_function_has_an_entry():
    missing = set(core.functions) - set(entries_of("verbs"))
    assert not missing, f"operations without an entry in tests/opdb: {sorted(missing)}"


def test_every_verb_without_gradient_has_an_entry():
    plain = set(vars(core.tensors)) - set(core.functions) - set(core.composites) - {"name"}
    assert not plain - set(entries_of("verbs"))


@pytest.mark.parametrize("verb", sorted(core.functions))
def test_the_entry_reaches_its_function(verb, monkeypatch):
    """What an entry says about verbs is true: running its samples records that Function."""
    op = entries_of("verbs").get(verb)
    assert op is not None, f"no entry covers {verb}"
    reached = set()
    forward = core.functions[verb].forward
    if forward is core.Function.forward:  # Unary and Binary call the backend's verb themselves
        reached = {
            node.verb
            for sample in op.draw()
            if sample.differentiable()
            for node in graph(run(op, sample, wrap(sample.arrays(), sample.differentiable())))
        }
    else:

        def spy(self, *args, **options):
            reached.add(type(self).verb)
            return forward(self, *args, **options)

        monkeypatch.setattr(core.functions[verb], "forward", spy)
        for sample in op.draw():
            gradients(op, sample)
            if op.grad and sample.smooth:
                gradients(op, sample, create_graph=True)
    assert verb in reached


def graph(outputs):
    """Every node behind the outputs."""
    seen, todo = {}, [o.edge for o in outputs if o.requires_grad]
    while todo:
        node = todo.pop()
        if id(node) not in seen and hasattr(node, "verb"):
            seen[id(node)] = node
            todo.extend(e for e in node.needs if e is not None)
    return seen.values()


@pytest.mark.parametrize("verb", sorted(core.composites))
def test_every_composite_is_reached_twice_differentiated(verb, monkeypatch):
    op = entries_of("composites").get(verb)
    assert op is not None and op.twice, f"no twice-differentiated entry says that it reaches {verb}"
    calls = []
    formula = getattr(core.tensors, verb)
    monkeypatch.setattr(core.tensors, verb, lambda *a, **k: calls.append(verb) or formula(*a, **k))
    for sample in op.draw():
        if sample.smooth:
            gradients(op, sample, create_graph=True)
    assert calls


# Public names that take no tensor to compute with: tests/ops/test_creation.py.
CREATION = {
    "arange",
    "as_tensor",
    "bernoulli",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "get_rng_state",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "set_rng_state",
    "tensor",
    "zeros",
    "zeros_like",
}
# Whole tensors compared, mostly to Python's bool: tests/ops/test_compare.py.
COMPARISONS = {"allclose", "equal", "isclose"}
# Random, so that a value cannot be compared: tests/nn_functional/test_dropout.py.
RANDOM = {"dropout", "dropout2d"}


def test_every_public_function_has_an_entry():
    named = {n.partition("(")[0] for op in OPS for n in (op.name, *op.aliases)}
    public = {f"ops.{n}" for n in minidl.ops.__all__ if n not in CREATION | COMPARISONS}
    public |= {f"F.{n}" for n in minidl.nn.functional.__all__ if n not in RANDOM}
    assert not public - named, sorted(public - named)
    assert not {n for n in named if n.startswith(("ops.", "F."))} - public, "an entry of something that is not public"


def test_a_sample_is_filled_in_order():
    sample = Sample([np.ones(1), np.zeros(2)], 3, axis=np.arange(3))
    assert sample.fill("abc") == ((["a", "b"], 3), {"axis": "c"})
