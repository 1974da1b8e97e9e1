"""explain() and to_dot(): the backward pass in words and as a drawing."""

import textwrap

import pytest

import minidl
from minidl import nn
from minidl.autograd import Function, explain, no_grad, to_dot
from minidl.errors import GraphError


def text(s):
    return textwrap.dedent(s).strip()


@pytest.fixture
def loss():
    x = minidl.tensor([[1.0, 2.0]], requires_grad=True)
    w = minidl.tensor([[1.0], [3.0]], requires_grad=True)
    h = x @ w
    return (h * h).sum()


EXPLAINED = """
Backward from a tensor of shape (), 3 operations, newest first:
   1. Sum: a gradient of shape () arrives; it sends (1, 1) to step 2 (Mul).
   2. Mul: a gradient of shape (1, 1) arrives; it sends (1, 1) to step 3 (MatMul), (1, 1) to step 3 (MatMul). \
It used what it had kept: (1, 1), (1, 1).
   3. MatMul: a gradient of shape (1, 1) arrives; it sends (1, 2) to leaf 4 (1, 2), (2, 1) to leaf 5 (2, 1). \
It used what it had kept: (1, 2), (2, 1).
   4. leaf of shape (1, 2): the sum of what arrived is added to its .grad.
   5. leaf of shape (2, 1): the sum of what arrived is added to its .grad.
"""


def test_explain(loss, capsys):
    assert explain(loss) == EXPLAINED.strip()
    assert loss.explain() is None
    assert capsys.readouterr().out == EXPLAINED.lstrip()


def test_to_dot(loss):
    assert to_dot(loss) == text(r"""
        digraph minidl {
          rankdir=BT; node [fontname=Helvetica, fontsize=10];
          n0 [shape=box, label="Sum"];
          n1 -> n0;
          n1 [shape=box, label="Mul\nkeeps (1, 1)\nkeeps (1, 1)"];
          n2 -> n1;
          n2 -> n1;
          n2 [shape=box, label="MatMul\nkeeps (1, 2)\nkeeps (2, 1)"];
          n3 -> n2;
          n4 -> n2;
          n3 [shape=ellipse, label="leaf\n(1, 2)"];
          n4 [shape=ellipse, label="leaf\n(2, 1)"];
          out [shape=plaintext, label="()"]; n0 -> out;
        }""")


def test_looking_changes_nothing(loss):
    x = minidl.ones(2, requires_grad=True)
    y = x * 2.0
    y.retain_grad()
    calls = []
    y.register_hook(lambda g: calls.append(1))
    z = y.sum()
    explain(z)
    to_dot(z)
    assert x.grad is None and y.grad is None and not calls
    z.backward()
    assert x.grad.tolist() == [2, 2] and y.grad.tolist() == [1, 1] and calls == [1]


def test_a_real_net_with_several_outputs():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )
    logits = net(minidl.randn(2, 1, 6, 6))
    values, _ = logits.max(1)
    loss = nn.functional.cross_entropy(logits, minidl.tensor([0, 2])) + values.mean()
    words, drawing = explain(loss), to_dot(loss)
    for name in ("Conv2d", "BatchNorm", "Relu", "MaxPool2d", "Dropout", "Linear", "SoftmaxCrossEntropy"):
        assert name in words and name in drawing
    assert words.count("leaf of shape") == 6 == drawing.count("ellipse")
    assert drawing.count("{") == drawing.count("}") == 1
    assert words == explain(loss)  # the same each time


def test_several_outputs_are_told_apart():
    class Two(Function):
        def forward(self, F, x):
            return x * 2.0, x[:1] * 3.0

        def backward(self, F, gys):
            return (F.add(F.mul(gys[0], 2.0), F.mul(F.sum(gys[1]), 0.0)),)

    a, b = Two.apply(minidl.ones(2, requires_grad=True))
    words = explain(a.sum() * b.sum())
    assert "Two[0]: a gradient of shape (2,) arrives; it sends (2,) for output 0 to step" in words
    assert "Two: a gradient of shape (2,) for output 0 and (1,) for output 1 arrives" in words


def test_nothing_to_explain():
    with no_grad():
        y = minidl.ones(2, requires_grad=True) * 2
    assert explain(y) == "A tensor of shape (2,) that needs no gradient: nothing to explain."
    with pytest.raises(GraphError, match="to_dot: .*requires_grad_"):
        to_dot(y)
    x = minidl.ones(2, requires_grad=True)
    assert "0 operations" in explain(x) and "leaf" in to_dot(x)


def test_a_freed_graph(loss):
    loss.backward()
    for look in (explain, to_dot):
        with pytest.raises(GraphError, match="Sum: this graph was freed by a backward pass.*retain_graph=True"):
            look(loss)
