"""What every function demands of its arguments before it looks at their shapes and dtypes."""
from __future__ import annotations

from typing import Any

from minidl.errors import DTypeError
from minidl.tensor import Tensor


def expect_tensors(name: str, *xs: Any) -> None:
    """Raise TypeError unless each is a Tensor, or None where an optional one is missing."""
    for x in xs:
        if x is not None and not isinstance(x, Tensor):
            if type(x).__name__ == "Tensor":                              # another library's
                raise TypeError(f"{name}: expected a minidl Tensor, found a {type(x).__module__}.Tensor; convert it with "
                                "minidl.from_dlpack(), which shares its memory")
            raise TypeError(f"{name}: expected a Tensor, found {type(x).__name__}; wrap it in minidl.tensor()")


def floating(name: str, x: Tensor) -> Tensor:
    """x itself.

    Raises:
        DTypeError: x holds integers or bool.
    """
    expect_tensors(name, x)
    if x.data.dtype.kind not in "fV":
        raise DTypeError(f"{name}: needs a floating-point tensor, found {x.dtype}; convert with .float()")
    return x
