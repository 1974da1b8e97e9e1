"""One net, computed by each kind of kernel in turn: NumPy, Numba's loops, the vector kernels, a GPU.

The first call of everything, on two images, compiles: it is not counted, but reported.  What is counted ends when the device has
finished.  Contenders take turns within a round, so that a slow second hits all of them, and times are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import minidl
from minidl import kernels, models, optim
from minidl.autograd.grad_mode import no_grad
from minidl.backend import get_backend
from minidl.backend.rng import Generator
from minidl.errors import ConfigError, OutOfMemoryError
from minidl.inspect.table import kind_of, table
from minidl.inspect.trace import trace
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.tensor import Tensor

ROUNDS = 7  # at most, of a contender in a row
TITLES = {"numpy": "NumPy", "numba": "Numba", "vector": "vector", "gpu": "GPU"}
SAMPLE = 5e-3  # seconds: a shorter call is repeated until it has lasted about this long
UNTIMED = ("flatten", "other", "same")  # layers that compute nothing, or take more than one input
FORWARD, STEP = "whole forward", "training step"
LEARNING_RATE = 1e-4  # small: the weights are the same to the eye after any number of steps
LONGEST = 0.25  # of the budget, for one call
FEW = 2  # images of the first call: as little as batch norm can be trained on


class Contender(NamedTuple):
    """A kind of kernels on a device; ``choice`` is what each verb is asked to use."""

    name: str
    device: str
    choice: dict[str, str]


class Layer(NamedTuple):
    """A layer by the name that `minidl inspect` gives it; ``shape`` of its input without the batch, ``like`` more of its kind."""

    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    like: int


class Cell(NamedTuple):
    """A contender in a row: seconds of the first call, on two images, and of those on all (their median); its difference."""

    first: float
    seconds: float
    rounds: int
    difference: float


class Row(NamedTuple):
    """A layer (``like`` more have the same work), or the whole net; ``cells`` by contender, ``left_out`` by reason."""

    name: str
    kind: str
    shape: tuple[int, ...]
    like: int
    cells: dict[str, Cell]
    left_out: dict[str, str]

    def ratio(self, contender: str, base: str = "numpy") -> float | None:
        """How many times as fast as ``base``."""
        if contender not in self.cells or base not in self.cells:
            return None
        return self.cells[base].seconds / self.cells[contender].seconds

    @property
    def difference(self) -> float:
        """The largest of any contender's."""
        return max((cell.difference for cell in self.cells.values()), default=0.0)


def contenders(device: str | None, dtype: str) -> list[Contender]:
    """NumPy, Numba, the vector kernels for float32, and ``device`` if there is one.

    A verb that Numba has no loops for is NumPy's in its column, not the vector kernels'.
    """

    def choice(name: str) -> dict[str, str]:
        known = {verb: kernels.variants(verb, "cpu") for verb in kernels.verbs()}
        return {verb: name if name in found else "numpy" for verb, found in known.items() if "numpy" in found}

    names = ["numpy"] + ["numba"] * _importable("numba") + ["vector"] * (dtype == "float32" and _importable("llvmlite"))
    found = [Contender(name, "cpu", choice(name)) for name in names]
    return found + ([Contender("gpu", device, {})] if device is not None else [])


