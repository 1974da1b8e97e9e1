"""Activations, softmax and dropout.

The activations work element by element: the result has the input's shape and dtype.  All but relu take floating-point tensors
only, and raise a DTypeError for others.  ``inplace`` writes the result over the input, unless the input's old value is needed to
differentiate.
"""
from __future__ import annotations

import math

from minidl.autograd.function import tensors
from minidl.backend.rng import default_generator
from minidl.errors import ConfigError, ShapeError
from minidl.nn.functional.checks import floating, same_dtype
from minidl.ops.softmax import softmax
from minidl.tensor import Tensor


def _maybe_in_place(x: Tensor, y: Tensor, inplace: bool) -> Tensor:
    """PyTorch's ``inplace``: the result is written over x, unless x's old value is needed to differentiate."""
    return x.copy_(y) if inplace and not y.requires_grad else y


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0), element by element; any shape and dtype.  The gradient at 0 is 0.  NaN stays NaN.

    Source: Nair & Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.
    """
    return _maybe_in_place(input, tensors.relu(input), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope * x, element by element.  The gradient at 0 is the slope.

    Raises:
        DTypeError: the input is not floating point.

    Source: Maas et al., "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """
    return _maybe_in_place(input, tensors.leaky_relu(floating("leaky_relu", input), slope=float(negative_slope)), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1), element by element.  The gradient at 0 is alpha.

    Raises:
        DTypeError: the input is not floating point.

    Source: Clevert et al. 2016, arXiv:1511.07289.
    """
    return _maybe_in_place(input, tensors.elu(floating("elu", input), alpha=float(alpha)), inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), element by element, Phi being the distribution function of the normal distribution.

    Args:
        approximate: "none", or "tanh" for x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), which is cheaper and at
            most 0.0005 off.

    Raises:
        DTypeError: the input is not floating point.  ConfigError: another ``approximate``.

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    if approximate not in ("none", "tanh"):
        raise ConfigError(f"gelu: approximate must be 'none' or 'tanh', found {approximate!r}")
    return tensors.gelu(floating("gelu", input), approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x), element by element; also called swish.

    Raises:
        DTypeError: the input is not floating point.

    Source: Elfwing et al. 2017, arXiv:1702.03118.
    """
    return _maybe_in_place(input, tensors.silu(floating("silu", input)), inplace)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element and without overflow; integers become float32."""
    return tensors.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)), element by element and without overflow; integers become float32."""
    return tensors.tanh(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, element by element; x itself where beta * x > threshold, where they agree.

    Raises:
        DTypeError: the input is not floating point.

    Source: Dugas et al., "Incorporating second-order functional knowledge for better option pricing", 2001.
    """
    return tensors.softplus(floating("softplus", input), beta=float(beta), threshold=float(threshold))


def softmin(input: Tensor, dim: int = -1) -> Tensor:
    """exp(-x) / sum of exp(-x) along ``dim``: the softmax of -x, of the same shape."""
    return softmax(-input, dim)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to min_val .. max_val, element by element.  The gradient is 1 strictly between them, else 0.

    Raises:
        DTypeError: the input is not floating point.  ConfigError: min_val is above max_val.

    Source: Collobert 2004, "Large scale machine learning" (thesis).
    """
    floating("hardtanh", input)
    if min_val > max_val:
        raise ConfigError(f"hardtanh: min_val {min_val} is above max_val {max_val}; exchange them")
    # Not clamp, whose gradient is 1 on the limits: an exact 0 under relu6 is common, and has none in PyTorch.
    y = tensors.masked_fill(input, input <= min_val, value=float(min_val))
    return _maybe_in_place(input, tensors.masked_fill(y, input >= max_val, value=float(max_val)), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6), element by element.  The gradient at 0 and at 6 is 0.

    Raises:
        DTypeError: the input is not floating point.

    Source: Howard et al. 2017, arXiv:1704.04861 (MobileNets).
    """
    return hardtanh(floating("relu6", input), 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6, element by element: straight lines in the sigmoid's place.

    Raises:
        DTypeError: the input is not floating point.

    Source: Howard et al. 2019, arXiv:1905.02244 (MobileNetV3), section 5.2.
    """
    return _maybe_in_place(input, relu6(floating("hardsigmoid", input) + 3.0) * (1 / 6), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x), element by element.

    Raises:
        DTypeError: the input is not floating point.

    Source: Howard et al. 2019, arXiv:1905.02244 (MobileNetV3), section 5.2.
    """
    return _maybe_in_place(input, floating("hardswish", input) * hardsigmoid(input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x)), element by element.

    Raises:
        DTypeError: the input is not floating point.

    Source: Misra 2019, arXiv:1908.08681.
    """
    return _maybe_in_place(input, floating("mish", input) * tensors.tanh(softplus(input)), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """1.0507 * elu(x, alpha=1.6733), element by element: constants that keep mean 0 and variance 1 through deep nets.

    Raises:
        DTypeError: the input is not floating point.

    Source: Klambauer et al. 2017, arXiv:1706.02515.
    """
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return _maybe_in_place(input, elu(floating("selu", input), alpha) * scale, inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight * x: a leaky ReLU whose slope is learned.

    Args:
        input: (N, C, ...), or any shape for one slope.
        weight: (C,), a slope for each channel, or (1,), the same for all.

    Raises:
        DTypeError: the input is not floating point.  ShapeError: there are not as many slopes as channels.

    Source: He et al. 2015, arXiv:1502.01852.
    """
    floating("prelu", input)
    same_dtype("prelu", input, weight)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.numel() not in (1, channels):
        raise ShapeError(f"prelu: weight has shape {weight.shape}; input {input.shape} needs one slope, or one for each of its "
                         f"{channels} channels")
    slopes = weight.reshape(*[-1 if axis == 1 else 1 for axis in range(input.ndim)]) if weight.numel() > 1 else weight.reshape(())
    return tensors.where(input > 0, input, input * slopes)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of the input along ``dim``, which becomes half as long.

    Raises:
        DTypeError: the input is not floating point.  ShapeError: the axis has an odd length, or there is none.

    Source: Dauphin et al. 2016, arXiv:1612.08083.
    """
    floating("glu", input)
    if not input.ndim or input.shape[dim] % 2:
        raise ShapeError(f"glu: axis {dim} of shape {input.shape} has no two equal halves")
    value, gate = input.split(input.shape[dim] // 2, dim) if input.shape[dim] else (input, input)
    return value * tensors.sigmoid(gate)


def logsigmoid(input: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))), element by element and without overflow: -softplus(-x).

    Raises:
        DTypeError: the input is not floating point.
    """
    return -tensors.softplus(-floating("logsigmoid", input), beta=1.0, threshold=math.inf)


def _check_p(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ConfigError(f"{name}: p is the probability of dropping an element and must be between 0 and 1, found {p}")


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is dropped (set to 0) with probability p, and the others are divided by 1 - p.

    The mask comes from minidl's counter-based generator: the same seed and step give the same bits on every device, and the
    backward pass draws the mask again instead of storing it.  Outside of training the result is the input itself.

    Args:
        input: any shape; floating point.
        p: probability of dropping, from 0 to 1; with 1 the result is 0.

    Raises:
        ConfigError: p is no probability.  DTypeError: the input is not floating point.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """
    _check_p("dropout", p)
    floating("dropout", input)
    if not training or p == 0:
        return input
    return _maybe_in_place(input, tensors.dropout(input, p=float(p), key=default_generator.next_key()), inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, whole channels of (N, C, H, W) or (C, H, W) are dropped with probability p, the others divided by 1 - p.

    Raises:
        ConfigError: p is no probability.  ShapeError: the input has neither 3 nor 4 axes.  DTypeError: it is not floating
            point.

    Source: Tompson et al. 2015, arXiv:1411.4280.
    """
    _check_p("dropout2d", p)
    floating("dropout2d", input)
    if input.ndim not in (3, 4):
        raise ShapeError(f"dropout2d: expected (N, C, H, W) or (C, H, W), found shape {input.shape}")
    if not training or p == 0:
        return input
    ones = input.F.ones((*input.shape[:-2], 1, 1), input.dtype)
    mask = tensors.dropout(Tensor(ones, input.F), p=float(p), key=default_generator.next_key())
    return _maybe_in_place(input, input * mask, inplace)
