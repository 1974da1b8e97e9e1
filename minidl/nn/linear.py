"""Identity and the fully connected layer."""
from __future__ import annotations

import math
from typing import Any

from minidl.errors import ConfigError
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.creation import empty
from minidl.tensor import Tensor


class Identity(Module):
    """Returns its input; accepts and ignores any constructor argument, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` itself."""
        return input


class Linear(Module):
    """Fully connected layer: y = x Wᵀ + b.

    Args:
        in_features, out_features: sizes of the last axis of input and output.
        bias: learn b; False leaves ``bias`` None.

    Shapes: x (*, in_features) -> (*, out_features); weight (out_features, in_features); bias (out_features,).
    Both start uniform in ±1/sqrt(in_features), as in torch.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise ConfigError(f"Linear: {name} must be a non-negative integer, got {size!r}")
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(empty((out_features, in_features), dtype=dtype, device=device))
        if bias:
            self.bias = Parameter(empty((out_features,), dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weight and bias again."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # = uniform in ±1/sqrt(fan_in)
        if self.bias is not None:
            init.uniform_fan_in_(self.bias, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to ``input`` (*, in_features)."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The layer's sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
