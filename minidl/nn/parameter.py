"""Parameter and Buffer: tensors that a Module registers when they are assigned to one of its attributes."""
from __future__ import annotations

from minidl import config
from minidl.autograd.node import Leaf
from minidl.errors import DTypeError
from minidl.tensor import Tensor


class Parameter(Tensor):
    """A tensor that is trained: a leaf with ``requires_grad`` set, found by ``Module.parameters()``.

    It shares the memory of ``data`` (but not in an ``nn.init.shape_only()`` block) and leaves its graph.

    Raises:
        DTypeError: integer or bool data with ``requires_grad``.
    """

    __slots__ = ()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        _expect_tensor("Parameter", data)
        if requires_grad and data.dtype.kind not in "fV":
            raise DTypeError(
                f"Parameter: found {data.dtype}; only floating-point tensors have gradients, "
                "convert with .float() or pass requires_grad=False"
            )
        array = data.data
        if config.initialisation.get() == "shapes":  # one zero, repeated by strides of 0: any shape in four bytes
            array = data.F.broadcast_to(data.F.zeros((), data.dtype), shape=data.shape)
        super().__init__(array, data.F, Leaf(data.F, data.shape) if requires_grad else None)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class Buffer(Tensor):
    """A tensor that belongs to a module's state but is not trained, as batch norm's running statistics."""

    __slots__ = ()

    def __init__(self, data: Tensor) -> None:
        _expect_tensor("Buffer", data)
        super().__init__(data.data, data.F, None)

    def __repr__(self) -> str:
        return "Buffer containing:\n" + super().__repr__()


def _expect_tensor(name: str, data: object) -> None:
    if not isinstance(data, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(data).__name__}; wrap it in minidl.tensor()")
