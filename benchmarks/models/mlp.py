"""A multi-layer perceptron 784-256-128-10 at batch 32: forward, cross-entropy and backward through modules."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Case, Contender

SIZES = (784, 256, 128, 10)
BATCH = 32


def step(library: Any, weights: list, images: Any, labels: Any) -> Contender:
    """One text for minidl and torch: the public modules, as a user writes them."""
    nn = library.nn
    layers: list[Any] = []
    for i, (inputs, outputs) in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True)):
        linear = nn.Linear(inputs, outputs)
        linear.weight = nn.Parameter(library.tensor(weights[i]))
        linear.bias = nn.Parameter(library.zeros(outputs))
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    loss = nn.CrossEntropyLoss()
    x, target = library.tensor(images), library.tensor(labels)
    first = layers[0].weight

    def call() -> Any:
        model.zero_grad()
        loss(model(x), target).backward()
        return first.grad

    return call


def contenders(with_torch: bool) -> dict[str, Contender]:
    import numpy as np

    import minidl
    import minidl.nn

    rng = np.random.default_rng(0)
    shapes = zip(SIZES[1:], SIZES[:-1], strict=True)
    weights = [rng.normal(0, (2 / shape[1]) ** 0.5, shape).astype(np.float32) for shape in shapes]
    images = rng.normal(size=(BATCH, SIZES[0])).astype(np.float32)
    labels = rng.integers(0, SIZES[-1], BATCH)
    found = {"minidl": step(minidl, weights, images, labels)}
    if with_torch:
        import torch

        found["torch"] = step(torch, weights, images, labels)
    return found


def cases() -> list[Case]:
    return [Case("mlp 784-256-128-10", f"batch {BATCH}, forward and backward", contenders, target=1.1)]
