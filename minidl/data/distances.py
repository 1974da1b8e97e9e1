"""Signed distance functions of the shapes: negative inside, positive outside, zero on the outline.

Each takes the coordinates ``x`` and ``y`` (float32 arrays of one shape; y points down) in a frame where the shape fits
the unit circle, and returns the distance to its outline in the same unit.  With distances, union is ``minimum``,
intersection ``maximum`` and difference ``maximum(a, -b)``; an anti-aliased edge is a distance clipped to one pixel; an
outline is a narrow band of distances (Hart, "Sphere tracing", 1996, uses them the same way in three dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Points = Sequence[tuple[float, float]]


def polygon(points: Points) -> Callable[[Array, Array], Array]:
    """The distance function of the polygon with these corners, convex or not, in either direction.

    The distance is the least one to an edge; a point is inside if a ray from it crosses an odd number of edges.
    """

    def distance(x: Array, y: Array) -> Array:
        least = np.full(x.shape, np.inf, np.float32)
        inside = np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            ex, ey = bx - ax, by - ay
            px, py = x - np.float32(ax), y - np.float32(ay)
            along = np.clip((px * np.float32(ex) + py * np.float32(ey)) / np.float32(ex * ex + ey * ey), 0, 1)
            np.minimum(least, (px - along * np.float32(ex)) ** 2 + (py - along * np.float32(ey)) ** 2, out=least)
            if ey:
                crosses = (y >= np.float32(min(ay, by))) & (y < np.float32(max(ay, by)))
                inside ^= crosses & (px < py * np.float32(ex / ey))
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(least)

    return distance


def regular(corners: int, inner: float | None = None, radius: float = 1.0) -> list[tuple[float, float]]:
    """The corners of a regular polygon, or of a star if the radius of its inner corners is given; one points up."""
    count = corners if inner is None else 2 * corners
    return [
        (r * math.sin(2 * math.pi * k / count), -r * math.cos(2 * math.pi * k / count))
        for k in range(count)
        for r in [radius if inner is None or k % 2 == 0 else inner]
    ]


def disc(x: Array, y: Array, radius: float, cx: float = 0.0, cy: float = 0.0) -> Array:
    """The distance to a disc."""
    return np.sqrt((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2) - np.float32(radius)


def box(x: Array, y: Array, half_width: float, half_height: float, cx: float = 0.0, cy: float = 0.0) -> Array:
    """The distance to an upright rectangle."""
    dx = np.abs(x - np.float32(cx)) - np.float32(half_width)
    dy = np.abs(y - np.float32(cy)) - np.float32(half_height)
    return np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2) + np.minimum(np.maximum(dx, dy), 0)


def circle(x: Array, y: Array) -> Array:
    return disc(x, y, 0.86)


def square(x: Array, y: Array) -> Array:
    return box(x, y, 0.7, 0.7)


def cross(x: Array, y: Array) -> Array:
    return np.minimum(box(x, y, 0.92, 0.28), box(x, y, 0.28, 0.92))


def ring(x: Array, y: Array) -> Array:
    return np.abs(disc(x, y, 0.72)) - np.float32(0.2)


def heart(x: Array, y: Array) -> Array:
    """A square on its corner, and a disc on each of its upper sides."""
    reach, middle = 0.77, 0.17
    ax = np.abs(x)
    diamond = (ax + np.abs(y - np.float32(middle)) - np.float32(reach)) / np.float32(math.sqrt(2))
    return np.minimum(diamond, disc(ax, y, reach / math.sqrt(2), reach / 2, middle - reach / 2))


def crescent(x: Array, y: Array) -> Array:
    return np.maximum(disc(x, y, 0.9), -disc(x, y, 0.72, 0.42))


def bar(x: Array, y: Array) -> Array:
    return box(x, y, 0.95, 0.24)


def ellipse(x: Array, y: Array) -> Array:
    """An implicit function over its own slope: the distance to first order, exact enough for one pixel of edge."""
    a, b = np.float32(0.95), np.float32(0.5)
    value = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2)
    return value * (value - 1) / np.maximum(slope, np.float32(1e-6))


def semicircle(x: Array, y: Array) -> Array:
    return np.maximum(disc(x, y, 0.9, 0, 0.4), y - np.float32(0.4))


def pacman(x: Array, y: Array) -> Array:
    """A disc without a quarter."""
    wedge = (np.abs(y) - x) / np.float32(math.sqrt(2))
    return np.maximum(disc(x, y, 0.9), -wedge)


def frame(x: Array, y: Array) -> Array:
    return np.abs(box(x, y, 0.58, 0.58)) - np.float32(0.16)


def drop(x: Array, y: Array) -> Array:
    """A disc and its two tangents from a point above it."""
    reach, radius = 1.2, 0.55
    cosine, sine = math.sqrt(1 - (radius / reach) ** 2), radius / reach
    cone = np.float32(cosine) * np.abs(x) - np.float32(sine) * (y + np.float32(0.85))
    # The cone counts down to where the tangents touch; below it is the disc.
    return np.minimum(disc(x, y, radius, 0, 0.35), np.maximum(cone, y - np.float32(0.35 - radius * sine)))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": circle,
    "square": square,
    "triangle": polygon(regular(3)),
    "star": polygon(regular(5, 0.4)),
    "cross": cross,
    "ring": ring,
    "heart": heart,
    "crescent": crescent,
    "arrow": polygon([(0, -0.95), (0.7, -0.1), (0.26, -0.1), (0.26, 0.9), (-0.26, 0.9), (-0.26, -0.1), (-0.7, -0.1)]),
    "bar": bar,
    "ellipse": ellipse,
    "semicircle": semicircle,
    "pacman": pacman,
    "frame": frame,
    "drop": drop,
    "ell": polygon([(-0.55, -0.8), (-0.05, -0.8), (-0.05, 0.3), (0.6, 0.3), (0.6, 0.78), (-0.55, 0.78)]),
    "tee": polygon(
        [
            (-0.72, -0.68),
            (0.72, -0.68),
            (0.72, -0.24),
            (0.22, -0.24),
            (0.22, 0.88),
            (-0.22, 0.88),
            (-0.22, -0.24),
            (-0.72, -0.24),
        ]
    ),
    "hourglass": polygon([(-0.6, -0.78), (0.6, -0.78), (0.12, 0), (0.6, 0.78), (-0.6, 0.78), (-0.12, 0)]),
    "pentagon": polygon(regular(5, radius=0.95)),
    "chevron": polygon([(-0.8, 0.05), (0, -0.75), (0.8, 0.05), (0.8, 0.58), (0, -0.22), (-0.8, 0.58)]),
}
