"""Winograd's minimal filtering (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308) along one axis.

F(m, r) computes m outputs of a filter of r taps with m + r - 1 products: y = A' [(G g) * (B' d)].  In two dimensions a
transform is applied to the rows and then to the columns, and the products of many tiles become (m + r - 1)^2 matrix products.
F(4, 3) needs a quarter of the multiplications of direct convolution and loses about two bits, F(2, 5) needs 9/25 and loses as
many, having the same points; F(2, 3) needs 4/9 and loses half a bit.

The gradients use the same matrices, transposed: gy goes through A, and the sums come back through G'.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minidl.kernels.cpu.emit import Kernel, Pointer, Vector

Line = Sequence[Vector]
Step = Callable[[Kernel, Line], list[Vector]]


class Winograd(NamedTuple):
    """F(outputs, taps): ``size`` products per axis, and what is done to a line of vectors on the way.

    Attributes:
        image: B' d, size -> size.
        filter: G g, taps -> size.
        result: A' m, size -> outputs.
        gradient: A g, outputs -> size.
        filter_gradient: G' m, size -> taps.
    """

    outputs: int
    taps: int
    size: int
    image: Step
    filter: Step
    result: Step
    gradient: Step
    filter_gradient: Step


# F(4, 3) at the points 0, 1, -1, 2, -2 and infinity; pairs of points share their even and odd parts.
def _image4(k: Kernel, d: Line) -> list[Vector]:
    c = k.constant
    even, odd = k.fma(c(-4), d[2], d[4]), k.fma(c(-4), d[1], d[3])
    half, twice = d[4] - d[2], d[3] - d[1]
    first = k.fma(c(4), d[0], k.fma(c(-5), d[2], d[4]))
    last = k.fma(c(4), d[1], k.fma(c(-5), d[3], d[5]))
    return [first, even + odd, even - odd, k.fma(c(2), twice, half), k.fma(c(-2), twice, half), last]


def _filter4(k: Kernel, g: Line) -> list[Vector]:
    c = k.constant
    even, odd = c(-1 / 6) * (g[0] + g[2]), c(-1 / 6) * g[1]
    even2, odd2 = k.fma(c(1 / 24), g[0], c(1 / 6) * g[2]), c(1 / 12) * g[1]
    return [c(1 / 4) * g[0], even + odd, even - odd, even2 + odd2, even2 - odd2, g[2]]


def _result4(k: Kernel, m: Line) -> list[Vector]:
    c = k.constant
    even, odd, even2, odd2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [m[0] + even + even2, k.fma(c(2), odd2, odd), k.fma(c(4), even2, even), k.fma(c(8), odd2, odd + m[5])]


def _gradient4(k: Kernel, y: Line) -> list[Vector]:
    c = k.constant
    even, odd = y[0] + y[2], y[1] + y[3]
    even2, odd2 = k.fma(c(4), y[2], y[0]), k.fma(c(4), y[3], y[1])
    return [y[0], even + odd, even - odd, k.fma(c(2), odd2, even2), k.fma(c(-2), odd2, even2), y[3]]


def _filter_gradient4(k: Kernel, m: Line) -> list[Vector]:
    c = k.constant
    even, odd = c(-1 / 6) * (m[1] + m[2]), m[2] - m[1]
    even2, odd2 = m[3] + m[4], m[3] - m[4]
    return [k.fma(c(1 / 4), m[0], k.fma(c(1 / 24), even2, even)), k.fma(c(1 / 6), odd, c(1 / 12) * odd2),
            k.fma(c(1 / 6), even2, even) + m[5]]


# F(2, 3) at the points 0, 1, -1 and infinity.
def _image2(k: Kernel, d: Line) -> list[Vector]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _filter2(k: Kernel, g: Line) -> list[Vector]:
    half = k.constant(1 / 2)
    even, odd = half * (g[0] + g[2]), half * g[1]
    return [g[0], even + odd, even - odd, g[2]]


def _result2(k: Kernel, m: Line) -> list[Vector]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _gradient2(k: Kernel, y: Line) -> list[Vector]:
    return [y[0], y[0] + y[1], y[0] - y[1], k.constant(-1) * y[1]]


def _filter_gradient2(k: Kernel, m: Line) -> list[Vector]:
    half = k.constant(1 / 2)
    even, odd = half * (m[1] + m[2]), half * (m[1] - m[2])
    return [m[0] + even, odd, even + m[3]]


# F(2, 5) at the points of F(4, 3): the image sees the same polynomials.
def _filter25(k: Kernel, g: Line) -> list[Vector]:
    c = k.constant
    even, odd = c(-1 / 6) * (g[0] + g[2] + g[4]), c(-1 / 6) * (g[1] + g[3])
    even2 = k.fma(c(1 / 24), g[0], k.fma(c(1 / 6), g[2], c(2 / 3) * g[4]))
    odd2 = k.fma(c(1 / 12), g[1], c(1 / 3) * g[3])
    return [c(1 / 4) * g[0], even + odd, even - odd, even2 + odd2, even2 - odd2, g[4]]


def _result25(k: Kernel, m: Line) -> list[Vector]:
    return [m[0] + (m[1] + m[2]) + (m[3] + m[4]), k.fma(k.constant(2), m[3] - m[4], m[1] - m[2]) + m[5]]


def _gradient25(k: Kernel, y: Line) -> list[Vector]:
    c = k.constant
    return [y[0], y[0] + y[1], y[0] - y[1], k.fma(c(2), y[1], y[0]), k.fma(c(-2), y[1], y[0]), y[1]]


def _filter_gradient25(k: Kernel, m: Line) -> list[Vector]:
    c = k.constant
    even, odd = c(-1 / 6) * (m[1] + m[2]), c(-1 / 6) * (m[1] - m[2])
    even2, odd2 = m[3] + m[4], m[3] - m[4]
    return [k.fma(c(1 / 4), m[0], k.fma(c(1 / 24), even2, even)), k.fma(c(1 / 12), odd2, odd), k.fma(c(1 / 6), even2, even),
            k.fma(c(1 / 3), odd2, odd), k.fma(c(2 / 3), even2, even) + m[5]]


F43 = Winograd(4, 3, 6, _image4, _filter4, _result4, _gradient4, _filter_gradient4)
F23 = Winograd(2, 3, 4, _image2, _filter2, _result2, _gradient2, _filter_gradient2)
F25 = Winograd(2, 5, 6, _image4, _filter25, _result25, _gradient25, _filter_gradient25)
FORMS = {(form.outputs, form.taps): form for form in (F43, F23, F25)}


def two_dimensional(k: Kernel, step: Step, rows: Sequence[Line]) -> list[list[Vector]]:
    """``step`` along the columns of a square of vectors, then along its rows."""
    columns = [step(k, column) for column in zip(*rows, strict=True)]
    return [step(k, row) for row in zip(*columns, strict=True)]


def load_square(k: Kernel, n: int, at: Pointer, row: Any, column: Any) -> list[list[Vector]]:
    """n x n vectors, ``row`` and ``column`` bytes apart."""
    square = []
    for _ in range(n):
        here, line = at, []
        for _ in range(n):
            line.append(k.load(here))
            here = here + column
        square.append(line)
        at = at + row
    return square


def store_square(k: Kernel, square: Sequence[Line], at: Pointer, row: Any, column: Any) -> None:
    """Write a square of vectors, ``row`` and ``column`` bytes apart."""
    for line in square:
        here = at
        for value in line:
            k.store(value, here)
            here = here + column
        at = at + row
