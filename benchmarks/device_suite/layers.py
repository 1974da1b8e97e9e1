"""Single layers, forward and backward through the public modules, beside PyTorch's: time on the device, not the host's.

One text builds the layer out of either library, with the same weights and inputs; outputs and gradients are compared first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import minidl
from benchmarks.device_suite import features
from benchmarks.device_suite.devices import find_torch
from benchmarks.device_suite.features import BFLOAT16, FLOAT32, PRECISIONS, TF32
from benchmarks.device_suite.steps import differs
from benchmarks.device_suite.work import Deadline, Missing, Suite, Task, in_a_line, timing
from benchmarks.nets.contenders import CHANNELS_LAST, NCHW, VECTOR, numbers
from benchmarks.ops.convolution import SHAPES

CONTENDERS = (VECTOR, NCHW, CHANNELS_LAST)
CONVOLUTION_BATCH = 64  # at least: a large GPU is not filled by less
# (norm of the output, norm of all gradients), relative: one layer of what steps.py allows a net.
CLOSE = {FLOAT32: (1e-4, 1e-3), TF32: (2e-3, 1e-2), BFLOAT16: (1e-2, 5e-2)}


class Layer(NamedTuple):
    """A layer: ``build(library.nn)``, and what it is given."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    macs: float = 0.0  # of the forward pass; backward has twice as many
    precisions: tuple[str, ...] = (FLOAT32,)


def convolution(shape: tuple[int, ...]) -> Layer:
    n, c, size, o, k, stride, padding = shape
    n, out = max(n, CONVOLUTION_BATCH), (size + 2 * padding - k) // stride + 1
    build = lambda nn: nn.Conv2d(c, o, k, stride=stride, padding=padding)
    return Layer(build, (n, c, size, size), n * o * out**2 * c * k**2, PRECISIONS)


def linear(rows: int, inside: int, outside: int) -> Layer:
    return Layer(lambda nn: nn.Linear(inside, outside), (rows, inside), rows * inside * outside, PRECISIONS)


MAPS = (256, 64, 56, 56)
LAYERS = {
    **{f"conv {name}": convolution(shape) for name, shape in SHAPES.items()},
    "depthwise 3x3, 128 at 28": Layer(lambda nn: nn.Conv2d(128, 128, 3, padding=1, groups=128), (128, 128, 28, 28)),
    "linear 4096-4096": linear(128, 4096, 4096),
    "linear 768-3072": linear(64 * 197, 768, 3072),
    "batch norm": Layer(lambda nn: nn.BatchNorm2d(64), MAPS),
    "batch norm, ReLU": Layer(lambda nn: nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()), MAPS),
    "layer norm": Layer(lambda nn: nn.LayerNorm(768), (64, 197, 768)),
    "local response norm": Layer(lambda nn: nn.LocalResponseNorm(5), (64, 96, 55, 55)),
    "ReLU": Layer(lambda nn: nn.ReLU(), MAPS),
    "GELU": Layer(lambda nn: nn.GELU(), (64, 197, 3072)),
    "max pool 3x3/2": Layer(lambda nn: nn.MaxPool2d(3, 2, padding=1), (128, 64, 112, 112)),
    "average pool 2x2": Layer(lambda nn: nn.AvgPool2d(2), MAPS),
    "softmax": Layer(lambda nn: nn.Softmax(dim=1), (32768, 1000)),
    "dropout": Layer(lambda nn: nn.Dropout(0.5), (32768, 1000)),
}
TINY_LAYERS = {
    "conv": Layer(lambda nn: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 5), 2 * 4 * 25 * 27),
    "batch norm, ReLU": Layer(lambda nn: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), (2, 4, 5, 5)),
    "dropout": Layer(lambda nn: nn.Dropout(0.5), (4, 10)),
}
RANDOM = ("dropout",)  # each library draws its own mask: nothing to compare


def tasks(suite: Suite) -> Iterator[Task]:
    for precision in (FLOAT32,) if suite.tiny else PRECISIONS:
        for name, layer in (TINY_LAYERS if suite.tiny else LAYERS).items():
            if precision in layer.precisions:
                yield Task(f"{name}, {precision}", layer_of(suite, name, layer, precision), 8.0)


def layer_of(suite: Suite, name: str, layer: Layer, precision: str) -> Callable[[Deadline], dict[str, Any]]:
    def run(_: Deadline) -> dict[str, Any]:
        found: dict[str, Any] = {"what": f"{'x'.join(map(str, layer.shape))}, forward and backward, {precision}",
                                 "flop": 6.0 * layer.macs, "timings": {}, "missing": {}}  # fmt: skip
        facts: dict[str, tuple[float, float]] = {}
        for contender in CONTENDERS:
            if contender == CHANNELS_LAST and len(layer.shape) != 4:
                continue
            try:
                call, check = build(suite, contender, layer, precision)
                facts[contender] = check()
                if name not in RANDOM:
                    differs(facts, contender, CLOSE[precision])
                found["timings"][contender] = timing(suite.device.spans(call))
            except Exception as error:
                found["missing"][contender] = str(error) if isinstance(error, Missing) else in_a_line(error)
                if not suite.device.alive():
                    raise
        return {**found, "agreed": facts}

    return run


def build(suite: Suite, contender: str, layer: Layer, precision: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(forward and backward, the norms of the output and of all gradients).

    Raises:
        Missing: PyTorch, or the precision, is not there.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layer.shape, dtype=np.float32)
    if contender == VECTOR:
        library: Any = minidl
        module = layer.build(minidl.nn)
        for key, tensor in module.state_dict().items():
            tensor.data[...] = numbers(key, tensor.shape)
        module.to(suite.device.name)
        make: Callable[[Any], Any] = functools.partial(minidl.tensor, device=suite.device.name)
        inside = functools.partial(features.minidl_precision, precision)
    else:
        library = find_torch()
        if library is None:
            raise Missing("PyTorch is not installed")
        place = suite.device.torch
        module = layer.build(library.nn)
        with library.no_grad():
            for key, tensor in module.state_dict().items():
                tensor.copy_(library.from_numpy(np.asarray(numbers(key, tuple(tensor.shape)))))
        order = library.channels_last if contender == CHANNELS_LAST else library.contiguous_format
        module.to(place, memory_format=order)
        make = lambda array: (t := library.from_numpy(array).to(place)).contiguous(
            memory_format=order if t.ndim == 4 else library.contiguous_format)  # fmt: skip
        inside = functools.partial(features.torch_precision, library, place, precision)

    images = make(x)
    images.requires_grad_(True)
    with library.no_grad(), inside():
        y = module(images)
    gradient = make(np.random.default_rng(1).standard_normal(tuple(y.shape), dtype=np.float32)).to(y.dtype)

    def call() -> Any:
        images.grad = None
        for parameter in module.parameters():
            parameter.grad = None
        with inside():
            y = module(images)
        y.backward(gradient)
        return y

    def check() -> tuple[float, float]:
        y = call().detach()
        gradients = [images.grad, *(p.grad for p in module.parameters())]
        return norm([y]), norm(gradients)

    return call, check


def norm(tensors: list[Any]) -> float:
    """Of all numbers in some tensors of either library."""
    squares = (t.detach().to(minidl_or_torch_float(t)) for t in tensors)
    return math.sqrt(sum(float((t * t).sum().item()) for t in squares))


def minidl_or_torch_float(tensor: Any) -> Any:
    """The library's float32: sums of squares of 16-bit numbers are taken in it."""
    return minidl.float32 if isinstance(tensor, minidl.Tensor) else find_torch().float32
