"""One net as each contender writes it: a training step, one image through it, and what is compared before it is timed.

The net is our own source, with torch.nn in the place of minidl.nn for PyTorch, and the numbers in it are the same. The learning
rate is zero, so that a thousand steps leave the net as it was; the update computes all the same.
"""

from __future__ import annotations

import functools
import importlib
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.nets.table import Net

VECTOR, NUMPY = "minidl", "minidl numpy"
NCHW, CHANNELS_LAST, COMPILED = "torch", "torch channels_last", "torch compiled"
EAGER = (NCHW, CHANNELS_LAST)  # what the promised ratios are to: the better of these

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What the parameter or buffer ``name`` holds: weights drawn for its name, of a size that keeps activations alive."""
    if len(shape) < 2:
        return np.full(shape, 1.0 if name.endswith(("weight", "running_var")) else 0.0, np.float32)
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    drawn *= math.sqrt(1.5 / math.prod(shape[1:]))
    return drawn


def data(net: Net, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *net.shape), dtype=np.float32)
    return images, rng.integers(0, net.classes, batch)


class Contender:
    """A net with its data. ``library`` is minidl or torch: one text for both."""

    def __init__(self, library: Any, net: Net, model: Any, prepare: Callable[[np.ndarray], Any], quiet: Any,
                 run: Any = None) -> None:
        self.net, self.model, self.prepare, self.quiet = net, model, prepare, quiet
        self.run = model if run is None else run  # what is called: the model itself, or its compiled form
        self.optimizer = library.optim.SGD(model.parameters(), lr=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.loss = library.nn.CrossEntropyLoss()
        images, labels = data(net, net.batch)
        self.images, self.labels, self.image = prepare(images), prepare(labels), prepare(images[:1])
        self.dropouts = [m for m in model.modules() if isinstance(m, library.nn.Dropout)]
        self.chances = [m.p for m in self.dropouts]

    def mode(self, what: str) -> None:
        """Make ready for "step" or "batch 1"."""
        self.model.train(what == "step")

    def step(self) -> Any:
        """A training step."""
        self.optimizer.zero_grad()
        loss = self.loss(self.run(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def infer(self) -> Any:
        """One image."""
        with self.quiet():
            return self.run(self.image)

    def facts(self) -> dict[str, Any]:
        """What all contenders must agree on: logits of an image, and loss and gradients of a step without dropout."""
        self.mode("batch 1")
        logits = np.asarray(self.infer().numpy())[0]
        self.mode("step")
        for module in self.dropouts:
            module.p = 0.0
        loss = float(self.step().item())
        for module, p in zip(self.dropouts, self.chances, strict=True):
            module.p = p
        norms = {name: float(np.linalg.norm(p.grad.numpy())) for name, p in self.model.named_parameters()}
        return {"logits": logits.tolist(), "loss": loss, "gradients": norms}

    def operations(self) -> tuple[float, float]:
        """GFLOP of a training step and of one image."""
        raise NotImplementedError


class _Minidl(Contender):
    def operations(self) -> tuple[float, float]:
        """Two per multiply-accumulate of convolutions and matrix products; backward takes two products for each of
        forward's, but for the first layer, which nobody asks for the gradient of the images."""
        from minidl.inspect import table

        rows = [row for row in table(self.model, self.net.shape).rows if row.macs]
        macs = sum(row.macs for row in rows)
        return 2e-9 * self.net.batch * (3 * macs - rows[0].macs), 2e-9 * macs


def build(name: str, net: Net, threads: int, device: str = "cpu") -> Contender:
    """The contender ``name``; ``device`` is called as its library calls it."""
    return _minidl(net, device) if name in (VECTOR, NUMPY) else _torch(name, net, threads, device)


def libraries(name: str) -> None:
    """Import what the contender consists of."""
    importlib.import_module("minidl.models" if name in (VECTOR, NUMPY) else "torch")


def _minidl(net: Net, device: str) -> Contender:
    import minidl
    import minidl.models
    import minidl.optim
    from minidl.nn import init

    with init.skip_init():
        model = minidl.models.create(net.model, num_classes=net.classes, **net.options)
    for key, tensor in model.state_dict().items():
        tensor.data[...] = numbers(key, tensor.shape)
    prepare = functools.partial(minidl.tensor, device=device)
    return _Minidl(minidl, net, model.to(device), prepare, minidl.no_grad)


def _torch(name: str, net: Net, threads: int, device: str) -> Contender:
    import torch

    torch.set_num_threads(threads)
    with torch.device("meta"):
        model = twins(torch).create(net.model, num_classes=net.classes, **net.options)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            tensor.copy_(torch.from_numpy(numbers(key, tuple(tensor.shape))))
    order = torch.contiguous_format if name == NCHW else torch.channels_last

    def prepare(array: np.ndarray) -> Any:
        tensor = torch.from_numpy(array.copy()).to(device)
        return tensor.contiguous(memory_format=order) if tensor.ndim == 4 else tensor

    model.to(device, memory_format=order)
    run = torch.compile(model) if name == COMPILED else None
    return Contender(torch, net, model, prepare, torch.inference_mode if run is None else torch.no_grad, run)


@functools.cache
def twins(torch: Any) -> Any:
    """Our sources with PyTorch's layers, and with ReLUs in place, as torchvision's nets have them."""
    return importlib.import_module("tests.models.twins").Twins(torch, inplace=True)
