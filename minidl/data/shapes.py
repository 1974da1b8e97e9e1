"""``shapes10`` and ``shapes20``: generated images of geometric shapes, with boxes; no file, no network.

Every image is 32x32x3: a textured background with a little clutter, and one shape of random colour, size, place and
rotation, drawn anti-aliased from its signed distance function.  Shape and background swap their brightness at random,
so no pixel's value tells the class: a linear classifier stays far behind even a small convolutional net.

All randomness is raw Philox bits (a stream that NumPy keeps for ever), turned into numbers here; image ``i`` depends
on (seed, split, i) only, so a larger set begins with the smaller one.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from minidl.data.base import Array, ArrayDataset
from minidl.data.distances import SHAPES, box
from minidl.data.registry import dataset_info
from minidl.errors import ConfigError

SIZE = 32
SHIFTS = ("invert", "night", "sketch", "blur", "noise")
_PARAMETERS = 48  # random numbers per image, besides its noise
_CHUNK = 250  # images drawn at once: 1 MB per float32 plane, which a cache holds
_STREAMS = {"train": 1, "test": 2, "val": 3}


class Draw(Protocol):
    """The next ``count`` random numbers of each image, between ``low`` and ``high``: (n, count, 1, 1)."""

    def __call__(self, low: float = 0.0, high: float = 1.0, count: int = 1) -> Array: ...


def load_shapes(
    name: str = "shapes10",
    split: str = "train",
    *,
    size: int | None = None,
    seed: int = 0,
    domain_shift: str | None = None,
    clutter: int = 2,
) -> ArrayDataset:
    """Generate a set of shapes: uint8 images (N, 3, 32, 32), balanced labels, and ``boxes``.

    Args:
        name: ``"shapes10"`` or ``"shapes20"`` (the ten, and ten more).
        split: ``"train"``, ``"test"`` or ``"val"``: different images of the same kind.
        size: how many images; by default 8,000/2,000 (shapes10) or 16,000/4,000 (shapes20).
        seed: another seed, another set.
        domain_shift: the same scenes (labels and boxes included) in another style, for domain adaptation: ``"invert"``
            (negative), ``"night"`` (dark, blue, grainy), ``"sketch"`` (dark outline on paper), ``"blur"``, ``"noise"``.
        clutter: how many small bars and dots lie about (0 to 4).

    Raises:
        ConfigError: an unknown name, split or shift, or a number out of its range.
    """
    info = dataset_info(name)
    if info.kind != "generated":
        raise ConfigError(f"shapes: {name!r} is not generated; expected 'shapes10' or 'shapes20'")
    if split not in _STREAMS:
        raise ConfigError(f"{name}: no split is called {split!r}; expected 'train', 'test' or 'val'")
    if size is None:
        size = info.counts["train" if split == "train" else "test"]
    if size < 1 or not 0 <= seed < 2**64 or not 0 <= clutter <= 4:
        raise ConfigError(
            f"{name}: expected size >= 1, 0 <= seed < 2**64 and clutter from 0 to 4, got size={size}, seed={seed}, "
            f"clutter={clutter}"
        )
    if domain_shift not in (None, *SHIFTS):
        raise ConfigError(f"{name}: no domain shift is called {domain_shift!r}; expected one of {', '.join(SHIFTS)}")
    names = tuple(SHAPES)[: info.num_classes]
    # Whole runs of classes, so that the labels of a set cut short are those of the longer one.
    numbers = _uniform(seed, _STREAMS[split], 0, (size + -size % len(names), _PARAMETERS))
    labels = _labels(numbers[:, 0], len(names))[:size]
    images = np.empty((size, 3, SIZE, SIZE), np.uint8)
    boxes = np.empty((size, 4), np.float32)
    # Each chunk's noise is read from its place in one stream: 3 bytes of grain per pixel, 8 per 64-bit word.
    noise = np.random.Philox(key=np.array([seed, (_STREAMS[split] << 8) + 1], np.uint64))
    for start in range(0, size, _CHUNK):
        part = slice(start, min(start + _CHUNK, size))
        grain = _grain(noise, part.stop - part.start)
        images[part], boxes[part] = _draw(numbers[part], labels[part], names, grain, clutter, domain_shift)
    shift = f"+{domain_shift}" if domain_shift else ""
    return ArrayDataset(images, labels, names, f"{name}{shift}/{split}", boxes)


def _uniform(seed: int, stream: int, part: int, shape: tuple[int, ...]) -> Array:
    """float32 numbers in [0, 1): the top 24 bits of raw Philox words."""
    bits = np.random.Philox(key=np.array([seed, (stream << 8) + part], np.uint64))
    words = bits.random_raw(math.prod(shape))
    return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def _grain(bits: np.random.Philox, n: int) -> Array:
    """Noise of mean 0 and standard deviation 1, (n, 3, 32, 32): a sum of two bytes, for want of a bell."""
    count = n * 3 * SIZE * SIZE
    raw = np.asarray(bits.random_raw(count // 4), "<u8").view(np.uint8).reshape(n, 2, -1)
    total = raw[:, 0].astype(np.float32) + raw[:, 1]
    # Each byte has variance (256**2 - 1) / 12.
    return ((total - 255) * np.float32(math.sqrt(6 / (256**2 - 1)))).reshape(n, 3, SIZE, SIZE)


def _labels(numbers: Array, classes: int) -> Array:
    """Every run of ``classes`` images has each class once, in the order of their random numbers: balanced."""
    return np.argsort(numbers.reshape(-1, classes), axis=1, kind="stable").reshape(-1).astype(np.int64)


def _draw(
    u: Array, labels: Array, names: tuple[str, ...], grain: Array, clutter: int, shift: str | None
) -> tuple[Array, Array]:
    """Images (n, 3, 32, 32) uint8 and boxes (n, 4) from an image's 48 numbers and its grain."""
    n = len(u)
    column = iter(range(1, _PARAMETERS))

    def draw(low: float = 0.0, high: float = 1.0, count: int = 1) -> Array:
        values = u[:, [next(column) for _ in range(count)]]
        return (values * np.float32(high - low) + np.float32(low)).reshape(n, count, 1, 1)

    at = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    y, x = at[None, :, None], at[None, None, :]

    radius = draw(8, 13)[:, 0]
    # The shape fits its circle, so it lies inside the image; a pixel of margin keeps the edge soft.
    room = np.float32(SIZE / 2 - 1) - radius
    cx = np.float32(SIZE / 2) + room * draw(-1, 1)[:, 0]
    cy = np.float32(SIZE / 2) + room * draw(-1, 1)[:, 0]
    angle = draw(-math.pi, math.pi)[:, 0]
    sx, sy = _turned(x - cx, y - cy, angle)
    sx, sy = sx / radius, sy / radius
    distance = np.empty((n, SIZE, SIZE), np.float32)
    for label, name in enumerate(names):
        which = np.flatnonzero(labels == label)
        distance[which] = SHAPES[name](sx[which], sy[which])
    distance = (distance * radius)[:, None]  # in pixels
    cover = np.clip(np.float32(0.5) - distance, 0, 1)

    # Each channel of the shape is 0.3 to 0.7 away from the background's, wrapping round in [0, 1]: never invisible.
    background = draw(count=3)
    colour = (background + draw(0.3, 0.7, 3)) % np.float32(1)
    scene = background + _texture(draw, x, y)
    for _ in range(clutter):
        scene = _add_clutter(scene, draw, x, y)
    shade = colour + _texture(draw, x, y) * np.float32(0.6)
    scene += cover * (shade - scene)
    amount = draw(0.01, 0.05)
    if shift is not None:
        scene, amount = _shifted(scene, distance, amount, shift)
    scene = scene + grain * amount
    images = np.clip(np.rint(scene * np.float32(255)), 0, 255).astype(np.uint8)
    return images, _boxes(cover[:, 0] > np.float32(0.5))