def _importable(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


Prepare = Callable[[Contender, int], Callable[[], Tensor]]  # what a contender is to do with so many images


class Bench:
    """The work of a net: its layers, each once, its forward pass and its training step.

    Args:
        model: a name of :mod:`minidl.models`.
        batch: images at once.
        device: of a GPU; None for the CPU's columns alone.
        budget: seconds, for everything: a row that does not fit any more is left out, and says so.

    Raises:
        ConfigError: no such model, or a batch, dtype or budget that makes no sense.
        DeviceError: no such device.
    """

    def __init__(self, model: str, batch: int, device: str | None = None, dtype: str = "float32", budget: float = 120.0):
        if not isinstance(batch, int) or batch < 1:
            raise ConfigError(f"bench: batch must be a positive whole number, got {batch!r}")
        if dtype not in ("float32", "float64"):
            raise ConfigError(f"bench: dtype must be float32 or float64, got {dtype!r}")
        if not budget > 0:
            raise ConfigError(f"bench: the budget must be above 0 seconds, got {budget!r}")
        self.info, self.batch, self.dtype = models.model_info(model), batch, dtype
        get_backend(device)
        self.contenders = contenders(device, dtype)
        self.deadline = time.perf_counter() + budget
        self.budget = budget
        self.nets: dict[str, Module] = {}
        self.start: dict[str, Tensor] = {}
        self.trained: set[str] = set()  # devices on which a step has changed the net

    def rows(self) -> Iterator[Row]:
        """The whole net first, then its layers, each as soon as it is measured."""
        net, shape = self._net("cpu"), (self.batch, *self.info.input_shape)
        layers = _layers(net, self.info.input_shape)
        whole = [(FORWARD, "net", shape, 0, self._forward), (STEP, "net", shape, 0, self._step)]
        rest = [(layer.name, layer.kind, (self.batch, *layer.shape), layer.like, self._layer(layer)) for layer in layers]
        plan = [*whole, *rest]
        for number, row in enumerate(plan):
            now = time.perf_counter()
            share = (self.deadline - now) / (len(plan) - number)
            yield self._row(*row, now + share * (1 + (number < len(whole))))  # the whole net has two layers' worth

    def _row(self, name: str, kind: str, shape: tuple[int, ...], like: int, prepare: Prepare, stop: float) -> Row:
        firsts: dict[str, float] = {}
        left_out: dict[str, str] = {}
        for contender in self.contenders:
            try:
                if time.perf_counter() > self.deadline:
                    left_out[contender.name] = f"the budget of {self.budget:g} s is spent (--budget)"
                    continue
                with kernels.use(**contender.choice):
                    minidl.manual_seed(0)  # so that all drop the same elements
                    count, backend = min(self.batch, FEW), get_backend(contender.device)
                    few = prepare(contender, count)
                    first = _seconds(few, backend)
                    if _seconds(few, backend) * self.batch / count > self.budget * LONGEST:
                        left_out[contender.name] = f"a call would take more than {LONGEST:.0%} of {self.budget:g} s (--budget)"
                        continue
                    firsts[contender.name] = first
            except OutOfMemoryError as error:
                left_out[contender.name] = str(error)
        seconds, results = self._measure([c for c in self.contenders if c.name in firsts], prepare, left_out, stop)
        expected = next(iter(results.values()), None)
        cells = {}
        for which, result in results.items():
            difference = (result - expected).abs().max().item() if result.numel() else 0.0
            cells[which] = Cell(firsts[which], statistics.median(seconds[which]), len(seconds[which]), difference)
        return Row(name, kind, shape, like, cells, left_out)

    def _measure(
        self, order: list[Contender], prepare: Prepare, left_out: dict[str, str], stop: float
    ) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
        """Seconds of each, round by round until it is time to ``stop``, at least once; and the first result of each."""
        seconds: dict[str, list[float]] = {}
        results: dict[str, Tensor] = {}
        calls: dict[str, Callable[[], Tensor]] = {}
        for turn in range(ROUNDS):
            for contender in order if turn % 2 == 0 else order[::-1]:
                name, backend = contender.name, get_backend(contender.device)
                if turn and time.perf_counter() > stop or name in left_out:
                    continue
                try:
                    with kernels.use(**contender.choice):
                        if turn == 0:
                            minidl.manual_seed(0)
                            calls[name] = prepare(contender, self.batch)
                            begin = time.perf_counter()
                            results[name] = calls[name]().detach().cpu()
                            seconds[name] = [time.perf_counter() - begin]  # to see how often it can be repeated
                        repeats = min(max(1, round(SAMPLE / seconds[name][0])), 100)
                        if turn or repeats > 1:
                            seconds[name].append(_seconds(calls[name], backend, repeats))
                except OutOfMemoryError as error:
                    left_out[name] = str(error)
                    results.pop(name, None)
                    calls.pop(name, None)
        for found in seconds.values():
            del found[: len(found) > 1]  # the first one also fetched its result
        return seconds, results

    # ---- what is timed

    def _net(self, device: str) -> Module:
        """The net on a device, with the same weights on each, however many steps it took since."""
        if device not in self.nets:
            minidl.manual_seed(0)
            net = models.create(self.info.name).to(self.dtype)
            if not self.start:
                self.start = {key: value.detach().clone() for key, value in net.state_dict().items()}
            self.nets[device] = net.to(device)
        if device in self.trained:
            self.nets[device].load_state_dict({key: value.to(device) for key, value in self.start.items()})
            self.trained.remove(device)
        return self.nets[device]

    def _images(self, shape: tuple[int, ...], device: str) -> Tensor:
        return minidl.tensor(Generator(1).normal(shape), dtype=self.dtype, device=device)

    def _forward(self, contender: Contender, batch: int) -> Callable[[], Tensor]:
        net = self._net(contender.device)
        x = self._images((batch, *self.info.input_shape), contender.device)

        def call() -> Tensor:
            net.eval()
            with no_grad():
                found: Tensor = net(x)
            return found

        return call

    def _step(self, contender: Contender, batch: int) -> Callable[[], Tensor]:
        """Forward, loss, backward, SGD with momentum; the result is the loss."""
        net = self._net(contender.device)
        self.trained.add(contender.device)
        step = optim.SGD([p for p in net.parameters() if p.requires_grad], lr=LEARNING_RATE, momentum=0.9)
        x = self._images((batch, *self.info.input_shape), contender.device)
        labels = minidl.tensor(Generator(2).randint(0, self.info.num_classes or 10, (batch,)), device=contender.device)

        def call() -> Tensor:
            net.train()
            loss = F.cross_entropy(net(x), labels)
            step.zero_grad()
            loss.backward()
            step.step()
            return loss

        return call

    def _layer(self, layer: Layer) -> Prepare:
        def prepare(contender: Contender, batch: int) -> Callable[[], Tensor]:
            module = self._net(contender.device).train().get_submodule(layer.path)
            x = self._images((batch, *layer.shape), contender.device)

            def run() -> Tensor:
                with no_grad():
                    found: Tensor = module(x)
                return found

            return run

        return prepare


def _seconds(call: Callable[[], Any], backend: Any, repeats: int = 1) -> float:
    """Of one call of several."""
    if repeats > 1:
        call()  # looks its kernels up, and wakes the threads
    backend.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    backend.synchronize()
    return max(time.perf_counter() - begin, 1e-9) / repeats


def _layers(net: Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """The modules that call no others and compute something from one input; those with equal work once."""
    names = {row.path: row.name for row in table(net, input_shape).rows}
    seen = trace(net, input_shape)
    found: dict[tuple[str, tuple[int, ...]], Layer] = {}
    for call in seen.calls:
        kind = kind_of(call, seen.own(call))
        if call.children or len(call.in_edges) != 1 or kind in UNTIMED:
            continue
        layer = Layer(names.get(call.path, call.path), call.path, kind, call.in_shape[1:], 0)
        key = repr(call.module), layer.shape
        found[key] = found[key]._replace(like=found[key].like + 1) if key in found else layer
    return list(found.values())
