"""Helpers for parameters and nets: gradient clipping, one flat vector, folding batch norm into a convolution."""
from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

from minidl.autograd import increment_version, no_grad
from minidl.errors import ConfigError, NumericsError, ShapeError
from minidl.nn.conv import Conv2d
from minidl.nn.norm import BatchNorm2d
from minidl.nn.parameter import Parameter
from minidl.ops.creation import tensor, zeros
from minidl.ops.shape import cat
from minidl.tensor import Tensor


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    return [p.grad for p in parameters if p.grad is not None]


def _by_backend(grads: list[Tensor]) -> list[tuple[Any, list[Tensor]]]:
    """(backend, its gradients of one dtype), for verbs that take all of them at once."""
    groups: dict[Any, list[Tensor]] = {}
    for grad in grads:
        groups.setdefault((grad.F, grad.dtype), []).append(grad)
    return [(F, group) for (F, _), group in groups.items()]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients together, in place, so that their joint norm is at most ``max_norm`` (Pascanu et al. 2013).

    Args:
        parameters: those without a gradient are skipped.
        norm_type: which norm; ``math.inf`` is the largest absolute value.
        error_if_nonfinite: raise when the norm is NaN or infinite, instead of spreading it.

    Returns:
        The norm before clipping, a 0-d tensor.

    Raises:
        ConfigError: ``max_norm`` is negative or ``norm_type`` not positive.
        NumericsError: see ``error_if_nonfinite``.
    """
    if not max_norm >= 0 or not norm_type > 0:
        raise ConfigError(
            f"clip_grad_norm_: max_norm must be at least 0 and norm_type above 0, found {max_norm} and {norm_type}"
        )
    grads = _gradients(parameters)
    if not grads:
        return tensor(0.0)
    with no_grad():
        if norm_type == 2:
            # In float32 or wider: the square of a float16 gradient is soon too large for it.
            sums = [Tensor(F.square_sum([g.data for g in group]), F) for F, group in _by_backend(grads)]
            total = sum((s.to(sums[0].device) for s in sums[1:]), sums[0]).sqrt().to(grads[0].dtype)
        else:
            total = zeros((), dtype=grads[0].dtype, device=grads[0].device)
            for grad in grads:
                if norm_type == math.inf:
                    total = total.maximum(grad.abs().max().to(total.device))
                else:
                    total = total + (grad.abs() ** norm_type).sum().to(total.device)
            total = total if norm_type == math.inf else total ** (1 / norm_type)
        norm = float(total)
        if error_if_nonfinite and not math.isfinite(norm):
            raise NumericsError(
                f"clip_grad_norm_: the norm of the gradients is {norm}; a gradient holds NaN or infinity "
                "(lower the learning rate, or look with minidl.autograd.detect_anomaly)"
            )
        scale = max_norm / (norm + 1e-6)  # torch's 1e-6: no division by zero
        if not scale >= 1:  # NaN spreads, as in torch
            for F, group in _by_backend(grads):
                F.scale_([g.data for g in group], factor=scale)
                increment_version(group)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clip every gradient's values, in place, to the range ±``clip_value``.

    Raises:
        ConfigError: ``clip_value`` is negative.
    """
    if not clip_value >= 0:
        raise ConfigError(f"clip_grad_value_: clip_value must be at least 0, found {clip_value}")
    with no_grad():
        for grad in _gradients(parameters):
            grad.copy_(grad.clip(-clip_value, clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened and joined into one vector."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy a vector made by ``parameters_to_vector`` back into the parameters.

    Raises:
        ShapeError: the vector is of another length.
    """
    params = list(parameters)
    size = sum(p.numel() for p in params)
    if tuple(vec.shape) != (size,):
        raise ShapeError(f"vector_to_parameters: the parameters hold {size} values, the vector has shape {tuple(vec.shape)}")
    start = 0
    with no_grad():
        for p in params:
            p.copy_(vec[start : start + p.numel()].reshape(*p.shape))
            start += p.numel()


def fuse_conv_bn_eval(conv: Conv2d, bn: BatchNorm2d) -> Conv2d:
    """One convolution that computes what ``conv`` followed by ``bn`` computes in evaluation mode.

    With s = weight / sqrt(running_var + eps):  w' = s * w,  b' = s * (b - running_mean) + bias.

    Raises:
        ConfigError: a layer is in training mode, or the batch norm keeps no running statistics.
        ShapeError: the batch norm is not for as many channels.
    """
    if conv.training or bn.training:
        raise ConfigError("fuse_conv_bn_eval: both layers must be in evaluation mode; call .eval() first")
    if bn.running_mean is None or bn.running_var is None:
        raise ConfigError("fuse_conv_bn_eval: the batch norm keeps no running statistics")
    if bn.num_features != conv.out_channels:
        raise ShapeError(f"fuse_conv_bn_eval: {bn.num_features} features do not follow {conv.out_channels} output channels")
    fused: Any = copy.deepcopy(conv)
    with no_grad():
        scale = (bn.running_var + bn.eps) ** -0.5
        if bn.weight is not None:
            scale = scale * bn.weight
        shift = -bn.running_mean if conv.bias is None else conv.bias - bn.running_mean
        shift = shift * scale
        if bn.bias is not None:
            shift = shift + bn.bias
        fused.weight = Parameter(conv.weight * scale.reshape(-1, 1, 1, 1), conv.weight.requires_grad)
        fused.bias = Parameter(shift, conv.weight.requires_grad)
    return fused