def _turned(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Coordinates in a frame turned by ``angle`` radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _texture(draw: Draw, x: Array, y: Array) -> Array:
    """A slope and a wave in random directions, (n, 1, 32, 32), within about +-0.25."""
    angle, tilt = draw(-math.pi, math.pi)[:, 0], draw(0, 0.15)
    slope = _turned(x - np.float32(SIZE / 2), y - np.float32(SIZE / 2), angle)[0] / np.float32(SIZE / 2)
    angle, length, phase = draw(-math.pi, math.pi)[:, 0], draw(5, 16)[:, 0], draw(0, 2 * math.pi)[:, 0]
    height = draw(0, 0.1)
    wave = np.sin(_turned(x, y, angle)[0] * (np.float32(2 * math.pi) / length) + phase)
    return tilt * slope[:, None] + height * wave[:, None]


def _add_clutter(scene: Array, draw: Draw, x: Array, y: Array) -> Array:
    """A small bar or dot of random brightness, anywhere."""
    cx, cy, angle, long = draw(0, SIZE)[:, 0], draw(0, SIZE)[:, 0], draw(-math.pi, math.pi)[:, 0], draw(0.5, 4)[:, 0]
    bx, by = _turned(x - cx, y - cy, angle)
    cover = np.clip(np.float32(0.5) - box(np.maximum(np.abs(bx) - long, 0), by, 0.8, 0.8), 0, 1)[:, None]
    return scene + cover * (draw() - scene)


def _shifted(scene: Array, distance: Array, amount: Array, shift: str) -> tuple[Array, Array]:
    """The scene in another style, and how much grain to add."""
    if shift == "invert":
        return 1 - scene, amount
    if shift == "night":
        tint = np.array([0.25, 0.3, 0.5], np.float32).reshape(3, 1, 1)
        return np.clip(scene, 0, 1) * tint, amount + np.float32(0.04)
    if shift == "sketch":
        # Grey paper that keeps a fifth of the scene's contrast, and a pencil line of 1.5 pixels along the outline.
        paper = np.float32(0.85) + np.float32(0.2) * (scene.mean(axis=1, keepdims=True) - np.float32(0.5))
        line = np.clip(np.float32(1.25) - np.abs(distance), 0, 1)
        return np.repeat(paper + line * (np.float32(0.15) - paper), 3, axis=1), amount
    if shift == "blur":
        for axis in (2, 3):
            for _ in range(2):  # twice [1 2 1] / 4 each way: a bell of 1 pixel
                padded = np.pad(scene, [(0, 0)] * 2 + [(1, 1) if a == axis else (0, 0) for a in (2, 3)], mode="edge")
                low, mid, high = (np.take(padded, np.arange(k, k + SIZE), axis=axis) for k in range(3))
                scene = (low + 2 * mid + high) / np.float32(4)
        return scene, amount
    return scene, amount + np.float32(0.15)


def _boxes(mask: Array) -> Array:
    """The tight boxes (x1, y1, x2, y2) of masks (n, H, W), right and lower edges exclusive."""

    def span(axis: int) -> tuple[Array, Array]:
        any_along: Array = np.any(mask, axis=axis)
        return any_along.argmax(axis=1), any_along.shape[1] - any_along[:, ::-1].argmax(axis=1)

    x1, x2 = span(1)
    y1, y2 = span(2)
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)
