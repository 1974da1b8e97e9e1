"""In-place changes: values, gradients, and the errors that keep gradients right."""

import numpy as np
import pytest

import minidl
from minidl.autograd import grad, gradcheck, gradgradcheck, increment_version, no_grad
from minidl.errors import DTypeError, InplaceError, ShapeError


def leaf(*shape):
    return minidl.randn(*shape, dtype=minidl.float64, requires_grad=True)


def positive(*shape):
    return minidl.tensor(minidl.rand(*shape, dtype=minidl.float64).data + 0.5, requires_grad=True)


# name -> (in-place call, the same out of place), on (t, other)
METHODS = {
    "add_": (lambda t, o: t.add_(o), lambda t, o: t + o),
    "sub_": (lambda t, o: t.sub_(o), lambda t, o: t - o),
    "mul_": (lambda t, o: t.mul_(o), lambda t, o: t * o),
    "div_": (lambda t, o: t.div_(o), lambda t, o: t / o),
    "pow_": (lambda t, o: t.pow_(o), lambda t, o: t**o),
    "pow_ number": (lambda t, o: t.pow_(3), lambda t, o: t**3),
    "add_ number": (lambda t, o: t.add_(2), lambda t, o: t + 2),
    "neg_": (lambda t, o: t.neg_(), lambda t, o: -t),
    "abs_": (lambda t, o: t.abs_(), lambda t, o: t.abs()),
    "exp_": (lambda t, o: t.exp_(), lambda t, o: t.exp()),
    "log_": (lambda t, o: t.log_(), lambda t, o: t.log()),
    "sqrt_": (lambda t, o: t.sqrt_(), lambda t, o: t.sqrt()),
    "square_": (lambda t, o: t.square_(), lambda t, o: t.square()),
    "reciprocal_": (lambda t, o: t.reciprocal_(), lambda t, o: t.reciprocal()),
    "clamp_": (lambda t, o: t.clamp_(0.7, 1.2), lambda t, o: t.clamp(0.7, 1.2)),
    "clamp_ min": (lambda t, o: t.clamp_(min=0.7), lambda t, o: t.clamp(min=0.7)),
    "masked_fill_": (lambda t, o: t.masked_fill_(t > 1, 5.0), lambda t, o: t.masked_fill(t > 1, 5.0)),
    "floor_": (lambda t, o: t.floor_(), lambda t, o: t.floor()),
    "ceil_": (lambda t, o: t.ceil_(), lambda t, o: t.ceil()),
    "round_": (lambda t, o: t.round_(), lambda t, o: t.round()),
    "relu_": (lambda t, o: t.relu_(), lambda t, o: t.relu()),
    "sigmoid_": (lambda t, o: t.sigmoid_(), lambda t, o: t.sigmoid()),
    "tanh_": (lambda t, o: t.tanh_(), lambda t, o: t.tanh()),
    "copy_": (lambda t, o: t.copy_(o), lambda t, o: o.expand(t.shape) * 1.0),
    "fill_": (lambda t, o: t.fill_(2), lambda t, o: t * 0 + 2),
    "zero_": (lambda t, o: t.zero_(), lambda t, o: t * 0),
}


def augmented(operator):
    scope: dict = {}
    exec(f"def run(t, o):\n    t {operator}= o\n    return t", scope)
    return scope["run"]


for operator in ("+", "-", "*", "/", "**"):
    METHODS[operator + "="] = (
        augmented(operator),
        METHODS[{"+": "add_", "-": "sub_", "*": "mul_", "/": "div_", "**": "pow_"}[operator]][1],
    )


