"""Module: registration, walking, converting, state dicts, hooks, copying, printing."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.errors import CheckpointError, ConfigError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 3)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(3, 2, bias=False)
        self.scale = nn.Parameter(minidl.ones(2))
        self.register_buffer("count", minidl.tensor(0))
        self.register_buffer("cache", minidl.zeros(2), persistent=False)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x))) * self.scale


def names(pairs):
    return [name for name, _ in pairs]


def test_names_and_order():
    net = Net()
    assert names(net.named_parameters()) == ["scale", "fc1.weight", "fc1.bias", "fc2.weight"]
    assert names(net.named_buffers()) == ["count", "cache"]
    assert names(net.named_modules()) == ["", "fc1", "act", "fc2"]
    assert names(net.named_children()) == ["fc1", "act", "fc2"]
    assert list(net.state_dict()) == ["scale", "count", "fc1.weight", "fc1.bias", "fc2.weight"]
    assert names(net.named_parameters(prefix="net", recurse=False)) == ["net.scale"]


def test_a_name_that_changes_its_kind():
    net = Net()
    net.fc1 = None
    assert net.fc1 is None and "fc1.weight" not in net.state_dict()
    net.fc1 = nn.Parameter(minidl.ones(1))
    assert "fc1" in names(net.named_parameters()) and "fc1" not in names(net.named_children())
    del net.fc1
    assert not hasattr(net, "fc1") and "fc1" not in names(net.named_parameters())


def test_a_buffer_keeps_its_registration_when_a_tensor_is_assigned():
    net = Net()
    net.count = minidl.tensor(5)
    assert int(net.state_dict()["count"]) == 5
    net.cache = minidl.ones(2)
    assert "cache" not in net.state_dict(), "still not persistent"


@pytest.mark.parametrize("name, value", [("fc1", 3), ("scale", 1.0), ("count", 2), ("fc1", "x")])
def test_assigning_the_wrong_kind(name, value):
    with pytest.raises(TypeError, match=f"Net.{name}: cannot assign"):
        setattr(Net(), name, value)


def test_assigning_a_tensor_to_a_parameter_says_how_to_do_it():
    with pytest.raises(TypeError, match=r"no_grad\(\): module.scale.copy_"):
        Net().scale = minidl.zeros(2)


@pytest.mark.parametrize("value", ["Parameter", "Module"])
def test_forgotten_super_init(value):
    class Forgot(nn.Module):
        def __init__(self):
            self.part = nn.ReLU() if value == "Module" else nn.Parameter(minidl.ones(1))

    with pytest.raises(ConfigError, match=r"make `super\(\).__init__\(\)` the first line of Forgot.__init__"):
        Forgot()


def test_forgotten_super_init_without_parts():
    class Forgot(nn.Module):
        def __init__(self):
            self.size = 3

        def forward(self, x):
            return x

    with pytest.raises(AttributeError, match="super"):
        Forgot()(1)
    with pytest.raises(AttributeError, match="super"):
        list(Forgot().parameters())


def test_missing_attribute_and_missing_forward():
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'fc3'"):
        Net().fc3
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


@pytest.mark.parametrize("bad", ["", "a.b", "training", "forward", 3])
def test_register_refuses_names(bad):
    with pytest.raises(ConfigError):
        nn.Module().register_module(bad, nn.ReLU())


def test_register_refuses_values():
    module = nn.Module()
    for call in (module.register_parameter, module.register_buffer, module.register_module):
        with pytest.raises(TypeError, match="'x' must be"):
            call("x", 3)


def test_shared_modules_and_parameters_are_found_once():
    net = nn.Module()
    net.a = net.b = nn.Linear(2, 2)
    net.tied = net.a.weight
    assert names(net.named_parameters()) == ["tied", "a.bias"]
    assert names(net.named_modules()) == ["", "a"]
    assert len(list(net.named_modules(remove_duplicate=False))) == 3
    assert list(net.state_dict()) == ["tied", "a.weight", "a.bias", "b.weight", "b.bias"]


def test_get_by_path():
    net = nn.Sequential(Net())
    assert net.get_submodule("0.fc1") is net[0].fc1 and net.get_submodule("") is net
    assert net.get_parameter("0.fc1.weight") is net[0].fc1.weight
    assert net.get_buffer("0.count") is net[0].count
    with pytest.raises(AttributeError, match="no child 'fc9'; its children: fc1, act, fc2"):
        net.get_submodule("0.fc9")
    with pytest.raises(AttributeError, match="no parameter 'count'"):
        net.get_parameter("0.count")


def test_train_eval_apply_and_freeze():
    net = Net()
    assert net.training and net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    with pytest.raises(TypeError):
        net.train("yes")
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "Linear", "Net"], "children first"
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    assert all(p.requires_grad for p in net.parameters())


def test_zero_grad():
    net = Net()
    net(minidl.ones(2, 4)).sum().backward()
    weight = net.fc1.weight
    net.zero_grad(set_to_none=False)
    assert float(weight.grad.abs().sum()) == 0
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_double_keeps_identity_and_integers():
    net = Net()
    net(minidl.ones(2, 4)).sum().backward()
    before = list(net.parameters())
    assert net.double() is net
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert {str(p.dtype) for p in net.parameters()} == {"float64"} and str(net.count.dtype) == "int64"
    assert str(net.fc1.weight.grad.dtype) == "float64" and str(net.cache.dtype) == "float64"
    net(minidl.ones(2, 4, dtype=minidl.float64)).sum().backward()
    assert str(net.float().fc1.weight.dtype) == "float32"


def test_to_reads_its_arguments():
    net = Net()
    for dtype, args, kwargs in (
        ("float64", (minidl.float64,), {}), ("float32", ("cpu", minidl.float32), {}), ("float64", (), {"dtype": "float64"}),
        ("float32", (minidl.zeros(1),), {}), ("float32", ("cpu",), {}), ("float32", (), {"device": "cpu"}),
    ):
        assert str(net.to(*args, **kwargs).scale.dtype) == dtype
    assert net.to("cpu", non_blocking=True) is net
    with pytest.raises(TypeError, match="unknown option 'dtpye'"):
        net.to(dtpye="float64")


def test_an_optimizer_made_before_a_conversion_still_trains():
    net = Net()
    optimizer = minidl.optim.SGD(net.parameters(), lr=0.1)
    net.double()
    net(minidl.ones(2, 4, dtype=minidl.float64)).sum().backward()
    before = net.scale.detach().clone()
    optimizer.step()
    assert not np.array_equal(before.numpy(), net.scale.detach().numpy())


# ---- state dicts

def test_state_dict_shares_memory_and_is_detached():
    net = Net()
    state = net.state_dict()
    assert not state["scale"].requires_grad
    with minidl.no_grad():
        net.scale.fill_(7)
    assert state["scale"].tolist() == [7, 7]
    assert net.state_dict(keep_vars=True)["scale"] is net.scale
    assert list(net.state_dict(prefix="net."))[0] == "net.scale"


def test_load_state_dict_round_trip_and_casts():
    a, b = Net(), Net()
    state = {name: t.numpy().astype(np.float64) for name, t in a.state_dict().items()}
    assert repr(b.load_state_dict(state)) == "<All keys matched successfully>"
    for name, t in b.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), a.state_dict()[name].numpy())
    assert str(b.scale.dtype) == "float32" and b.scale.requires_grad and str(b.count.dtype) == "int64"


def test_load_state_dict_names_everything_that_is_wrong_and_writes_nothing():
    net = Net()
    state = {name: t.detach().clone() for name, t in net.state_dict().items()}
    state["scale"] = minidl.zeros(3)
    state["fc1.bias"] = minidl.full((3,), 5.0)
    del state["fc2.weight"]
    state["fc9.weight"] = minidl.zeros(1)
    before = net.fc1.bias.tolist()
    with pytest.raises(CheckpointError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    assert "missing: fc2.weight" in text and "unexpected: fc9.weight" in text
    assert "wrong shape: scale is (3,) in the state dict, (2,) in the model" in text
    assert net.fc1.bias.tolist() == before
    with pytest.raises(CheckpointError, match="wrong shape"):
        net.load_state_dict(state, strict=False)
    del state["scale"]
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["scale", "fc2.weight"] and result.unexpected_keys == ["fc9.weight"]
    assert net.fc1.bias.tolist() == [5, 5, 5]


@pytest.mark.parametrize("value", ["hello", [1.0, 2.0], None, {}])
def test_load_state_dict_with_what_is_no_tensor(value):
    net = Net()
    state = {**net.state_dict(), "scale": value}
    with pytest.raises(CheckpointError, match=f"not a tensor: scale is a {type(value).__name__}"):
        net.load_state_dict(state)


def test_load_state_dict_recognises_a_prefix():
    net = Net()
    state = {f"module.{name}": t for name, t in net.state_dict().items()}
    with pytest.raises(CheckpointError, match="every name starts with 'module.'"):
        net.load_state_dict(state)
    with pytest.raises(TypeError, match="expected a mapping"):
        net.load_state_dict([1])


def test_loading_makes_a_graph_that_kept_the_old_weight_fail():
    layer = nn.Linear(2, 2)
    x = minidl.ones(1, 2, requires_grad=True)
    y = layer(x).sum()
    layer.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
    with pytest.raises(minidl.errors.InplaceError):
        y.backward()


def test_batch_norm_files_without_the_counter_load():
    bn = nn.BatchNorm2d(3)
    state = bn.state_dict()
    del state["num_batches_tracked"]
    bn.load_state_dict(state)
    del state["running_mean"]
    with pytest.raises(CheckpointError, match="missing: 0.running_mean"):
        nn.Sequential(bn).load_state_dict({f"0.{k}": v for k, v in state.items()})


# ---- copying

def test_deepcopy_and_pickle():
    net = nn.Sequential(Net())
    net[0].tied = net[0].fc1.weight
    x = minidl.randn(2, 4)
    expected = net(x).detach().numpy()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other(x).detach().numpy(), expected)
        assert isinstance(other[0].scale, nn.Parameter) and other[0].scale.requires_grad
        assert other[0].scale is not net[0].scale
        assert other[0].tied is other[0].fc1.weight, "what was shared is shared"
        with minidl.no_grad():
            other[0].scale.zero_()
        np.testing.assert_array_equal(net(x).detach().numpy(), expected)


# ---- hooks

def test_forward_hooks_see_and_replace():
    layer = nn.Linear(2, 2)
    calls = []
    x = minidl.ones(1, 2)
    plain = layer(x).detach().numpy()
    pre = layer.register_forward_pre_hook(lambda m, args: calls.append(("pre", len(args))) or (args[0] * 2,))
    post = layer.register_forward_hook(lambda m, args, out: calls.append(("post", float(args[0].sum()))) or out * 0)
    first = layer.register_forward_hook(lambda m, args, out: calls.append("first"), prepend=True)
    assert float(layer(x).abs().sum()) == 0
    assert calls == [("pre", 1), "first", ("post", 4.0)]
    for handle in (pre, post, first):
        handle.remove()
        handle.remove()
    np.testing.assert_array_equal(layer(x).detach().numpy(), plain)
    assert len(calls) == 3


def test_hooks_with_kwargs_and_as_a_block():
    class Add(nn.Module):
        def forward(self, a, *, b):
            return a + b

    module = Add()
    with module.register_forward_pre_hook(lambda m, args, kwargs: (args, {"b": 10}), with_kwargs=True):
        assert module(1, b=2) == 11
    with module.register_forward_hook(lambda m, args, kwargs, out: out * kwargs["b"], with_kwargs=True):
        assert module(1, b=2) == 6
    assert module(1, b=2) == 3


@pytest.mark.parity
def test_full_backward_hooks_as_torch(torch):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    weights = {"weight": np.ones((2, 4), np.float32) * 0.5, "bias": np.zeros(2, np.float32)}

    def run(lib, layer, x, record):
        layer.register_full_backward_hook(lambda m, gin, gout: record.append((gin, gout)))
        y = layer(x)
        (y * y).sum().backward()
        return x.grad

    ours, theirs = [], []
    layer, torch_layer = nn.Linear(4, 2), torch.nn.Linear(4, 2)
    layer.load_state_dict(weights)
    torch_layer.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    g = run(minidl, layer, minidl.tensor(x, requires_grad=True), ours)
    t = run(torch, torch_layer, torch.tensor(x, requires_grad=True), theirs)
    np.testing.assert_allclose(g.numpy(), t.numpy(), rtol=1e-5)  # float32, sums of 4
    assert len(ours) == len(theirs) == 1
    for a, b in zip(ours[0][0] + ours[0][1], theirs[0][0] + theirs[0][1], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


def test_backward_hook_replaces_the_input_gradient_and_runs_once_for_two_inputs():
    class Mul(nn.Module):
        def forward(self, a, b, c):
            return a * b, a + c

    module, seen = Mul(), []

    def hook(m, grad_input, grad_output):
        seen.append((grad_input, grad_output))
        return grad_input[0] * 10, grad_input[1], None

    module.register_full_backward_hook(hook)
    a, b = (minidl.tensor([v], requires_grad=True) for v in (2.0, 3.0))
    y, _ = module(a, b, minidl.tensor([1.0]))
    y.backward()
    assert len(seen) == 1
    assert (a.grad.item(), b.grad.item()) == (30.0, 2.0)
    assert seen[0][0][2] is None and seen[0][1][1] is None, "no gradient, no tensor"


def test_backward_hook_of_a_first_layer():
    layer, seen = nn.Linear(2, 1), []
    layer.register_full_backward_hook(lambda m, gin, gout: seen.append((gin, gout[0].tolist())))
    layer(minidl.ones(1, 2)).sum().backward()
    assert seen == [((None,), [[1.0]])]
    with minidl.no_grad():
        layer(minidl.ones(1, 2))
    assert len(seen) == 1


# ---- printing

def test_repr_of_a_net():
    assert repr(Net()) == (
        "Net(\n"
        "  (fc1): Linear(in_features=4, out_features=3, bias=True)\n"
        "  (act): ReLU()\n"
        "  (fc2): Linear(in_features=3, out_features=2, bias=False)\n"
        ")"
    )
    assert repr(nn.Sequential(nn.Sequential(nn.ReLU()))) == "Sequential(\n  (0): Sequential(\n    (0): ReLU()\n  )\n)"


def test_parameter_and_buffer():
    assert repr(nn.Parameter(minidl.ones(1))).startswith("Parameter containing:\ntensor([1.")
    assert not nn.Buffer(minidl.ones(1)).requires_grad
    with pytest.raises(TypeError, match="expected a Tensor, got list"):
        nn.Parameter([1.0])
    with pytest.raises(minidl.errors.DTypeError, match="requires_grad=False"):
        nn.Parameter(minidl.tensor([1]))
    assert not nn.Parameter(minidl.tensor([1]), requires_grad=False).requires_grad

    module = nn.Module()
    module.table = nn.Buffer(minidl.ones(2))
    assert list(module.state_dict()) == ["table"]
