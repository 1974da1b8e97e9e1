"""Normalisation layers: batch, layer, group, instance and local response."""
from __future__ import annotations

import math
from typing import Any

from minidl.errors import ConfigError, ShapeError
from minidl.nn import functional as F
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.creation import empty, ones, tensor, zeros
from minidl.tensor import Tensor


class _NormBase(Module):
    """Scale, shift and running statistics of the layers that normalise per channel."""

    _optional_state = ("num_batches_tracked",)  # files older than the counter do not have it
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(num_features, int) or num_features < 0:
            raise ConfigError(f"{type(self).__name__}: num_features must be a non-negative integer, got {num_features!r}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        options = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(empty(num_features, **options)) if affine else None)
        self.register_parameter("bias", Parameter(empty(num_features, **options)) if affine and bias else None)
        self.register_buffer("running_mean", zeros(num_features, **options) if track_running_stats else None)
        self.register_buffer("running_var", ones(num_features, **options) if track_running_stats else None)
        counter = tensor(0, dtype="int64", device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, statistics forgotten."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_input(self, input: Tensor) -> None:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Size and options."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_NormBase):
    """Batch normalisation (Ioffe and Szegedy 2015): per channel, y = (x - mean) / sqrt(var + eps) * weight + bias.

    In training mode mean and (biased, divided by m) variance come from the batch, and the running statistics move towards
    them: running = (1 - momentum) * running + momentum * batch.  In evaluation mode the running statistics are used, so that
    one image gives the same output alone as in any batch.

    Args:
        num_features: channels, the input's axis 1.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics; None keeps the plain average of all batches.
        affine: learn weight and bias; ``bias=False`` learns the weight alone.
        track_running_stats: False uses the batch's statistics in evaluation mode too.
        unbiased_running_var: True (as torch): ``running_var`` collects the variance divided by m - 1.  False: divided by m,
            as the normalisation itself has it.

    Raises:
        ShapeError: wrong number of axes or channels; in training mode, only one value per channel.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
        unbiased_running_var: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.unbiased_running_var = unbiased_running_var

    def forward(self, input: Tensor, *, relu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Normalise ``input``; in training mode also update the running statistics.

        ``relu=True`` returns max(result + residual, 0), the end of a residual block, in one pass over memory.
        """
        self._check_input(input)
        mean, var = self.running_mean, self.running_var
        training, momentum = self.training or mean is None, 0.0
        if mean is not None and self.training:
            momentum = self._count_batch()
        return F.batch_norm(
            input, mean, var, self.weight, self.bias, training, momentum, self.eps, self.unbiased_running_var, relu=relu,
            residual=residual,
        )

    def _count_batch(self) -> float:
        """Note one more batch; the weight it gets in the running statistics."""
        counter = self.num_batches_tracked
        assert counter is not None
        counter.add_(1)
        return 1.0 / int(counter.data) if self.momentum is None else self.momentum


class BatchNorm1d(_BatchNorm):
    __doc__ = (_BatchNorm.__doc__ or "") + "\n    Shapes: (N, C) or (N, C, L), the output the same."

    def _check_input(self, input: Tensor) -> None:
        if input.ndim not in (2, 3):
            raise ShapeError(f"BatchNorm1d: expected an input (N, C) or (N, C, L), got shape {tuple(input.shape)}")


class BatchNorm2d(_BatchNorm):
    __doc__ = (_BatchNorm.__doc__ or "") + "\n    Shapes: (N, C, H, W), the output the same."

    def _check_input(self, input: Tensor) -> None:
        if input.ndim != 4:
            hint = "; add the batch axis with x[None]" if input.ndim == 3 else ""
            raise ShapeError(f"BatchNorm2d: expected an input (N, C, H, W), got shape {tuple(input.shape)}{hint}")


class InstanceNorm2d(_NormBase):
    """Normalise each channel of each image by its own mean and variance (Ulyanov et al. 2016).

    As torch: no scale and shift unless ``affine``.  Running statistics are not offered: ``track_running_stats`` must
    be False.

    Shapes: (N, C, H, W), the output the same.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:
        if track_running_stats:
            raise ConfigError("InstanceNorm2d: running statistics are not offered; use BatchNorm2d, or track_running_stats=False")
        super().__init__(num_features, eps, momentum, affine, False, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``."""
        if input.ndim != 4:
            raise ShapeError(f"InstanceNorm2d: expected an input (N, C, H, W), got shape {tuple(input.shape)}")
        return F.group_norm(input, self.num_features, self.weight, self.bias, self.eps)


class LayerNorm(Module):
    """Normalise over the last axes (Ba et al. 2016): y = (x - mean) / sqrt(var + eps) * weight + bias.

    Args:
        normalized_shape: the sizes of the axes to normalise over, an int for the last one only.
        eps: added to the (biased) variance.
        elementwise_affine: learn weight and bias of shape ``normalized_shape``; ``bias=False`` learns the weight alone.

    Shapes: (*, normalized_shape), the output the same.
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        shape, options = self.normalized_shape, {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(ones(shape, **options)) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(zeros(shape, **options)) if elementwise_affine and bias else None)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Shape and options."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Divide by the root of the mean square over the last axes (Zhang and Sennrich 2019): a layer norm without mean and bias.

    Args:
        normalized_shape: the shape of those axes, or the size of one.
        eps: added to the mean square; None takes the dtype's own (1.19e-7 in float32).
        elementwise_affine: learn a weight of that shape.

    Shapes: (*, normalized_shape), the output the same.
    """

    def __init__(
        self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        weight = Parameter(ones(*self.normalized_shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)

    def reset_parameters(self) -> None:
        """Scale 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Shape and options."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalise over groups of channels of one image (Wu and He 2018); the batch plays no part.

    Args:
        num_groups: how many groups; divides ``num_channels``.  1 is a layer norm over (C, H, W), num_channels an instance norm.
        num_channels: the input's axis 1.
        eps: added to the (biased) variance.
        affine: learn weight and bias per channel; ``bias=False`` learns the weight alone.

    Shapes: (N, C, *), the output the same.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
        device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            fits = ", ".join(str(g) for g in range(1, num_channels + 1) if num_channels % g == 0)
            raise ShapeError(f"GroupNorm: num_groups={num_groups} does not divide num_channels={num_channels}; {fits} do")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        options = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(ones(num_channels, **options)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(num_channels, **options)) if affine and bias else None)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Groups, channels and options."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"
        )


def _reset_affine(module: Any) -> None:
    if module.weight is not None:
        init.ones_(module.weight)
    if module.bias is not None:
        init.zeros_(module.bias)


class LocalResponseNorm(Module):
    """Local response normalisation across channels (Krizhevsky et al. 2012).

    b_c = a_c / (k + alpha/size * sum of a_j^2 over ``size`` neighbouring channels j, cut at the edges)^beta

    ``alpha`` is divided by ``size``, as in torch and ONNX.  The paper does not divide: its alpha of 1e-4 with n = 5 is
    ``alpha=5e-4`` here, or ``LocalResponseNorm.paper(5, alpha=1e-4, k=2)``.

    Shapes: (N, C, *), the output the same.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"LocalResponseNorm: size must be at least 1, got {size}")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    @classmethod
    def paper(cls, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> LocalResponseNorm:
        """The layer in the paper's convention, where ``alpha`` multiplies the plain sum; AlexNet's numbers by default."""
        scaled = n * alpha
        # Printed and saved configurations should show 0.0005, not 0.0005000000000000001.
        return cls(n, float(f"{scaled:.15g}") if math.isfinite(scaled) else scaled, beta, k)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """The constants of the formula."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
