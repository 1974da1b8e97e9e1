"""Initial values of parameters, with torch's names; each function fills its tensor in place and returns it.

Random numbers come from ``generator``, by default the one that ``minidl.manual_seed`` sets.  Inside ``skip_init()`` and
``shape_only()`` the functions leave their tensor as it is, and draw nothing.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

from minidl import config
from minidl.autograd import no_grad
from minidl.backend import rng
from minidl.errors import ConfigError, ShapeError
from minidl.ops.elementwise import where
from minidl.tensor import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def skip_init() -> AbstractContextManager[None]:
    """Build layers without initial values: their parameters hold whatever was in memory, and no random numbers are drawn.

    For nets whose values are loaded, or set by the net's own rule, right afterwards::

        with nn.init.skip_init():
            model = models.create("vgg16")
        model.load_state_dict(state)
    """
    return config.initialisation("skip" if config.initialisation.get() == "draw" else config.initialisation.get())


def shape_only() -> AbstractContextManager[None]:
    """Build layers whose parameters have a shape and a dtype but no memory: zeros that cannot be written.

    A net of any size takes no time and no space, to count its parameters or to learn its output's shape::

        with nn.init.shape_only():
            model = models.create("vit_h_14")
        sum(p.numel() for p in model.parameters())            # 632,045,800
        model.eval()(minidl.zeros(0, 3, 224, 224)).shape      # (0, 1000): a batch of no images costs nothing
    """
    return config.initialisation("shapes")


def _initialiser(fill: Callable[P, T]) -> Callable[P, T]:
    """Make ``fill(tensor, ...)`` return its tensor untouched where initial values are not wanted."""

    @functools.wraps(fill)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        if config.initialisation.get() != "draw":
            return args[0] if args else kwargs["tensor"]  # type: ignore[return-value]
        return fill(*args, **kwargs)

    return wrapped


def _fill(tensor: Tensor, array: Any) -> Tensor:
    """Copy a NumPy array of the tensor's shape into it."""
    with no_grad():
        return tensor.copy_(_on_device(tensor, array))


def _on_device(tensor: Tensor, array: Any) -> Tensor:
    return Tensor(tensor.F.asarray(array), tensor.F)


def _generator(generator: Any) -> Any:
    return rng.default_generator if generator is None else generator


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance of activations through a nonlinearity (He et al. 2015; SELU as torch).

    ``param`` is the negative slope of "leaky_relu" (default 0.01).

    >>> round(calculate_gain("relu") ** 2, 6)
    2.0
    """
    if nonlinearity in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "sigmoid"):
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ConfigError(f"calculate_gain: leaky_relu's param is its negative slope, a number; got {param!r}")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ConfigError(
        f"calculate_gain: unknown nonlinearity {nonlinearity!r}; known: linear, conv2d, sigmoid, tanh, relu, leaky_relu, selu"
    )


@_initialiser
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform between ``a`` and ``b``."""
    return _fill(tensor, _generator(generator).uniform(tensor.shape, a, b, tensor.dtype))


@_initialiser
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return _fill(tensor, _generator(generator).normal(tensor.shape, mean, std, tensor.dtype))


@_initialiser
def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Normal, conditioned on lying between ``a`` and ``b`` (absolute bounds, not multiples of ``std``).

    Values outside are drawn again until none is left.

    Raises:
        ConfigError: the bounds hold less than a thousandth of the distribution.
    """
    def below(x: float) -> float:
        return 0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2))))

    if not a < b or below(b) - below(a) < 1e-3:
        raise ConfigError(f"trunc_normal_: between a={a} and b={b} lies almost nothing of N({mean}, {std}^2); widen the bounds")
    generator = _generator(generator)

    def draw() -> Tensor:
        return _on_device(tensor, generator.normal(tensor.shape, mean, std, tensor.dtype))

    with no_grad():
        values = draw()
        while bool((outside := (values < a).logical_or(values > b)).any()):
            values = where(outside, draw(), values)
        return tensor.copy_(values)


@_initialiser
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every value ``val``."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Every value 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Every value 0."""
    return constant_(tensor, 0.0)


@_initialiser
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix, cut or padded with zeros to the tensor's two axes."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: expected a matrix, got shape {tuple(tensor.shape)}")
    zeros_(tensor)
    with no_grad():
        for i in range(min(tensor.shape)):
            tensor[i, i] = 1.0
    return tensor


@_initialiser
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Convolution weights (O, I, ...) that pass their input through: 1 at the kernel's centre where out = in channel."""
    if not 3 <= tensor.ndim <= 5:
        raise ShapeError(f"dirac_: expected convolution weights of 3 to 5 axes, got shape {tuple(tensor.shape)}")
    if tensor.shape[0] % groups:
        raise ShapeError(f"dirac_: groups={groups} does not divide the {tensor.shape[0]} output channels")
    per_group = tensor.shape[0] // groups
    centre = tuple(size // 2 for size in tensor.shape[2:])
    zeros_(tensor)
    with no_grad():
        for group in range(groups):
            for channel in range(min(per_group, tensor.shape[1])):
                tensor[(group * per_group + channel, channel, *centre)] = 1.0
    return tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs one output has, and how many outputs one input reaches."""
    if tensor.ndim < 2:
        raise ShapeError(
            f"init: fan in and fan out need a weight of at least 2 axes, got shape {tuple(tensor.shape)}; "
            "biases are usually filled with zeros_"
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def uniform_fan_in_(tensor: Tensor, fan_in: int, generator: Any = None) -> Tensor:
    """Uniform in ±1/sqrt(fan_in), how the biases of Linear and Conv2d start."""
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
    return uniform_(tensor, -bound, bound, generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform in ±gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / max(1, sum(_fans(tensor))))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(1, sum(_fans(tensor)))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ConfigError(f"kaiming: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, fan))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform in ±gain * sqrt(3 / fan) (He et al. 2015); ``a`` is the negative slope of "leaky_relu"."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al. 2015); ``a`` is the negative slope of "leaky_relu"."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


@_initialiser
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """A (semi-)orthogonal matrix times ``gain`` (Saxe et al. 2013), uniformly distributed; further axes count as columns.

    The shorter side's vectors are orthonormal: drawn normal, made orthogonal one by one (Gram-Schmidt, twice, which keeps
    them orthogonal to rounding error), in float64.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: expected at least 2 axes, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        return tensor
    rows, cols = tensor.shape[0], math.prod(tensor.shape[1:])
    short, long = min(rows, cols), max(rows, cols)
    with no_grad():
        basis = _on_device(tensor, _generator(generator).normal((short, long), 0.0, 1.0, "float64"))
        for i in range(short):
            for _ in range(2):
                if i:
                    basis[i] = basis[i] - basis[i] @ basis[:i].T @ basis[:i]
            basis[i] = basis[i] / (basis[i] * basis[i]).sum().sqrt()
        matrix = basis if rows < cols else basis.T
        return tensor.copy_((matrix * gain).reshape(*tensor.shape).to(tensor.dtype))
