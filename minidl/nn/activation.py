"""Activation functions as modules; the formulas stand in ``minidl.nn.functional``."""
from __future__ import annotations

from typing import Any

from minidl.errors import ConfigError
from minidl.nn import functional as F
from minidl.nn.init import constant_
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.creation import full
from minidl.tensor import Tensor


class ReLU(Module):
    """max(0, x); the gradient at 0 is 0.

    ``inplace`` overwrites the input, as in torch; it is an error where the overwritten value is needed for a gradient.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        """``inplace`` when set."""
        return "inplace=True" if self.inplace else ""


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x (torch's slope 0.01; the lectures use 0.1)."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """The slope."""
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class ELU(Module):
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2015)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        """``alpha``."""
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


class GELU(Module):
    """x * Phi(x), Phi the normal distribution function; ``approximate="tanh"`` uses a tanh formula for Phi."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """Which formula."""
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x * sigmoid(x), also called swish."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.silu(input, self.inplace)

    def extra_repr(self) -> str:
        """``inplace`` when set."""
        return "inplace=True" if self.inplace else ""


class _Elementwise(Module):
    """An activation with no option but ``inplace``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """``inplace`` when set."""
        return "inplace=True" if self.inplace else ""


class Mish(_Elementwise):
    """x * tanh(softplus(x)) (Misra 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.mish(input, self.inplace)


class SELU(_Elementwise):
    """1.0507 * elu(x, alpha=1.6733) (Klambauer et al. 2017)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.selu(input, self.inplace)


class Hardtanh(Module):
    """x limited to min_val .. max_val; the gradient on the limits is 0."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if min_val >= max_val:
            raise ConfigError(f"Hardtanh: min_val must be below max_val, got {min_val} and {max_val}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """The limits."""
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


class ReLU6(Hardtanh):
    """min(max(x, 0), 6) (Howard et al. 2017, MobileNets)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """``inplace`` when set."""
        return "inplace=True" if self.inplace else ""


class Hardsigmoid(_Elementwise):
    """min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, MobileNetV3)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.hardsigmoid(input, self.inplace)


class Hardswish(_Elementwise):
    """x * hardsigmoid(x) (Howard et al. 2019, MobileNetV3)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.hardswish(input, self.inplace)


class PReLU(Module):
    """x where x > 0, else weight * x (He et al. 2015): a learned slope for all, or ``num_parameters``, one per channel."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(full((num_parameters,), init, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Slopes as at the beginning."""
        constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` (N, C, ...)."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """The number of slopes."""
        return f"num_parameters={self.num_parameters}"


class LogSigmoid(Module):
    """log(sigmoid(x)), computed without overflow."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.logsigmoid(input)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.sigmoid(input)


class Tanh(Module):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.tanh(input)


class Softplus(Module):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input`` of any shape."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """``beta`` and ``threshold``."""
        return f"beta={self.beta}, threshold={self.threshold}"


class _AlongDim(Module):
    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(x) / sum of exp(x) along ``dim``; safe for logits of any size."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input``; the shape stays."""
        return F.softmax(input, self.dim)


class LogSoftmax(_AlongDim):
    """log(softmax(x)) along ``dim``, computed without overflow."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input``; the shape stays."""
        return F.log_softmax(input, self.dim)


class Softmin(_AlongDim):
    """softmax(-x) along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input``; the shape stays."""
        return F.softmin(input, self.dim)


class GLU(_AlongDim):
    """a * sigmoid(b) of the halves a and b of the input along ``dim`` (Dauphin et al. 2016)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to ``input``, whose axis ``dim`` becomes half as long."""
        return F.glu(input, self.dim)
