"""Sequential, ModuleList, ModuleDict, ParameterList: they behave as lists and dicts, and as torch's."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
from minidl import nn
from minidl.errors import ConfigError


def layers(count):
    return [nn.Linear(i + 1, i + 1) for i in range(count)]


def test_sequential_runs_in_order():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU())
    assert net(minidl.ones(2, 2, 3)).shape == (2, 3)
    assert list(nn.Sequential({"a": nn.Linear(1, 1), "b": nn.ReLU()}).state_dict()) == ["a.weight", "a.bias"]


def test_sequential_slices_share_modules_and_names():
    net = nn.Sequential(*layers(4))
    part = net[1:3]
    assert isinstance(part, nn.Sequential) and part[0] is net[1] and len(part) == 2
    assert list(part.state_dict()) == ["1.weight", "1.bias", "2.weight", "2.bias"], "as torch, names are kept"
    assert net[-1] is net[3]
    joined = net[:1] + net[3:]
    assert [m.in_features for m in joined] == [1, 4]


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
@given(st.lists(st.tuples(st.sampled_from(["append", "insert", "pop", "set", "del", "extend"]), st.integers(-5, 5)), max_size=8))
def test_lists_do_as_lists_do(kind, commands):
    ours, model = kind(), []
    for command, index in commands:
        item = nn.Identity()
        if command == "append":
            ours.append(item), model.append(item)
        elif command == "extend":
            ours.extend([item, nn.ReLU()][:1]), model.extend([item])
        elif command == "insert":
            ours.insert(index, item), model.insert(index, item)
        elif -len(model) <= index < len(model):
            if command == "pop":
                assert ours.pop(index) is model.pop(index)
            elif command == "set":
                ours[index] = model[index] = item
            else:
                del ours[index], model[index]
        else:
            with pytest.raises(IndexError):
                ours[index]
        assert len(ours) == len(model) and all(a is b for a, b in zip(ours, model, strict=True))
        assert [name for name, _ in ours.named_children()] == [str(i) for i in range(len(model))]


def test_module_list():
    blocks = nn.ModuleList(layers(2))
    blocks += [nn.ReLU()]
    assert len(blocks) == 3 and blocks[0] in blocks and nn.ReLU() not in blocks
    assert isinstance(blocks[1:], nn.ModuleList) and len(blocks[1:]) == 2
    del blocks[:2]
    assert repr(blocks) == "ModuleList(\n  (0): ReLU()\n)"
    with pytest.raises(NotImplementedError):
        blocks(1)
    assert len(blocks + [nn.ReLU()]) == 2


def test_a_subclass_of_sequential_may_have_parameters_of_its_own():
    class Scaled(nn.Sequential):
        def __init__(self, *modules):
            super().__init__(*modules)
            self.scale = nn.Parameter(minidl.ones(1))

        def forward(self, x):
            return super().forward(x) * self.scale

    net = Scaled(nn.ReLU(), nn.ReLU())
    assert len(net) == 2 and net(minidl.ones(1)).tolist() == [1.0]


def test_module_dict():
    heads = nn.ModuleDict({"a": nn.Linear(1, 1)})
    heads["b"] = nn.ReLU()
    heads.update([("c", nn.Tanh())])
    assert list(heads) == list(heads.keys()) == ["a", "b", "c"] and len(heads) == 3 and "b" in heads
    assert [type(m).__name__ for m in heads.values()] == ["Linear", "ReLU", "Tanh"]
    assert dict(heads.items())["a"] is heads["a"]
    assert isinstance(heads.pop("c"), nn.Tanh) and "c" not in heads
    with pytest.raises(KeyError, match="it has: a, b"):
        heads["z"]
    with pytest.raises(ConfigError, match="exists already"):
        heads["keys"] = nn.ReLU()
    heads.clear()
    assert not len(heads) and repr(heads) == "ModuleDict()"


def test_parameter_list():
    params = nn.ParameterList([minidl.ones(2), nn.Parameter(minidl.zeros(3))])
    params.append(minidl.ones(1))
    params[0] = minidl.zeros(4)
    assert [p.shape for p in params] == [(4,), (3,), (1,)] and all(isinstance(p, nn.Parameter) for p in params)
    assert list(params.state_dict()) == ["0", "1", "2"] and len(params[1:]) == 2
    with pytest.raises(IndexError, match="out of range for 3 parameters"):
        params[3]
    assert "(0): Parameter of float32 of shape (4,)" in repr(params)


@pytest.mark.parity
def test_repr_as_torch(torch):
    def build(nn):
        block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        return nn.ModuleDict({
            "list": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU(), nn.Sequential(block), nn.Sequential(block)]),
            "empty": nn.ModuleList(),
            "seq": nn.Sequential(),
        })

    assert repr(build(nn)) == repr(build(torch.nn))


def normalised(*after):
    """A batch norm between a linear layer and ``after``, with a random scale and shift."""
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), *after)
    with minidl.no_grad():
        for p in net[1].parameters():
            p.copy_(minidl.randn(5))
    return net


def verbs_below(y):
    """The verbs of the graph below ``y``."""
    found, waiting = set(), [y.edge]
    while waiting:
        node = waiting.pop()
        found.add(getattr(node, "verb", ""))
        waiting += [edge for edge in getattr(node, "needs", None) or () if edge is not None]
    return found


def test_batch_norm_and_relu_are_one_operation():
    x = minidl.randn(20, 6)
    fused, apart = normalised(nn.ReLU()), normalised(nn.Identity(), nn.ReLU())
    y, expected = fused(x), apart(x)
    assert "batch_norm_relu" in verbs_below(y) and "relu" not in verbs_below(y) and "relu" in verbs_below(expected)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), atol=1e-6)   # a fused multiply-add rounds once less
    (y**2).sum().backward()
    (expected**2).sum().backward()
    for a, b in zip(fused.parameters(), apart.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-4)
    np.testing.assert_array_equal(fused[1].running_var.numpy(), apart[1].running_var.numpy())
    assert fused[1].num_batches_tracked.item() == 1
    np.testing.assert_allclose(fused.eval()(x).detach().numpy(), apart.eval()(x).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("which", [1, 2])
def test_a_hook_sees_what_its_layer_does(which):
    """Whoever watches the batch norm or the ReLU gets the same as if they were apart; once the hook is gone, they are one."""
    net, x, seen = normalised(nn.ReLU()), minidl.randn(20, 6), []
    apart = normalised(nn.Identity(), nn.ReLU())

    def look(module, args, y):
        seen.append((args[0].detach().numpy(), y.detach().numpy()))

    handle = net[which].register_forward_hook(look)
    apart[which + (which == 2)].register_forward_hook(look)
    net(x), apart(x)
    assert len(seen) == 2
    for a, b in zip(*seen, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    handle.remove()
    assert "batch_norm_relu" in verbs_below(net(x)) and len(seen) == 2


def test_a_batch_norm_at_the_end_or_before_another_layer():
    x = minidl.randn(20, 6)
    for after in ((), (nn.Sigmoid(),), (nn.BatchNorm1d(5), nn.ReLU()), (nn.ReLU(), nn.ReLU())):
        net = normalised(*after)
        y = net(x)
        layers = list(normalised(*after))
        expected = x
        for layer in layers:
            expected = layer(expected)
        np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), atol=1e-6)
