"""The engine against a tiny independent autodiff, in random programs that hypothesis writes and shrinks.

The oracle below shares no code and no idea with the engine: it carries derivatives *forward*, as the full Jacobian of every
variable with respect to all leaf elements, so it needs no graph, no order and no accumulation.
"""

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import minidl
from minidl.autograd import grad, no_grad

SHAPE = (2, 2)
LEAVES = 3
SIZE = LEAVES * 4  # leaf elements in all


class Dual:
    """A value of shape (2, 2) and its derivatives with respect to every leaf element, shape (2, 2, SIZE)."""

    def __init__(self, value, jacobian):
        self.value, self.jacobian = value, jacobian


def of_both(f, df):
    """An elementwise operation of two Duals from its value and its partial derivatives."""

    def run(a, b):
        da, db = df(a.value, b.value)
        return Dual(f(a.value, b.value), da[..., None] * a.jacobian + db[..., None] * b.jacobian)

    return run


ONE = np.ones(SHAPE)
BINARY = {
    "add": (lambda a, b: a + b, of_both(lambda a, b: a + b, lambda a, b: (ONE, ONE))),
    "sub": (lambda a, b: a - b, of_both(lambda a, b: a - b, lambda a, b: (ONE, -ONE))),
    "mul": (lambda a, b: a * b, of_both(lambda a, b: a * b, lambda a, b: (b, a))),
    "div": (
        lambda a, b: a / (b * b + 1.0),
        of_both(lambda a, b: a / (b * b + 1), lambda a, b: (1 / (b * b + 1), -2 * a * b / (b * b + 1) ** 2)),
    ),
}


def elementwise(f, df):
    return lambda a: Dual(f(a.value), df(a.value)[..., None] * a.jacobian)


def linear(f):
    """A linear operation acts on the value and on each derivative alike."""
    return lambda a: Dual(f(a.value), np.stack([f(a.jacobian[..., k]) for k in range(SIZE)], -1))


UNARY = {
    "tanh": (lambda a: a.tanh(), elementwise(np.tanh, lambda v: 1 - np.tanh(v) ** 2)),
    "sin": (lambda a: a.sin(), elementwise(np.sin, np.cos)),
    "half": (lambda a: a * 0.5, elementwise(lambda v: v / 2, lambda v: ONE / 2)),
    "transpose": (lambda a: a.T, linear(np.transpose)),
    "rows": (lambda a: a.sum(0).expand(2, 2), linear(lambda v: np.broadcast_to(v.sum(0), SHAPE))),
    "swap": (lambda a: a[[1, 0]], linear(lambda v: v[[1, 0]])),
    "column": (lambda a: a[:, :1].expand(2, 2), linear(lambda v: np.broadcast_to(v[:, :1], SHAPE))),
    "join": (lambda a: minidl.cat([a[1:], a[:1]]), linear(lambda v: np.concatenate([v[1:], v[:1]]))),
    "detach": (lambda a: a.detach(), lambda a: Dual(a.value, np.zeros((2, 2, SIZE)))),
}


class Engine(RuleBasedStateMachine):
    variables = Bundle("variables")

    @initialize(target=variables, seed=st.integers(0, 1000))
    def start(self, seed):
        values = np.random.default_rng(seed).standard_normal((LEAVES, *SHAPE))
        self.ours = [minidl.tensor(v, requires_grad=True) for v in values]
        self.expected = [np.zeros(SHAPE) for _ in values]  # what each leaf's .grad should be
        jacobians = np.eye(SIZE).reshape(LEAVES, *SHAPE, SIZE)
        self.first = [(t, Dual(v, j)) for t, v, j in zip(self.ours, values, jacobians, strict=True)]
        return self.first[0]

    @rule(target=variables, k=st.integers(0, LEAVES - 1))
    def leaf(self, k):
        return self.first[k]

    @rule(target=variables, a=variables, name=st.sampled_from(sorted(UNARY)))
    def unary(self, a, name):
        ours, theirs = UNARY[name]
        return ours(a[0]), theirs(a[1])

    @rule(target=variables, a=variables, b=variables, name=st.sampled_from(sorted(BINARY)))
    def binary(self, a, b, name):
        ours, theirs = BINARY[name]
        return ours(a[0], b[0]), theirs(a[1], b[1])

    @rule(target=variables, a=variables)
    def unrecorded(self, a):
        with no_grad():
            return a[0] * 2.0, Dual(a[1].value * 2, np.zeros((2, 2, SIZE)))

    @rule(target=variables, a=variables, b=variables, name=st.sampled_from(sorted(BINARY)))
    def in_place(self, a, b, name):
        """On a copy, so that no other variable of the program changes: the writes through views have their own tests."""
        t = a[0] * 1.0
        if name == "div":
            t /= b[0] * b[0] + 1.0
        else:
            getattr(t, name + "_")(b[0])
        return t, BINARY[name][1](a[1], b[1])

    @rule(target=variables, a=variables, b=variables, row=st.integers(0, 1))
    def assign_a_row(self, a, b, row):
        t = a[0] * 1.0
        t[row] = b[0][1 - row]
        value, jacobian = a[1].value.copy(), a[1].jacobian.copy()
        value[row], jacobian[row] = b[1].value[1 - row], b[1].jacobian[1 - row]
        return t, Dual(value, jacobian)

    @rule(a=consumes(variables))
    def forget(self, a):
        """Drop a variable: the graph below the others must not care."""

    @rule(a=variables, seed=st.integers(0, 100))
    def backward(self, a, seed):
        tensor, dual = a
        weights = np.random.default_rng(seed).standard_normal(SHAPE)
        if not tensor.requires_grad:
            assert not dual.jacobian.any()
            return
        tensor.backward(minidl.tensor(weights), retain_graph=True)
        pulled = np.einsum("ij,ijk->k", weights, dual.jacobian).reshape(LEAVES, *SHAPE)
        for k in range(LEAVES):
            self.expected[k] = self.expected[k] + pulled[k]

    @rule(a=variables, k=st.integers(0, LEAVES - 1))
    def grad_of_one_leaf(self, a, k):
        tensor, dual = a
        if tensor.requires_grad:
            (g,) = grad(tensor.sum(), self.ours[k], retain_graph=True, allow_unused=True)
            expected = dual.jacobian.sum((0, 1)).reshape(LEAVES, *SHAPE)[k]
            close(np.zeros(SHAPE) if g is None else g.data, expected)

    @rule(a=variables, create=st.booleans())
    def grad_is_the_same_recorded(self, a, create):
        tensor, dual = a
        if tensor.requires_grad:
            grads = grad(tensor.sum(), self.ours, retain_graph=True, create_graph=create, allow_unused=True)
            expected = dual.jacobian.sum((0, 1)).reshape(LEAVES, *SHAPE)
            for g, e in zip(grads, expected, strict=True):
                close(np.zeros(SHAPE) if g is None else g.data, e)

    @rule(k=st.integers(0, LEAVES - 1))
    def clear(self, k):
        self.ours[k].grad = None
        self.expected[k] = np.zeros(SHAPE)

    @rule(a=variables)
    def value(self, a):
        close(a[0].data, a[1].value)

    @invariant()
    def gradients_agree(self):
        for leaf, expected in zip(self.ours, self.expected, strict=True):
            close(np.zeros(SHAPE) if leaf.grad is None else leaf.grad.data, expected)


def close(a, b):
    # Products of a few dozen numbers of any size: relative to the largest of them.
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * max(1.0, np.abs(b).max()))


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
