"""minidl.cuda.graph: a captured step computes what the step does, to the bit, on a stand-in for CuPy that records and repeats."""
import contextlib
import warnings

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn, optim
from minidl.errors import ConfigError, DeviceError, DTypeError, ShapeError
from minidl.kernels.cuda import capture
from tests.cuda_emulator.emulator import COMPILER
from tests.fake_cupy import fake_cupy, installer
from tests.fake_graph import with_capture

CALLS = 10


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    if COMPILER is None:
        pytest.skip("the CUDA emulator needs g++")
    for put in installer(monkeypatch, tmp_path):
        yield with_capture(put(fake_cupy(count=1)), monkeypatch)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, 12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 12), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(12, 5),
    )  # fmt: skip


def momentum(parameters):
    return optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)


def adam(parameters):
    return optim.Adam(parameters, lr=0.02)


def adamw(parameters):
    return optim.AdamW([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(parameters)])


def batches(calls=CALLS):
    rng = np.random.default_rng(0)
    for _ in range(calls):
        yield rng.standard_normal((6, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, 6)


class Run:
    """A training of some steps; ``wrap`` is what makes a graph of its step."""

    def __init__(self, model, optimizer, wrap, schedule=True):
        minidl.manual_seed(0)
        self.model = model().to("cuda")
        self.optimizer = optimizer(self.model.parameters())
        self.scheduler = optim.lr_scheduler.ExponentialLR(self.optimizer, 0.8) if schedule else None
        self.step = wrap(self.update)
        self.losses = []

    def update(self, images, labels):
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self, calls=CALLS):
        minidl.manual_seed(1)
        for images, labels in batches(calls):
            self.losses.append(self.step(minidl.tensor(images, device="cuda"), minidl.tensor(labels, device="cuda")))
            if self.scheduler is not None:
                self.scheduler.step()
        return self

    def everything(self):
        """All that a training leaves: losses, weights, buffers, gradients, the optimiser's state and the generator's."""
        found = {f"loss {i}": loss.item() for i, loss in enumerate(self.losses)}
        found |= {name: t.numpy() for name, t in self.model.state_dict().items()}
        found |= {f"{name}.grad": p.grad.numpy() for name, p in self.model.named_parameters() if p.grad is not None}
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{number} {key}": value.numpy() if hasattr(value, "numpy") else value for key, value in state.items()}
        found["generator"], found["lr"] = minidl.get_rng_state(), [g["lr"] for g in self.optimizer.param_groups]
        return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("model, optimizer", [(lenet, momentum), (lenet, adamw), (mlp, adam), (mlp, momentum)],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_the_same_as_the_step_to_the_bit(model, optimizer, cupy):
    expected = Run(model, optimizer, lambda step: step).train().everything()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = Run(model, optimizer, minidl.cuda.graph).train()
    assert run.step.reason is None and repr(run.step) == "<minidl.cuda.graph of update, captured>"
    assert_same(run.everything(), expected)
    launched = [entry for entry in cupy.calls if entry[0] == "graph"]
    assert len(launched) == CALLS - 3


def test_on_another_gpu(monkeypatch, tmp_path):
    """Streams, memory and launches are those of the tensors' device, whichever is current."""
    if COMPILER is None:
        pytest.skip("the CUDA emulator needs g++")
    with contextlib.contextmanager(installer)(monkeypatch, tmp_path) as put:
        with_capture(put(fake_cupy(count=2)), monkeypatch)
        weight = minidl.ones(3, device="cuda:1", requires_grad=True)
        optimizer = optim.SGD([weight], lr=0.5)

        @minidl.cuda.graph
        def step(x):
            loss = (weight * x).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        found = [step(minidl.full((3,), float(i), device="cuda:1")).item() for i in range(6)]
        assert step.reason is None and found == [0, 3, 3, -4.5, -24, -60]  # the weight has lost half of all x before
        with pytest.raises(DeviceError, match=r"argument 0 of step is on cuda:0; move it with .to\('cuda:1'\)"):
            step(minidl.ones(3, device="cuda:0"))


def test_what_is_asked_of_cupy(cupy):
    """Waiting for what came before, warm-up on a side stream, capture there, and then launches on the current stream."""
    run = Run(mlp, momentum, minidl.cuda.graph)
    first = len(cupy.calls)
    run.train(5)
    names = [entry[0] for entry in cupy.calls[first:] if entry[0] in ("record", "wait", "begin capture", "end capture", "graph")]
    around = ["record", "wait"]
    assert names == around * 2 * 3 + [*around, "begin capture", "end capture", "graph", "graph"]
    streams = {entry[0]: str(entry[1]) for entry in cupy.calls if entry[0] in ("begin capture", "graph")}
    assert streams == {"begin capture": "side", "graph": "null"}
    begin = cupy.calls.index(next(e for e in cupy.calls if e[0] == "begin capture"))
    end = cupy.calls.index(next(e for e in cupy.calls if e[0] == "end capture"))
    assert {entry[0] for entry in cupy.calls[begin + 1 : end]} <= {"launch", "copy to device", "synchronize"}
    # Beside the capture, on a stream of its own: the table of pointers.
    assert sum(entry[0] == "copy to device" for entry in cupy.calls[begin:end]) == 1


def test_names_of_cupy():
    """What the stand-in has, CuPy has."""
    cupy = pytest.importorskip("cupy")
    for holder, names in ((cupy.cuda.Stream, "begin_capture end_capture is_capturing wait_event record synchronize"),
                          (cupy.cuda.Graph, "launch"), (cupy.cuda.MemoryPool, "malloc free_all_blocks used_bytes"),
                          (cupy.cuda, "using_allocator get_allocator get_current_stream Device"),
                          (cupy.ndarray, "set")):  # fmt: skip
        assert [name for name in names.split() if not hasattr(holder, name)] == []


# ------------------------------------------------------------------------------------- planted: what the comparison must see
def baked_rate(monkeypatch):
    from minidl.kernels.cuda import optim as launches

    live = launches._live
    monkeypatch.setattr(launches, "_live", lambda *numbers: (None, live(*numbers)[1]))


def baked_mask(monkeypatch):
    from minidl.kernels.cuda.capture import Capture

    key = Capture.key
    monkeypatch.setattr(Capture, "key", lambda self, drawn: key(self, drawn) is None or None)


def stale_inputs(monkeypatch):
    from minidl.cuda import graphs

    replay = graphs.Graph._replay
    monkeypatch.setattr(graphs.Graph, "_replay", lambda self, F, inputs: replay(self, F, tuple(self._like)))


@pytest.mark.parametrize("plant", [baked_rate, baked_mask, stale_inputs], ids=lambda f: f.__name__)
def test_a_number_of_one_step_for_all_is_found(plant, cupy, monkeypatch):
    expected = Run(mlp, momentum, lambda step: step).train(6).everything()
    plant(monkeypatch)
    run = Run(mlp, momentum, minidl.cuda.graph).train(6)
    assert run.step.reason is None
    with pytest.raises(AssertionError):
        assert_same(run.everything(), expected)


def test_what_the_host_computes_stays_old(cupy):
    """A counter of Python's is not repeated by a graph; the stand-in shows it as a GPU would."""
    calls = []

    def step(x):
        calls.append(1)
        return x * len(calls)

    graphed = minidl.cuda.graph(step, warmup=1)
    assert [graphed(minidl.ones(1, device="cuda")).item() for _ in range(4)] == [1, 2, 2, 2]


# ---------------------------------------------------------------------------------------------------- falling back, loudly
class ReadsTheLoss(Run):
    def update(self, images, labels):
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        if loss.item() > 1e9:
            raise AssertionError
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


class AddsGradients(Run):
    def update(self, images, labels):
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss


class MovesData(Run):
    def update(self, images, labels):
        return super().update(images * minidl.tensor(np.ones((1, 1, 12, 12), np.float32), device="cuda"), labels)


class MultipliesIntegers(Run):
    def update(self, images, labels):
        counts = labels.reshape(1, -1) @ labels.reshape(-1, 1)
        return super().update(images * (counts == counts).float(), labels)


class Averages(Run):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.average = optim.EMA(self.model)

    def update(self, images, labels):
        loss = super().update(images, labels)
        self.average.update()
        return loss


class Scales(Run):
    def update(self, images, labels):
        scaler = minidl.amp.GradScaler(init_scale=2.0)
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        scaler.scale(loss).backward()
        self.optimizer.step()
        return loss


class Thaws(Run):
    """A parameter gets its first gradient after the warm-up."""

    calls = 0

    def update(self, images, labels):
        self.calls += 1
        self.model[1].bias.requires_grad = self.calls > 3
        return super().update(images, labels)


def rmsprop(parameters):
    return optim.RMSprop(parameters, lr=0.01)


@pytest.mark.parametrize("kind, optimizer, words", [
    (ReadsTheLoss, momentum,
     r"test_graph.py, line \d+, `if loss.item\(\) > 1e9:`: CUDARuntimeError: cudaErrorStreamCaptureUnsupported"),
    (AddsGradients, momentum, "adds to gradients of the step before.*call optimizer.zero_grad"),
    (MovesData, momentum, r"`return super\(\).update\(images \* minidl.*copies an array from the host.*pass it to the step"),
    (MultipliesIntegers, momentum, "NotImplementedError: calling cuBLAS API during stream capture is currently unsupported"),
    (Averages, momentum, r"`self.average.update\(\)`: DeviceError: EMA.update: a CUDA graph would not repeat it; keep it out"),
    (Scales, momentum, r"`scaler.scale\(loss\).backward\(\)`: DeviceError: GradScaler.scale: a CUDA graph would not repeat it"),
    (Run, rmsprop, "RMSprop: no kernel of it reads its numbers from device memory.*SGD, Adam and AdamW have one"),
    (Thaws, adamw, "AdamW: a parameter got its first state in the capture"),
    (Thaws, adam, "Adam: no kernel of it reads its numbers from device memory"),  # it takes parameters of one age
    (Thaws, momentum, "SGD: a graph would begin its momentum anew"),
], ids=["item", "accumulation", "host array", "integers", "average", "scale", "rmsprop", "thaw", "age", "momentum"])  # fmt: skip
def test_a_step_that_cannot_be_captured(kind, optimizer, words, cupy):
    """It is said once, with the line that is to blame, and the training goes on as if nothing had been tried."""
    expected = kind(mlp, optimizer, lambda step: step).train(6)
    run = kind(mlp, optimizer, minidl.cuda.graph)
    with pytest.warns(RuntimeWarning, match=f"update cannot be captured, it runs eagerly from now on.*{words}") as noted:
        run.train(6)
    assert len(noted) == 1 and noted[0].filename == __file__ and "eager" in repr(run.step)
    assert_same(run.everything(), expected.everything())


def test_random_numbers_of_the_host(cupy):
    def step(x):
        return x * minidl.backend.rng.default_generator.uniform(()).item()

    graphed = minidl.cuda.graph(step, warmup=1)
    graphed(minidl.ones(1, device="cuda"))
    with pytest.warns(RuntimeWarning, match="draws 1 times from the random generator other than by dropout"):
        graphed(minidl.ones(1, device="cuda"))


def test_a_result_that_is_no_tensor(cupy):
    graphed = minidl.cuda.graph(lambda x: (x, 1.5), warmup=1)
    x = minidl.ones(1, device="cuda")
    graphed(x)
    with pytest.warns(RuntimeWarning, match="<lambda> cannot be captured.*the step returns a float.*return tensors"):
        assert graphed(x)[1] == 1.5


def test_more_numbers_than_a_graph_has_room_for(cupy, monkeypatch):
    monkeypatch.setattr(capture, "SLOTS", 7)                       # SGD has 4, a key of dropout 2
    run = Run(mlp, momentum, minidl.cuda.graph)
    with pytest.warns(RuntimeWarning, match="a graph has more than 7 numbers that change between replays"):
        run.train(4)


def test_a_key_from_elsewhere(cupy):
    """The mask of a key that was not drawn in the step would be the same in each replay."""
    graphed = minidl.cuda.graph(lambda x: minidl.autograd.function.tensors.dropout(x, p=0.5, key=(7, 0)), warmup=1)
    x = minidl.ones(4, device="cuda")
    with pytest.warns(RuntimeWarning, match=r"the key \(7, 0\) was not drawn from the default generator in the step"):
        assert graphed(x).tolist() == graphed(x).tolist()


def test_an_error_of_the_step_itself_stays_one(cupy):
    def step(x):
        if len(seen) == 1:
            raise ValueError("mine")
        seen.append(x)

    seen = []
    graphed = minidl.cuda.graph(step, warmup=1)
    graphed(minidl.ones(1, device="cuda"))
    with pytest.warns(RuntimeWarning, match="ValueError: mine"), pytest.raises(ValueError, match="mine"):
        graphed(minidl.ones(1, device="cuda"))


# ------------------------------------------------------------------------------------------------------ arguments and results
def test_results_are_the_callers(cupy):
    graphed = minidl.cuda.graph(lambda x, y: {"sum": x + y, "both": [x * 2.0, (y,), None]}, warmup=1)
    found = [graphed(*(minidl.full((2,), float(i + k), device="cuda") for k in (0, 10))) for i in range(4)]
    for i, result in enumerate(found):
        assert result["sum"].tolist() == [2.0 * i + 10] * 2 and result["both"][0].tolist() == [2.0 * i] * 2
        assert result["both"][1][0].tolist() == [i + 10.0] * 2 and result["both"][2] is None


def test_scalars_that_were_first_used_in_a_capture(cupy):
    """They are remembered for the eager operations that come later, and must have their value though no graph ever runs."""
    first = []

    def step(x):
        if not first:
            return first.append(1)
        return x * 0.75, 1.5                         # not a tensor, so the capture is given up

    graphed, x = minidl.cuda.graph(step, warmup=1), minidl.ones(2, device="cuda")
    graphed(x)
    with pytest.warns(RuntimeWarning, match="returns a float"):
        assert graphed(x)[0].tolist() == [0.75, 0.75]


def test_a_label_that_is_no_class(cupy):
    logits, labels = minidl.zeros(2, 3, device="cuda"), minidl.tensor([0, 1], device="cuda")
    graphed = minidl.cuda.graph(lambda x, y: F.cross_entropy(x, y, reduction="none"), warmup=1)
    for _ in range(2):
        graphed(logits, labels)
    found = graphed(logits, minidl.tensor([2, 3], device="cuda")).numpy()
    assert np.isfinite(found[0]) and np.isnan(found[1])


def test_arguments_that_do_not_fit(cupy):
    graphed = minidl.cuda.graph(lambda x, y: x + y)
    x = minidl.ones(2, 3, device="cuda")
    graphed(x, x)
    with pytest.raises(ShapeError, match=r"argument 1 of <lambda> has shape \(1, 3\), in the first call \(2, 3\).*drop_last"):
        graphed(x, x[:1])
    with pytest.raises(DTypeError, match="argument 0 of <lambda> has dtype float64, in the first call float32"):
        graphed(x.double(), x)
    with pytest.raises(DeviceError, match=r"argument 1 of <lambda> is on cpu; move it with .to\('cuda:0'\)"):
        graphed(x, minidl.ones(2, 3))
    with pytest.raises(TypeError, match="got 3 tensors, in the first call 2"):
        graphed(x, x, x)
    with pytest.raises(TypeError, match="argument 1 of <lambda> is a float.*pass tensors"):
        graphed(x, 2.0)
    with pytest.raises(TypeError, match="was called without a tensor"):
        graphed()


def test_not_on_the_cpu():
    with pytest.raises(DeviceError, match=r"argument 0 of <lambda> is on cpu; move it with .to\('cuda'\), or call the step"):
        minidl.cuda.graph(lambda x: x)(minidl.ones(1))
    with pytest.raises(ConfigError, match="warmup must be at least 1, found 0"):
        minidl.cuda.graph(lambda x: x, warmup=0)


def test_a_graph_leaves_no_memory_behind(cupy, monkeypatch):
    from minidl.cuda import graphs

    monkeypatch.setattr(graphs, "_pools", [])
    graphed = minidl.cuda.graph(lambda x: x + 1.0, warmup=1)
    for _ in range(3):
        graphed(minidl.ones(1, device="cuda"))
    graphs._forget_pools()
    assert len(graphs._pools) == 1
    del graphed
    monkeypatch.setattr(type(graphs._pools[0][1]), "used_bytes", lambda self: 0)     # the stand-in's pools share one count
    graphs._forget_pools()
    assert graphs._pools == []


def test_under_autocast(cupy):
    """A block around the whole training shares converted parameters between calls; a graph converts them in each replay."""
    pytest.importorskip("ml_dtypes")

    def train(wrap):
        run = Run(mlp, momentum, wrap)
        with minidl.autocast("bfloat16"):
            evaluate = wrap(run.model.eval())
            for images, _ in batches(1):
                x = minidl.tensor(images, device="cuda")
                before = [evaluate(x).detach().numpy() for _ in range(5)]
            run.model.train()
            run.train(6)
            run.model.eval()
            return run, [*before, evaluate(x).detach().numpy()]

    (expected, outputs), (found, again) = train(lambda step: step), train(minidl.cuda.graph)
    assert found.step.reason is None
    assert_same(found.everything(), expected.everything())
    np.testing.assert_array_equal(np.array(again), np.array(outputs))
