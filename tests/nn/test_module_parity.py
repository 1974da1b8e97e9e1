"""Programs as people write them to fine-tune a net, run by both libraries: they must tell the same story."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl

pytestmark = pytest.mark.parity

STATE = np.random.default_rng(0)
WEIGHTS = {
    "body.0.weight": STATE.normal(size=(4, 3)),
    "body.0.bias": STATE.normal(size=4),
    "body.2.weight": STATE.normal(size=(4, 4)),
    "body.2.bias": STATE.normal(size=4),
    "head.weight": STATE.normal(size=(2, 4)),
    "head.bias": STATE.normal(size=2),
}
X = STATE.normal(size=(5, 3))


def make(lib: Any) -> Any:
    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            nn = lib.nn
            self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.0))
            self.head = nn.Linear(4, 2)
            self.register_buffer("scale", lib.tensor(2.0, dtype=lib.float64))
            self.register_buffer("scratch", lib.tensor([1.0, 2.0]), persistent=False)
            self.register_buffer("nothing", None)
            self.register_parameter("extra", None)

        def forward(self, x):
            return self.head(self.body(x)) * self.scale

    net = Net().double()
    net.load_state_dict({**{k: lib.tensor(v) for k, v in WEIGHTS.items()}, "scale": lib.tensor(2.0, dtype=lib.float64)})
    return net


def walk(lib, net):
    yield [name for name, _ in net.named_modules()]
    yield [name for name, _ in net.named_children()]
    yield [(name, type(m).__name__) for name, m in net.named_modules(prefix="net")]
    yield [name for name, _ in net.named_parameters()], [name for name, _ in net.named_buffers()]
    yield [name for name, _ in net.named_parameters(prefix="net", recurse=False)]
    yield list(net.state_dict()), list(net.body.state_dict(prefix="body."))
    yield net.get_submodule("body.2").out_features, net.get_submodule("") is net
    yield list(net.get_parameter("body.0.weight").shape), net.get_buffer("scale").item()
    for wrong in (lambda: net.get_submodule("body.9"), lambda: net.get_parameter("scale"), lambda: net.tail):
        with pytest.raises(AttributeError):
            wrong()
    yield repr(net)


def load(lib, net):
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("head")}
    state["fc.weight"] = lib.zeros(1)
    result = net.load_state_dict(state, strict=False)
    yield sorted(result.missing_keys), sorted(result.unexpected_keys)
    missing, unexpected = result
    yield len(missing), len(unexpected), result == (missing, unexpected)
    yield str(net.load_state_dict(net.state_dict()))
    for wrong in (state, {**net.state_dict(), "head.weight": lib.zeros(3, 4)}):
        with pytest.raises((RuntimeError, ValueError)):
            net.load_state_dict(wrong)
    with pytest.raises((RuntimeError, ValueError)):  # a wrong shape is refused, strict or not
        net.load_state_dict({"head.weight": lib.zeros(3, 4)}, strict=False)


def freeze(lib, net):
    net.requires_grad_(False)
    net.head = lib.nn.Linear(4, 3).double()
    with lib.no_grad():
        for p in net.head.parameters():
            p.fill_(0.5)
    yield [name for name, p in net.named_parameters() if p.requires_grad], list(net.state_dict())
    net.eval()
    net.head.train()
    yield [m.training for m in net.modules()]
    net(lib.tensor(X)).sum().backward()
    yield {name: None if p.grad is None else p.grad.numpy() for name, p in net.named_parameters()}
    net.zero_grad()
    yield [p.grad is None for p in net.parameters()]
    net(lib.tensor(X)).sum().backward()
    net.zero_grad(set_to_none=False)
    yield net.head.weight.grad.numpy()
    seen = []
    yield net.apply(lambda m: seen.append(type(m).__name__)) is net, seen


def hooks(lib, net):
    told: list[Any] = []
    layer = net.get_submodule("body.2")
    handles = [
        layer.register_forward_pre_hook(lambda m, args: told.append(("pre", len(args)))),
        layer.register_forward_hook(lambda m, args, out: told.append(("out", out.detach().numpy().copy()))),
        net.head.register_forward_hook(lambda m, args, out: out + 1),
        net.head.register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        layer.register_full_backward_hook(lambda m, gin, gout: told.append(("back", gin[0].numpy(), gout[0].numpy()))),
    ]
    y = net(lib.tensor(X))
    y.square().sum().backward()
    yield y.detach().numpy(), net.head.weight.grad.numpy(), told
    for handle in handles:
        handle.remove()
    told.clear()
    yield net(lib.tensor(X)).detach().numpy(), told


def utilities(lib, net):
    utils = lib.nn.utils
    vector = utils.parameters_to_vector(net.parameters())
    yield vector.detach().numpy()
    utils.vector_to_parameters(vector * 2, net.parameters())
    net(lib.tensor(X)).square().sum().backward()
    yield utils.clip_grad_norm_(net.parameters(), 1.5).item(), net.head.weight.grad.numpy().copy()
    utils.clip_grad_value_(net.parameters(), 0.01)
    yield [p.grad.numpy().copy() for p in net.parameters()]


def containers(lib, net):
    nn = lib.nn
    blocks = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])
    blocks.append(nn.ReLU())
    blocks.extend([nn.Identity()])
    named = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 1)})
    body = nn.Sequential(*list(net.body.children())[:-1])
    yield len(blocks), [type(m).__name__ for m in blocks], list(named.keys()), "a" in named, repr(body), repr(body[-1])
    yield list(blocks.state_dict()), list(named.state_dict())
    del body[0]
    yield repr(body), [type(m).__name__ for m in reversed(list(body))]


def same(a: Any, b: Any) -> None:
    if isinstance(a, np.ndarray):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)  # float64: the order of the additions
    elif isinstance(a, dict):
        assert list(a) == list(b)
        same(list(a.values()), list(b.values()))
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-12)
    else:
        assert a == b


@pytest.mark.parametrize("program", [walk, load, freeze, hooks, utilities, containers], ids=lambda p: p.__name__)
def test_as_torch(torch, program):
    ours, theirs = (list(program(lib, make(lib))) for lib in (minidl, torch))
    same(ours, theirs)


def test_init_has_the_same_functions(torch):
    public = {name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
    assert public - set(dir(minidl.nn.init)) == {"sparse_"}, "rows of mostly zeros, which no net here begins with"