@pytest.mark.parametrize("name", METHODS)
def test_value_and_gradient(name):
    inplace, outside = METHODS[name]
    x, o = positive(2, 3), positive(3)

    def changed(x, o):
        y = x * 1.0
        assert inplace(y, o) is y
        return y

    y = changed(x, o)
    z = outside(x, o)
    assert np.array_equal(y.data, z.data) and y.requires_grad and not y.is_leaf
    weights = minidl.randn(2, 3, dtype=minidl.float64)
    ours = grad(y, [x, o], weights, allow_unused=True)
    theirs = grad(z, [x, o], weights, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        zero = np.zeros(1)
        np.testing.assert_array_equal(zero if a is None else a.data, zero if b is None else b.data)
    if name not in ("floor_", "ceil_", "round_", "copy_", "fill_", "zero_"):
        assert gradgradcheck(changed, [x, o])


@pytest.mark.parametrize("name", METHODS)
def test_without_recording_the_memory_stays(name):
    t = positive(2, 3)
    t = t.detach().clone()
    o = positive(3).detach()
    expected = METHODS[name][1](t, o)
    array = t.data
    assert METHODS[name][0](t, o) is t
    assert t.data is array and t.grad_fn is None
    np.testing.assert_array_equal(t.data, expected.data)


@pytest.mark.parametrize(
    ("operator", "name"),
    [("//", "floor_divide"), ("%", "remainder"), ("&", "bitwise_and"), ("|", "bitwise_or"), ("^", "bitwise_xor")],
)
def test_integer_operators_change_the_tensor_itself(operator, name):
    t = minidl.tensor([7, 12, -5])
    alias = t.reshape(3)
    before = t.numpy().copy()
    assert augmented(operator)(t, minidl.tensor([2, 5, 3])) is t
    python = {"//": np.floor_divide, "%": np.remainder, "&": np.bitwise_and, "|": np.bitwise_or, "^": np.bitwise_xor}
    assert alias.tolist() == python[operator](before, [2, 5, 3]).tolist()


def test_random_in_place():
    minidl.manual_seed(3)
    t = minidl.zeros(1000).uniform_(-2, 3)
    assert -2 <= t.data.min() and t.data.max() < 3 and abs(t.data.mean() - 0.5) < 0.2
    assert abs(minidl.zeros(1000).normal_(1.0, 0.1).data.mean() - 1) < 0.02


# ---------------------------------------------------------------------------------------------------------- what is refused
def test_leaves_are_refused():
    x = leaf(3)
    with pytest.raises(InplaceError, match=r"add_: a leaf that needs a gradient.*out-of-place.*no_grad"):
        x.add_(1)
    with pytest.raises(InplaceError, match="index: a leaf"):
        x[0] = 1.0
    with pytest.raises(InplaceError, match="mul_: a view of a leaf"):
        x[1:].mul_(2.0)
    with pytest.raises(InplaceError, match="a view of a leaf"):
        x.reshape(3, 1).T[0, 0] = 2.0
    before = x.data.copy()
    assert np.array_equal(before, x.data)
    with no_grad():
        x.add_(1)
        x[0] = 5.0
    assert x.is_leaf and x.requires_grad and x.data[0] == 5 and x.data[1] == before[1] + 1


def test_a_refused_write_writes_nothing():
    x = leaf(3)
    before = x.data.copy()
    y = x * 1.0
    for bad in (
        lambda: x.add_(1),
        lambda: y.add_(minidl.ones(2, 3, dtype=minidl.float64)),
        lambda: y.__setitem__(0, leaf(2)),
    ):
        with pytest.raises((InplaceError, ShapeError)):
            bad()
    assert np.array_equal(x.data, before) and np.array_equal(y.data, before)


def test_expanded_tensors_are_refused():
    t = minidl.ones(3, 1)
    with pytest.raises(InplaceError, match=r"add_: .*\(3, 4\) is an expanded or read-only view.*clone"):
        t.expand(3, 4).add_(1)
    with pytest.raises(InplaceError, match="index: .*expanded"):
        t.expand(3, 4)[0] = 1.0
    with pytest.raises(InplaceError, match="expanded"):
        (leaf(3, 1) * 2).expand(3, 4).mul_(2)
    assert t.tolist() == [[1], [1], [1]]


def test_read_only_arrays_are_refused():
    a = np.arange(3.0)
    a.flags.writeable = False
    t = minidl.from_numpy(a)
    with pytest.raises(InplaceError, match="read-only"):
        t.add_(1)
    assert (t + 1).tolist() == [1, 2, 3]


def test_results_that_do_not_fit():
    t = minidl.ones(3)
    with pytest.raises(ShapeError, match=r"add_: the result has shape \(2, 3\).*shape \(3,\)"):
        t.add_(minidl.ones(2, 3))
    i = minidl.ones(3, dtype=minidl.int64)
    with pytest.raises(DTypeError, match="mul_: the result is float32.*int64"):
        i.mul_(1.5)
    with pytest.raises(DTypeError, match="div_"):
        i /= 2
    with pytest.raises(DTypeError, match="add_: the result is int64.*bool"):
        minidl.tensor([True]).add_(1)
    with pytest.raises(DTypeError, match="int64 cannot take a value that needs a gradient"):
        i.copy_(leaf(3))
    assert i.tolist() == [1, 1, 1]
    t.add_(minidl.ones(3, dtype=minidl.float64))  # float64 into float32 is a rounding, as in PyTorch
    assert t.dtype == minidl.float32 and t.tolist() == [2, 2, 2]
    minidl.ones(3, dtype=minidl.int32).add_(minidl.ones(3, dtype=minidl.int64))


def test_gradients_keep_each_operands_dtype():
    x = minidl.ones(3, requires_grad=True)
    w = leaf(3)
    y = x * 1
    y.mul_(w)
    y.add_(w)
    assert y.dtype == minidl.float32
    y.sum().backward()
    assert x.grad.dtype == minidl.float32 and w.grad.dtype == minidl.float64
    z = minidl.zeros(3)
    z.copy_(w)
    z[0] = w[1]
    w.grad = None
    z.sum().backward()
    assert w.grad.dtype == minidl.float64 and w.grad.tolist() == [0, 2, 1]


# -------------------------------------------------------------------------------------------------------- version stamps
def test_a_saved_input_overwritten():
    x = leaf(3)
    y = x * 2
    z = y * y
    y.add_(1.0)
    with pytest.raises(
        InplaceError, match=r"Mul: its backward needs an array of shape \(3,\) that was changed in place.*clone\(\)"
    ):
        z.sum().backward()


def test_a_saved_output_overwritten():
    y = (leaf(3) * 2).sigmoid()
    z = y.sum()
    y.mul_(2.0)
    with pytest.raises(InplaceError, match="^Sigmoid: "):
        z.backward()


def test_what_is_not_saved_may_change():
    x = leaf(3)
    y = x * 2.0
    z = y.exp()  # keeps its output
    y.add_(1.0)
    z.sum().backward()
    np.testing.assert_allclose(x.grad.data, 2 * np.exp(2 * x.data), rtol=1e-14)


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.reshape(3, 1).add_(1.0),
        lambda y: y[1:].zero_(),
        lambda y: y.detach().mul_(3.0),
        lambda y: y.detach()[0].fill_(0.0),
        lambda y: y.__setitem__(0, 1.0),
        lambda y: y.expand(2, 3)[0].detach(),
        lambda y: (y.data.__setitem__(0, 1.0), increment_version(y)),
        lambda y: (y.detach().numpy().__setitem__(0, 1.0), increment_version([y.reshape(3, 1)])),
    ],
    ids=["view", "slice", "detached", "view of detached", "index", "no write", "data", "numpy"],
)
def test_writes_by_any_path_are_noticed(write, request):
    x = leaf(3)
    y = x * 2
    z = (y * y).sum()
    with no_grad():
        write(y)
    if "no write" in request.node.name:
        z.backward()
        return
    with pytest.raises(InplaceError, match="Mul"):
        z.backward()


