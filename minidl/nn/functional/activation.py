"""Activations, softmax and dropout.

The activations work element by element: the result has the input's shape and dtype.  All but relu take floating-point tensors
only, and raise a DTypeError for others.  ``inplace`` writes the result over the input, unless the input's old value is needed to
differentiate.
"""
from __future__ import annotations

from minidl.autograd.function import tensors
from minidl.backend.rng import default_generator
from minidl.errors import ConfigError, ShapeError
from minidl.nn.functional.checks import floating
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
