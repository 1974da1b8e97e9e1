"""Normalisation."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidl.autograd import increment_version
from minidl.autograd.function import tensors
from minidl.errors import DeviceError, ShapeError
from minidl.nn.functional.checks import floating
from minidl.tensor import Tensor


def _check_channels(name: str, x: Tensor, **vectors: Tensor | None) -> None:
    floating(name, x)
    channels = x.data.shape[1:2]
    if not channels:
        raise ShapeError(f"{name}: expected (N, C, ...), found shape {x.shape}")
    for which, t in vectors.items():
        if t is not None and t.data.shape != channels:
            raise ShapeError(f"{name}: {which} has shape {t.shape}, the input {x.shape} has {x.shape[1]} channels (axis 1); "
                             "check num_features")


def batch_norm(input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
               unbiased: bool = True, *, relu: bool = False, residual: Tensor | None = None) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the statistics of each channel.

    In training, mean and var are those of the batch over all axes but the channels (var divides by the number of elements
    m), and the running statistics move by ``momentum`` towards them, in place.  In evaluation, the running ones are used.

    Args:
        input: (N, C, ...).
        running_mean, running_var, weight, bias: (C,) or None.
        unbiased: the running variance takes m / (m - 1) times the batch's, as PyTorch and the paper's inference do; False
            keeps m as the divisor.
        relu, residual: return max(result + residual, 0), or max(result, 0); this is one pass over memory.

    Raises:
        ShapeError: no channels, unequal numbers of them, or a training batch with one value per channel.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """
    _check_channels("batch_norm", input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    fused = relu and (residual is None or (residual.shape, residual.dtype) == (input.shape, input.dtype))
    if not training:
        if running_mean is None or running_var is None:
            raise ShapeError("batch_norm: evaluation needs running_mean and running_var; pass them, or training=True")
        if fused:
            return tensors.batch_norm_relu_inference(input, weight, bias, running_mean, running_var, residual, eps=eps)
        return _add_relu(tensors.batch_norm_inference(input, weight, bias, running_mean, running_var, eps=eps), relu, residual)
    m = input.numel() // max(input.shape[1], 1)
    if m == 1:
        raise ShapeError(f"batch_norm: a training batch of shape {input.shape} has one value for each channel, whose "
                         "variance is 0; use a larger batch, or eval()")
    if fused:
        y, mean, invstd = tensors.batch_norm_relu(input, weight, bias, residual, eps=eps)
    else:
        y, mean, invstd = tensors.batch_norm(input, weight, bias, eps=eps)
    if running_mean is not None and running_var is not None and m:
        _move(running_mean, running_var, mean, invstd, count=m, momentum=momentum, eps=eps, unbiased=unbiased)
    return y if fused else _add_relu(y, relu, residual)


def _move(running_mean: Tensor, running_var: Tensor, mean: Tensor, invstd: Tensor, **options: Any) -> None:
    for running in (running_mean, running_var):
        if running.F is not mean.F:
            raise DeviceError(f"batch_norm: input on {mean.device}, running statistics on {running.device}; move one with .to()")
    mean.F.running_stats_(running_mean.data, running_var.data, mean.data, invstd.data, **options)
    increment_version(running_mean, running_var)


def _add_relu(y: Tensor, relu: bool, residual: Tensor | None) -> Tensor:
    if residual is not None:
        y = y + residual
    return tensors.relu(y) if relu else y


def instance_norm(input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the pixels of each channel of each sample.

    Args:
        input: (N, C, ...).
        weight, bias: (C,) or None.

    Raises:
        ShapeError: no channels, unequal numbers of them, or one pixel, whose variance is 0.

    Source: Ulyanov et al. 2016, arXiv:1607.08022.
    """
    _check_channels("instance_norm", input, weight=weight, bias=bias)
    if math.prod(input.shape[2:]) == 1:
        raise ShapeError(f"instance_norm: input {input.shape} has one pixel for each channel, whose variance is 0")
    return group_norm(input, input.shape[1], weight, bias, eps)


def layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose shape is ``normalized_shape``.

    Args:
        input: (..., *normalized_shape), floating point.
        weight, bias: of shape ``normalized_shape``, or None.

    Raises:
        ShapeError: the input does not end in that shape, or weight or bias do not have it.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """
    floating("layer_norm", input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or input.shape[-len(shape):] != shape:
        raise ShapeError(f"layer_norm: normalized_shape is {shape}, which the input's shape {input.shape} does not end in")
    for which, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != shape:
            raise ShapeError(f"layer_norm: {which} has shape {t.shape}; it must be {shape}")
    return tensors.layer_norm(input, weight, bias, ndim=len(shape), eps=eps)


def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """x / sqrt(mean of x^2 + eps) * weight over the last axes, whose shape is ``normalized_shape``: a layer norm without mean.

    Args:
        input: (..., *normalized_shape), floating point.
        weight: of shape ``normalized_shape``, or None.
        eps: by default the distance from 1 to the next number of the dtype: 1.19e-7 in float32.

    Raises:
        ShapeError: the input does not end in that shape, or the weight does not have it.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467.
    """
    floating("rms_norm", input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or input.shape[-len(shape):] != shape:
        raise ShapeError(f"rms_norm: normalized_shape is {shape}, which the input's shape {input.shape} does not end in")
    if weight is not None and weight.shape != shape:
        raise ShapeError(f"rms_norm: weight has shape {weight.shape}; it must be {shape}")
    if eps is None:
        eps = float(2.0 ** -{2: 10, 4: 23, 8: 52}[input.itemsize])
    y = input * tensors.rsqrt(input.square().mean(tuple(range(-len(shape), 0)), keepdim=True) + eps)
    return y if weight is None else y * weight


def group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over each of ``num_groups`` groups of channels of each sample.

    Args:
        input: (N, C, ...), floating point.
        weight, bias: (C,) or None.

    Raises:
        ShapeError: the groups do not divide the channels.

    Source: Wu & He 2018, arXiv:1803.08494.
    """
    _check_channels("group_norm", input, weight=weight, bias=bias)
    if num_groups < 1 or input.shape[1] % num_groups:
        raise ShapeError(f"group_norm: {num_groups} groups do not divide the {input.shape[1]} channels of shape {input.shape}")
    return tensors.group_norm(input, weight, bias, groups=num_groups, eps=eps)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha / size * sum of x^2 over ``size`` neighbouring channels) ^ beta.

    The input is (N, C, ...).  As in PyTorch, alpha is divided by the size.  The paper's formula multiplies the plain sum: its
    alpha of 1e-4 with size 5 is 5e-4 here.

    Raises:
        ShapeError: no channels, or a size below 1.

    Source: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", 2012, section 3.3.
    """
    _check_channels("local_response_norm", input)
    if size < 1:
        raise ShapeError(f"local_response_norm: size must be at least 1, found {size}")
    return tensors.local_response_norm(input, size=size, alpha=float(alpha), beta=float(beta), k=float(k))