def test_a_write_through_the_base_reaches_saved_views():
    x = leaf(4)
    y = x * 2
    v = y[1:3]
    z = (v * v).sum()
    e = (y.expand(2, 4) * 3.0 * y.T).sum()
    with no_grad():
        y.add_(1)
    for root in (z, e):
        with pytest.raises(InplaceError):
            root.backward()


def test_a_write_beside_the_saved_part_counts_too():
    """Versions belong to the storage, not to its elements; PyTorch is as careful."""
    y = leaf(4) * 2
    v = y[:2]
    z = (v * v).sum()
    with no_grad():
        y[2:].zero_()
    with pytest.raises(InplaceError):
        z.backward()


def test_an_optimiser_step_between_graphs_is_fine():
    w = leaf(3)
    for _ in range(3):
        (w * w).sum().backward()
        with no_grad():
            w -= 0.1 * w.grad
        w.grad = None
    loss = (w * w).sum()
    with no_grad():
        w.sub_(0.1)
    with pytest.raises(InplaceError):  # but not between the two halves of one
        loss.backward()


def test_multiplying_by_itself():
    y = leaf(3) * 1
    y.mul_(y)
    with pytest.raises(InplaceError):
        y.sum().backward()
    x = leaf(3)
    y = x * 1
    y.add_(y)  # nothing is kept
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_indices_that_change_after_they_were_used():
    x = leaf(4)
    index, mask, rows = minidl.tensor([0, 1]), minidl.tensor([True, False, False, True]), [0, 2]
    y = x[index].sum() + x[mask].sum() + x[rows].sum() + x[index.numpy()].sum()
    index.add_(1)
    mask.fill_(False)
    rows[:] = [3, 3]
    y.backward()
    assert x.grad.tolist() == [4, 2, 1, 1]


