"""What an operation costs besides its arithmetic: chains of 1,000 additions or multiplications of almost nothing.

Forward and backward. The arrays hold one or four numbers, so the time is all engine: dispatch, recording, the walk back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.bench import Case, Contender

LENGTH = 1000


def chain(library: Any, shape: tuple[int, ...], step: Callable[[Any, Any], Any], length: int = LENGTH,
          **place: Any) -> Contender:  # fmt: skip
    """y = x, then y = step(y, x) ``length`` times, then the gradient of x. `library` is minidl or torch: one text for both.

    ``place``: the device, if it is another than the library's default.
    """
    x = library.full(shape, 1.0, requires_grad=True, **place)
    gradient = library.ones(shape, **place)

    def call() -> Any:
        x.grad = None
        y = x
        for _ in range(length):
            y = step(y, x)
        y.backward(gradient)
        return x.grad

    return call


def case(name: str, shape: tuple[int, ...], step: Callable[[Any, Any], Any]) -> Case:
    def contenders(with_torch: bool) -> dict[str, Contender]:
        import minidl

        found = {"minidl": chain(minidl, shape, step)}
        if with_torch:
            import torch

            found["torch"] = chain(torch, shape, step)
        return found

    return Case(f"{name} {shape}", f"{LENGTH} {name}s of shape {shape}, forward and backward", contenders, target=0.8)


def cases() -> list[Case]:
    return [
        case("add", (), lambda y, x: y + x),
        case("add", (4,), lambda y, x: y + x),
        case("multiply", (), lambda y, x: y * x),
        case("multiply", (4,), lambda y, x: y * x),
    ]
