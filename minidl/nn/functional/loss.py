"""Losses.

``reduction`` is "mean" (the default: over all elements), "sum" or "none", and anything else a ConfigError.  A mean over no
elements is NaN, as in PyTorch.
"""
from __future__ import annotations

import math

from minidl.autograd.autocast import in_float32
from minidl.autograd.function import tensors
from minidl.errors import ConfigError, DTypeError, GraphError, ShapeError
from minidl.nn.functional.checks import floating, same_dtype
from minidl.ops.checks import expect_tensors
from minidl.ops.index import check_range
from minidl.tensor import Tensor


def _reduce(name: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise ConfigError(f"{name}: reduction must be 'mean', 'sum' or 'none', found {reduction!r}")


def _labels_fit(name: str, x: Tensor, target: Tensor) -> None:
    if target.data.dtype.kind not in "iu":
        raise DTypeError(f"{name}: class labels must be integers, found {target.dtype}; convert with .long()")
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if target.shape != expected:
        raise ShapeError(f"{name}: input {x.shape} needs labels of shape {expected}, found {target.shape}; the classes are "
                         "on axis 1 of the input, and the labels have no such axis")


def _check_weight(name: str, x: Tensor, weight: Tensor | None) -> None:
    if weight is None:
        return
    if weight.shape != (x.shape[1 if x.ndim > 1 else 0],):
        raise ShapeError(f"{name}: weight has shape {weight.shape}; it must be one number for each class of input {x.shape}")
    if weight.requires_grad:
        raise GraphError(f"{name}: weight is a constant here and gets no gradient; pass weight.detach()")


def _rows(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, d...) and (N, d...) as (M, C) and (M,)."""
    if x.ndim == 1:
        return x.unsqueeze(0), target.reshape(1)
    if x.ndim > 2:
        x = x.movedim(1, -1).reshape(-1, x.shape[1])
    return x, target.reshape(-1)


@in_float32
def cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(input)[target]: the loss of a classifier.

    Args:
        input: logits (N, C), (C,) or (N, C, d...).
        target: integer labels of shape (N,), () or (N, d...); or class probabilities of the input's shape.
        weight: (C,), a factor for each class.
        ignore_index: samples with this label count for nothing.
        label_smoothing: this share of the target is spread evenly over all classes (Szegedy et al. 2016).
        reduction: "mean" divides by the sum of the weights of the labels that counted.

    Returns:
        A number; with reduction "none" the target's shape.

    Raises:
        ShapeError, DTypeError: input and target do not fit.  DataError: a label is out of range (it is named).
        ConfigError: label_smoothing is not between 0 and 1.  GraphError: the weight needs a gradient.

    >>> import minidl
    >>> from minidl.nn import functional as F
    >>> F.cross_entropy(minidl.zeros(4, 10), minidl.tensor([3, 1, 4, 1]))       # knowing nothing: log 10
    tensor(2.3026)
    """
    expect_tensors("cross_entropy", input, target, weight)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ConfigError(f"cross_entropy: label_smoothing must be between 0 and 1, found {label_smoothing}")
    floating("cross_entropy", input)
    if input.ndim == 0:
        raise ShapeError("cross_entropy: the input needs an axis of classes, found a 0-d tensor")
    _check_weight("cross_entropy", input, weight)
    if target.data.dtype.kind in "fV":
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    _labels_fit("cross_entropy", input, target)
    logits, labels = _rows(input, target)
    losses, weights = tensors.softmax_cross_entropy(logits, labels, weight, ignore_index=ignore_index,
                                                    label_smoothing=float(label_smoothing))
    if reduction == "mean":
        return losses.sum() / weights.sum()
    return _reduce("cross_entropy", losses.reshape(target.shape), reduction)


def _soft_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float) -> Tensor:
    if target.shape != input.shape:
        hint = "; for class numbers convert with .long()" if target.ndim < input.ndim else ""
        raise ShapeError(f"cross_entropy: class probabilities must have the input's shape {input.shape}, found {target.shape}"
                         f"{hint}")
    dim = 1 if input.ndim > 1 else 0
    if smoothing:
        target = target * (1 - smoothing) + smoothing / input.shape[dim]
    terms = tensors.log_softmax(input, axis=dim) * target
    if weight is not None:
        terms = terms * weight.reshape(*[-1 if i == dim else 1 for i in range(input.ndim)])
    losses = -terms.sum(dim)
    if reduction == "mean":
        return losses.sum() / float(max(input.numel() // input.shape[dim], 1))
    return _reduce("cross_entropy", losses, reduction)


@in_float32
def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100,
             reduction: str = "mean") -> Tensor:
    """-input[target]: the negative log-likelihood of log-probabilities (N, C), (C,) or (N, C, d...).

    Arguments, result and errors as :func:`cross_entropy`, which is this after a log-softmax.
    """
    expect_tensors("nll_loss", input, target, weight)
    floating("nll_loss", input)
    _labels_fit("nll_loss", input, target)
    _check_weight("nll_loss", input, weight)
    logp, labels = _rows(input, target)
    losses, weights = tensors.nll_loss(logp, labels, weight, ignore_index=ignore_index)
    if reduction == "mean":
        return losses.sum() / weights.sum()
    return _reduce("nll_loss", losses.reshape(target.shape), reduction)


def _same_shape(name: str, input: Tensor, target: Tensor) -> None:
    expect_tensors(name, input, target)
    if input.shape != target.shape:
        raise ShapeError(f"{name}: input {input.shape} and target {target.shape} must have the same shape; they would "
                         "broadcast into a loss of something else")


def _not_integers(name: str, input: Tensor, target: Tensor) -> None:
    if input.data.dtype.kind not in "fV" and target.data.dtype.kind not in "fV":
        raise DTypeError(f"{name}: needs a floating-point input, found {input.dtype}; convert with .float()")


@in_float32
def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(input - target)^2, over elements of any shape; with reduction "none" of that shape.

    Raises:
        ShapeError: the shapes are not equal (PyTorch warns and broadcasts).  DTypeError: both are integers.
    """
    _same_shape("mse_loss", input, target)
    _not_integers("mse_loss", input, target)
    return _reduce("mse_loss", (input - target).square(), reduction)


@in_float32
def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|input - target|, over elements of any shape.  The gradient at 0 is 0.

    Raises:
        ShapeError: the shapes are not equal.
    """
    _same_shape("l1_loss", input, target)
    return _reduce("l1_loss", (input - target).abs(), reduction)


@in_float32
def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where |d| < delta, else delta * (|d| - delta / 2), with d = input - target, of equal shapes.

    Raises:
        ShapeError: the shapes are not equal.  ConfigError: delta is not above 0.

    Source: Huber, "Robust estimation of a location parameter", 1964.
    """
    if delta <= 0:
        raise ConfigError(f"huber_loss: delta must be greater than 0, found {delta}")
    return _reduce("huber_loss", _huber("huber_loss", input, target, delta), reduction)


def _huber(name: str, input: Tensor, target: Tensor, delta: float) -> Tensor:
    _same_shape(name, input, target)
    _not_integers(name, input, target)
    d = (input - target).abs()
    inner = d.clamp(max=delta)
    return inner * (d - inner * 0.5)


@in_float32
def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = input - target, of equal shapes.

    Raises:
        ShapeError: the shapes are not equal.  ConfigError: beta is negative.

    Source: Girshick, "Fast R-CNN", 2015, arXiv:1504.08083.
    """
    if beta < 0:
        raise ConfigError(f"smooth_l1_loss: beta must be at least 0, found {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return _reduce("smooth_l1_loss", _huber("smooth_l1_loss", input, target, beta) * (1 / beta), reduction)


@in_float32
def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target * (log target - input): how far the log-probabilities ``input`` are from the distribution ``target``.

    For distillation: ``kl_div(log_softmax(student / T, 1), softmax(teacher / T, 1), reduction="batchmean") * T * T``
    (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        input: log-probabilities of any shape.
        target: probabilities of that shape; their logarithms with ``log_target``.
        reduction: also "batchmean", the sum over the length of the first axis, which is the divergence of Kullback and Leibler;
            "mean" divides by the number of elements.

    Raises:
        ShapeError: the shapes are not equal.  DTypeError: both are integers.
    """
    _same_shape("kl_div", input, target)
    _not_integers("kl_div", input, target)
    if log_target:
        losses = target.exp() * (target - input)
    else:
        losses = target * (target.masked_fill(target == 0, 1.0).log() - input)      # 0 log 0 is 0
    if reduction == "batchmean":
        return losses.sum() / float(input.shape[0] if input.ndim else 1)
    return _reduce("kl_div", losses, reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean",
                                     pos_weight: Tensor | None = None) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(input), from the logits, so that nothing overflows.

    Args:
        input, target: of the same shape; targets from 0 to 1.
        weight: a factor for each element (broadcasts).
        pos_weight: a factor for the positive term (broadcasts).

    Raises:
        ShapeError: input and target are not of one shape.  DTypeError: the input is not floating point.
    """
    _same_shape("binary_cross_entropy_with_logits", input, target)
    floating("binary_cross_entropy_with_logits", input)
    # log(1 + exp(-x)) = softplus(-x); the usual max(x, 0) - x t + log(1 + exp(-|x|)), regrouped for pos_weight.
    negative = tensors.softplus(-input, beta=1.0, threshold=math.inf)
    factor = 1.0 if pos_weight is None else target * (pos_weight - 1.0) + 1.0
    losses = (1.0 - target) * input + negative * factor
    if weight is not None:
        losses = losses * weight
    return _reduce("binary_cross_entropy_with_logits", losses, reduction)


@in_float32
def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) of probabilities p; the logarithms are cut off at -100, as in PyTorch.

    Raises:
        ShapeError: input and target are not of one shape.  ConfigError: an input is not between 0 and 1.
    """
    _same_shape("binary_cross_entropy", input, target)
    _not_integers("binary_cross_entropy", input, target)
    if input.numel() and not (bool((input >= 0).all()) and bool((input <= 1).all())):
        raise ConfigError("binary_cross_entropy: the input must be probabilities between 0 and 1; for logits use "
                          "binary_cross_entropy_with_logits")
    losses = -(target * input.log().clamp(min=-100) + (1.0 - target) * (1.0 - input).log().clamp(min=-100))
    if weight is not None:
        losses = losses * weight
    return _reduce("binary_cross_entropy", losses, reduction)


@in_float32
def multi_margin_loss(input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
                      reduction: str = "mean") -> Tensor:
    """The multi-class hinge loss: sum over the wrong classes of max(0, margin - x[t] + x[c])^p, divided by C.

    Args:
        input: scores (N, C) or (C,).
        target: labels (N,) or ().
        p: 1 or 2.
        weight: (C,), a factor for each true class.

    Raises:
        ShapeError, DTypeError: input and target do not fit.  IndexError: a label is out of range.  ConfigError: another p.

    Source: Crammer & Singer 2001; Weston & Watkins 1999 for the sum.
    """
    expect_tensors("multi_margin_loss", input, target, weight)
    if p not in (1, 2):
        raise ConfigError(f"multi_margin_loss: p must be 1 or 2, found {p}")
    if input.ndim > 2:
        raise ShapeError(f"multi_margin_loss: expected (N, C) or (C,), found shape {input.shape}")
    floating("multi_margin_loss", input)
    _labels_fit("multi_margin_loss", input, target)
    _check_weight("multi_margin_loss", input, weight)
    same_dtype("multi_margin_loss", input, weight)
    check_range("multi_margin_loss: label", target, input.shape[-1])
    scores, labels = _rows(input, target)
    classes = scores.shape[1]
    own = scores.gather(1, labels.unsqueeze(1))
    excess = tensors.relu(scores - own + margin)
    if p == 2:
        excess = excess.square()
    if weight is not None:
        excess = excess * weight[labels].unsqueeze(1)
    is_own = Tensor(input.F.one_hot(labels.data, num_classes=classes), input.F).bool()
    losses = tensors.masked_fill(excess, is_own, value=0.0).sum(1) / float(classes)
    return _reduce("multi_margin_loss", losses.reshape(target.shape), reduction)