def test_a_gather_index_that_changes_is_an_error():
    x, index = leaf(4), minidl.tensor([0, 1])
    y = minidl.gather(x, 0, index).sum()
    index.add_(1)
    with pytest.raises(InplaceError, match="Gather"):
        y.backward()


# ------------------------------------------------------------------------------------------------------------ assignment
INDICES = {
    "integer": 1,
    "negative": -1,
    "slice": slice(0, 2),
    "step": (slice(None, None, 2), slice(None)),
    "backwards": slice(None, None, -1),
    "ellipsis": (..., 0),
    "all": ...,
    "new axis": (None, 1),
    "list": [0, 2],
    "array": np.array([2, 0]),
    "pair of lists": ([0, 2], [1, 3]),
    "mixed": (slice(None), [0, 3]),
    "mask": np.array([True, False, True]),
    "full mask": np.arange(12).reshape(3, 4) % 3 == 0,
    "row mask": (slice(None), np.array([True, False, False, True])),
    "number": (1, 2),
    "empty": slice(0, 0),
}


@pytest.mark.parametrize("name", INDICES)
def test_assignment_and_its_gradients(name):
    index = INDICES[name]
    place = np.zeros((3, 4))[index].shape
    x, v, number = leaf(3, 4), leaf(*place), leaf()

    def assign(x, v):
        y = x * 1.0
        y[index] = v * v
        return y

    y = assign(x, v)
    expected = x.data.copy()
    expected[index] = v.data**2
    np.testing.assert_array_equal(y.data, expected)
    assert gradcheck(assign, [x, v] if v.numel() else [x, number]) and gradcheck(assign, [x, number])
    z = minidl.zeros(3, 4, dtype=minidl.float64)
    z[index] = v  # into a tensor that needed no gradient before
    assert z.requires_grad
    if v.numel():
        assert gradcheck(lambda v: assign(minidl.zeros(3, 4, dtype=minidl.float64), v), [v])


def test_assigned_values_broadcast():
    x, v = leaf(3, 4), leaf(1, 1, 4)

    def assign(x, v):
        y = x * 1.0
        y[0] = v
        y[1:] = v[0]
        return y * y

    assert gradcheck(assign, [x, v]) and gradgradcheck(assign, [x, v])
    y = assign(x, v)
    assert y.data[0].tolist() == y.data[2].tolist() == (v.data.reshape(4) ** 2).tolist()


