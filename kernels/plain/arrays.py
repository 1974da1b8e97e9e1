"""Small helpers that several families of plain kernels share."""
from typing import Any

Array = Any  # numpy.ndarray or cupy.ndarray


def wide(xp: Any, dtype: Any) -> Any:
    """The dtype to compute in: float32 for float16 and bfloat16 (whose kind is V), else the dtype itself."""
    return xp.dtype(xp.float32) if dtype == xp.float16 or dtype.kind == "V" else xp.dtype(dtype)


def widen(xp: Any, *arrays: Array | None) -> tuple[Any, ...]:
    """The arrays in the dtype to compute in; None stays None, and nothing is copied that needs no conversion."""
    return tuple(None if a is None else a.astype(wide(xp, a.dtype), copy=False) for a in arrays)


def window(start: int, count: int, step: int) -> slice:
    """``count`` positions from ``start``, ``step`` apart."""
    return slice(start, start + (count - 1) * step + 1, step)


def blocks(n: int, bytes_per_item: int, size: int = 1 << 20) -> list[slice]:
    """Axis of length n in pieces of about ``size`` bytes: several passes over a piece then read the cache, not memory."""
    step = max(1, size // max(1, bytes_per_item))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
