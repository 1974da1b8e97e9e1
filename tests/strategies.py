"""Hypothesis strategies: shapes that broadcast, arrays held in memory every which way, valid indices, convolutions that fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.kernels.cases import LAYOUTS, arrange

seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(LAYOUTS)


def shapes(
    min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 4
) -> st.SearchStrategy[tuple[int, ...]]:
    """Small shapes, those of size 0 and of no axes among them."""
    return hnp.array_shapes(min_dims=max(min_dims, 0), max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcasting(count: int = 2) -> st.SearchStrategy[Any]:
    """(shapes, the shape they broadcast to), size 0 included."""
    return hnp.mutually_broadcastable_shapes(num_shapes=count, max_dims=3, min_side=0, max_side=3)


@st.composite
def arrays(draw: Any, shape: Any = None, dtype: str = "float64") -> np.ndarray:
    """Normal numbers of a shape (or of any), held in memory in one of several ways."""
    shape = draw(shapes() if shape is None else shape if isinstance(shape, st.SearchStrategy) else st.just(shape))
    values = np.random.default_rng(draw(seeds)).standard_normal(shape)
    return arrange(np.asarray(values).astype(dtype), draw(layouts))


def basic_indices(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Integers, slices, None and ...; steps above 0 only, as PyTorch has them."""

    def forward(index: Any) -> bool:
        return all(
            not isinstance(i, slice) or i.step is None or i.step > 0
            for i in (index if isinstance(index, tuple) else (index,))
        )

    return hnp.basic_indices(shape, allow_newaxis=True, max_dims=4).filter(forward)


@st.composite
def advanced_indices(draw: Any, shape: tuple[int, ...]) -> Any:
    """Integer arrays for the first axes, or a mask; ``shape`` has at least one axis and no axis of length 0."""
    if draw(st.booleans()):
        return np.random.default_rng(draw(seeds)).random(shape[: draw(st.integers(1, len(shape)))]) < 0.5
    count = draw(st.integers(1, len(shape)))
    of = draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=3))
    rng = np.random.default_rng(draw(seeds))
    return tuple(rng.integers(-n, n, of) for n in shape[:count])


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    """Shapes and options of a convolution that fits: {"x", "w", "stride", "padding", "dilation", "groups"}."""
    groups = draw(st.integers(1, 2))
    kernel, stride, dilation, padding = (
        [draw(st.integers(low, high)) for _ in range(2)] for low, high in ((1, 3), (1, 3), (1, 2), (0, 2))
    )
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [draw(st.integers(max(1, r - 2 * p), max(1, r - 2 * p) + 2)) for r, p in zip(reach, padding, strict=True)]
    channels, filters = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    pairs = {
        name: draw(st.sampled_from((tuple(v), v[0]))) if v[0] == v[1] else tuple(v)
        for name, v in (("stride", stride), ("padding", padding), ("dilation", dilation))
    }
    return {
        "x": (draw(st.integers(1, 2)), channels, *size),
        "w": (filters, channels // groups, *kernel),
        "groups": groups,
        **pairs,
    }