def test_assignment_of_everything_else():
    t = minidl.zeros(2, 3)
    t[0] = 1
    t[1, 1:] = [2.0, 3.0]
    t[:, 0] = np.array([7, 8])
    t[minidl.tensor(0), minidl.tensor([True, False, True])] = minidl.tensor(5, dtype=minidl.int64)
    assert t.tolist() == [[5, 1, 5], [8, 2, 3]]
    i = minidl.zeros(2, dtype=minidl.int64)
    i[0] = 1.9
    assert i.tolist() == [1, 0]


def test_overlapping_assignment():
    t = minidl.arange(6)
    t[1:] = t[:-1]
    assert t.tolist() == [0, 0, 1, 2, 3, 4]
    m = minidl.arange(4).reshape(2, 2)
    m.copy_(m.T)
    assert m.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("index", "value", "error", "text"),
    [
        (3, 1.0, IndexError, r"index 3 is out of bounds.*shape \(3, 4\)"),
        ((0, 0, 0), 1.0, IndexError, r"too many indices.*\(3, 4\)"),
        ([5], 1.0, IndexError, r"out of bounds.*\(3, 4\)"),
        (0, minidl.ones(3), ShapeError, r"shape \(3,\) does not fit the place \(4,\)"),
        (slice(0, 2), minidl.ones(3, 4), ShapeError, r"\(3, 4\) does not fit the place \(2, 4\)"),
        (minidl.tensor([1.0]), 1.0, DTypeError, "integers or bool, found float32"),
        (1.5, 1.0, TypeError, "1.5 is no index"),
        ("a", 1.0, TypeError, "'a' is no index"),
        (np.array([True, False]), 1.0, IndexError, "boolean"),
    ],
)
@pytest.mark.parametrize("recorded", [False, True])
def test_bad_assignment(index, value, error, text, recorded):
    t = minidl.zeros(3, 4, requires_grad=True) * 1 if recorded else minidl.zeros(3, 4)
    with pytest.raises(error, match=text):
        t[index] = value
    assert not t.data.any()
    if error is not ShapeError:
        with pytest.raises(error, match=text):
            t[index]


def test_a_value_passed_by_name_gets_its_gradient():
    w = minidl.ones(2, 1, requires_grad=True)
    t = minidl.zeros(2, 3)
    t.scatter_(1, index=minidl.tensor([[1], [2]]), src=w).add_(other=w, alpha=2)
    t.sum().backward()
    assert t.tolist() == [[2, 3, 2], [2, 2, 3]] and w.grad.tolist() == [[7], [7]]


def test_in_place_forms_as_torch(torch):
    """Each writes the values of its plain form, and of PyTorch's in-place form, into the same memory."""
    x, y = np.array([0.3, 0.7, 0.45]), np.array([0.2, 0.9, 0.5])
    unary = (
        "neg abs square sqrt rsqrt reciprocal exp expm1 log log1p log2 log10 erf sin cos tan asin acos atan sinh cosh sign floor "
        "ceil round trunc relu sigmoid tanh"
    )
    binary = "add sub mul div pow remainder fmod floor_divide"
    calls = dict.fromkeys(unary.split(), ()) | dict.fromkeys(binary.split(), (y,))
    calls |= {"lerp": (y, 0.25), "addcmul": (y, y), "addcdiv": (y, y), "clamp": (0.4, 0.5), "masked_fill": (y > 0.4, -1.0)}
    for name, args in calls.items():
        results = []
        for lib in (minidl, torch):
            t = lib.tensor(x)
            given = [lib.tensor(a) if isinstance(a, np.ndarray) else a for a in args]
            assert getattr(t, name + "_")(*given) is t
            results.append(t.numpy())
        np.testing.assert_allclose(*results, rtol=1e-14, err_msg=name)   # a few units in the last place
