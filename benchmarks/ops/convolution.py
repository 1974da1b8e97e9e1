"""Convolutions of the nets people train, on channels-last memory: forward, input gradient, weight gradient."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Case, Contender

# name: (batch, input channels, size, output channels, filter, stride, padding)
SHAPES = {
    "16-16 3x3 at 32": (128, 16, 32, 16, 3, 1, 1),
    "32-32 3x3 at 16": (128, 32, 16, 32, 3, 1, 1),
    "64-64 3x3 at 8": (128, 64, 8, 64, 3, 1, 1),
    "16-32 3x3/2 at 32": (128, 16, 32, 32, 3, 2, 1),
    "3-16 3x3 at 32": (128, 3, 32, 16, 3, 1, 1),
    "3-64 11x11/4 at 224": (8, 3, 224, 64, 11, 4, 2),
    "64-192 5x5 at 27": (8, 64, 27, 192, 5, 1, 2),
    "192-384 3x3 at 13": (8, 192, 13, 384, 3, 1, 1),
    "3-64 7x7/2 at 224": (4, 3, 224, 64, 7, 2, 3),
    "64-128 1x1/2 at 56": (8, 64, 56, 128, 1, 2, 0),
    "256-64 1x1 at 28": (8, 256, 28, 64, 1, 1, 0),
}
TARGET = 1.0


def contenders(shape: tuple[int, ...], what: str, with_torch: bool) -> dict[str, Contender]:
    import numpy as np

    from minidl.backend import get_backend
    from minidl.ops.geometry import conv2d_geometry

    n, c, size, o, k, stride, padding = shape
    geom = conv2d_geometry((n, c, size, size), (o, c, k, k), stride, padding)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, size, size, c), dtype=np.float32).transpose(0, 3, 1, 2)
    gy = rng.standard_normal((n, geom.out_h, geom.out_w, o), dtype=np.float32).transpose(0, 3, 1, 2)
    w = (rng.standard_normal((o, c, k, k)) * (c * k * k) ** -0.5).astype(np.float32)
    F = get_backend("cpu")
    ours = {
        "forward": lambda: F.conv2d(x, w, None, geom=geom),
        "input gradient": lambda: F.conv2d_input_grad(gy, w, geom=geom),
        "weight gradient": lambda: F.conv2d_weight_grad(gy, x, geom=geom) * np.float32((n * geom.out_h) ** -1),
    }
    found: dict[str, Contender] = {"minidl": ours[what]}
    if with_torch:
        found["torch"] = in_torch(x, w, gy, stride, padding, what, (n * geom.out_h) ** -1)
    return found


def in_torch(x: Any, w: Any, gy: Any, stride: int, padding: int, what: str, scale: float) -> Contender:
    import torch

    tx, tg = torch.from_numpy(x), torch.from_numpy(gy)
    tw = torch.from_numpy(w).contiguous(memory_format=torch.channels_last)
    if what == "forward":
        return lambda: torch.conv2d(tx, tw, None, stride, padding)
    backward = torch.ops.aten.convolution_backward
    first = what == "input gradient"

    def call() -> Any:
        mask = [first, not first, False]
        grads = backward(tg, tx, tw, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask)
        return grads[0] if first else grads[1] * scale

    return call


def gflop(shape: tuple[int, ...]) -> float:
    """Billions of operations, two per multiply-accumulate; as many in each direction."""
    n, c, size, o, k, stride, padding = shape
    return 2e-9 * n * o * ((size + 2 * padding - k) // stride + 1) ** 2 * c * k * k


def cases() -> list[Case]:
    found = []
    for name, shape in SHAPES.items():
        for what in ("forward", "input gradient", "weight gradient"):
            def build(with_torch: bool, shape: tuple[int, ...] = shape, what: str = what) -> dict[str, Contender]:
                return contenders(shape, what, with_torch)

            text = f"{what}, batch {shape[0]}; torch channels_last"
            found.append(Case(f"conv {name} {what}", text, build, target=TARGET, rtol=1e-3, gflop=gflop(shape)))
    return found
