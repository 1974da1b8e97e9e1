"""Losses."""

from __future__ import annotations

import numpy as np
import scipy.special

from minidl.autograd.function import tensors
from minidl.errors import ConfigError, DTypeError, ShapeError
from minidl.nn import functional as F
from tests.opdb.base import Bad, Draw, Op, Sample, transpose_of

Z = np.zeros((2, 3))
FN = "nn.functional."


def reduced(losses, reduction, weights=None):
    if reduction == "none":
        return losses
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            losses.sum() if reduction == "sum" else losses.sum() / (losses.size if weights is None else weights.sum())
        )


def _rows(x, target):
    """(..., C) and the targets with the same leading axes."""
    return (x if x.ndim == 1 else np.moveaxis(x, 1, -1)), target


def _nll(logp, target, weight=None, ignore_index=-100, reduction="mean"):
    rows, target = _rows(logp, np.asarray(target))
    losses, weights = np.zeros(target.shape), np.zeros(target.shape)
    for at in np.ndindex(target.shape):
        t = target[at]
        if t != ignore_index:
            weights[at] = 1.0 if weight is None else weight[t]
            losses[at] = -weights[at] * rows[(*at, t)]
    return reduced(losses, reduction, weights)


def _cross_entropy(x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    rows, target = _rows(x, np.asarray(target))
    logp, classes = scipy.special.log_softmax(rows, axis=-1), rows.shape[-1]
    w = np.ones(classes) if weight is None else weight
    if target.dtype.kind == "f":
        soft = _rows(target, 0)[0] * (1 - label_smoothing) + label_smoothing / classes
        losses = -(logp * soft * w).sum(axis=-1)
        return reduced(losses, reduction)
    losses, weights = np.zeros(target.shape), np.zeros(target.shape)
    for at in np.ndindex(target.shape):
        if target[at] != ignore_index:
            soft = np.eye(classes)[target[at]] * (1 - label_smoothing) * w + label_smoothing / classes * w
            losses[at], weights[at] = -(logp[at] * soft).sum(), w[target[at]]
    return reduced(losses, reduction, weights)


def _cross_entropies(d: Draw):
    labels = d.integers(0, 3, 4)
    yield Sample(d(4, 3), labels)
    yield Sample(d(4, 3), labels, d.between(0.5, 2, 3), reduction="sum", constants=(2,))
    yield Sample(d(4, 3), np.array([0, -100, 2, 1]), d.between(0.5, 2, 3), label_smoothing=0.1, constants=(2,))
    yield Sample(d(4, 3), np.array([0, 1, 1, 2]), None, 1, "none", 0.2)
    yield Sample(d(2, 3, 2), d.integers(0, 3, 2, 2))
    yield Sample(d(3), np.array(1))
    yield Sample(d(4, 3), scipy.special.softmax(d(4, 3), axis=1), label_smoothing=0.1)
    yield Sample(
        d(2, 3, 2), scipy.special.softmax(d(2, 3, 2), axis=1), d.between(0.5, 2, 3), reduction="none", constants=(2,)
    )
    yield Sample(d(0, 3), np.zeros(0, int), reduction="sum")
    yield Sample(d(0, 3), np.zeros(0, int), smooth=False)
    yield Sample(np.array([[1e4, -1e4, 0.0]]), np.array([1]))


def _nlls(d: Draw):
    yield Sample(-d.between(0.1, 2, 4, 3), d.integers(0, 3, 4))
    yield Sample(-d.between(0.1, 2, 4, 3), np.array([0, -100, 2, 1]), d.between(0.5, 2, 3), constants=(2,))
    yield Sample(-d.between(0.1, 2, 2, 3, 2), d.integers(0, 3, 2, 2), reduction="none")
    yield Sample(-d.between(0.1, 2, 3), np.array(2), reduction="sum")
    yield Sample(d(0, 3), np.zeros(0, int), reduction="sum")


LABEL_ERRORS = (
    (Sample(Z, np.array([0, 3])), Exception, "label.*3|3.*label"),
    (Sample(Z, np.array([0, -1])), Exception, "label.*-1|-1.*label"),
    (Sample(Z, np.array([0, 1, 2])), ShapeError, r"input \(2, 3\) needs labels of shape \(2,\), found \(3,\)"),
    (Sample(Z, np.array([[0], [1]])), ShapeError, r"found \(2, 1\)"),
    (Sample(Z, np.array([0, 1]), np.ones(2)), ShapeError, "weight has shape"),
    (
        Sample(Z, np.array([0, 1]), reduction="average"),
        ConfigError,
        "reduction must be 'mean', 'sum' or 'none', found 'average'",
    ),
    (Sample(Z.astype(int), np.array([0, 1])), DTypeError, "needs a floating-point tensor, found int64"),
)


def label_errors(name, **torch):
    return tuple(Bad(s, e, f"{name}.*({m})", torch.get(f"case{i}", "")) for i, (s, e, m) in enumerate(LABEL_ERRORS))


PROMOTES = dict.fromkeys(
    ("float32 and float64", "int64 and float32"), "minidl promotes input and target, PyTorch does not"
)


def elementwise_loss(name, f, domain=None, options=(), **fields):
    """A loss of input and target of one shape; ``f(x, t, **options)`` before the reduction."""
    domain = domain or (lambda d, *s: (d(*s), d(*s)))

    def samples(d: Draw):
        for option in ({}, {"reduction": "sum"}, {"reduction": "none"}, *options):
            yield Sample(*domain(d, 2, 3), **option)
        yield Sample(*domain(d))
        yield Sample(*domain(d, 0, 3), reduction="sum")

    def reference(x, t, reduction="mean", **rest):
        return reduced(f(x, t, **rest), reduction)

    bad = (
        Bad(
            Sample(np.full((2, 3), 0.5), np.zeros(3)),
            ShapeError,
            rf"{name}: input \(2, 3\) and target \(3,\) must have the same shape",
            "" if name == "binary_cross_entropy" else "broadcasts, with a warning",
        ),
        Bad(Sample(Z, Z, reduction="avg"), ConfigError, f"{name}: reduction must be"),
        *fields.pop("bad", ()),
    )
    if name != "l1_loss":  # which needs no division
        integers = Sample(Z.astype(int), Z.astype(int))
        bad = (*bad, Bad(integers, DTypeError, f"{name}: needs a floating-point input, found int64"))
    return Op(f"F.{name}", getattr(F, name), samples, reference, torch=FN + name, bad=bad, **fields)


def _apart(d, *s):
    """Differences at least 0.1 from 0, and from the kinks of second derivatives at 0.5 and 1."""
    t = d(*s)
    return np.asarray(t + np.where(d(*s) > 0, 1, -1) * d.integers(0, 3, *s) * 0.5 + d.between(0.1, 0.4, *s)), t


def _probabilities(d, *s):
    return d.between(0.1, 0.9, *s), d.between(0, 1, *s)


def _bce_logits(x, t, weight=1.0, pos_weight=1.0):
    return weight * ((1 - t) * x + ((pos_weight - 1) * t + 1) * np.logaddexp(0, -x))


def _margin(x, target, p=1, margin=1.0, weight=None, reduction="mean"):
    rows, target = np.atleast_2d(x), np.atleast_1d(target)
    losses = np.zeros(len(target))
    for n, t in enumerate(target):
        terms = [max(0.0, margin - rows[n, t] + rows[n, c]) ** p for c in range(rows.shape[1]) if c != t]
        losses[n] = sum(terms) / rows.shape[1] * (1.0 if weight is None else weight[t])
    return reduced(losses if x.ndim > 1 else losses[0], reduction)


def _margins(d: Draw):
    x = np.array([[0.1, 0.9, -0.7], [0.5, -0.2, 2.2]])
    yield Sample(x, np.array([0, 2]))
    yield Sample(x, np.array([1, 1]), 2, 0.5, d.between(0.5, 2, 3), "sum", constants=(2,))
    yield Sample(x, np.array([1, 0]), reduction="none")
    yield Sample(x[0], np.array(1))


def _divergences(d: Draw):
    for reduction in ("mean", "sum", "none", "batchmean"):
        yield Sample(d(2, 3), d.between(0.1, 1.0, 2, 3), reduction=reduction)
        yield Sample(d(2, 3), -d.between(0.1, 1.0, 2, 3), reduction=reduction, log_target=True)
    yield Sample(d(3), np.array([0.0, 1.0, 0.5]), constants=(1,))
    yield Sample(d(), d.between(0.1, 1.0))
    yield Sample(d(0, 3), d.between(0.1, 1.0, 0, 3), reduction="sum")


def _kl_div(x, target, reduction="mean", log_target=False):
    losses = np.exp(target) * (target - x) if log_target else scipy.special.xlogy(target, target) - target * x
    return losses.sum() / x.shape[0] if reduction == "batchmean" else reduced(losses, reduction)


OPS = [
    Op(
        "F.cross_entropy",
        F.cross_entropy,
        _cross_entropies,
        _cross_entropy,
        torch=lambda torch: (
            lambda x, t, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0: (
                torch.nn.functional.cross_entropy(
                    x, t, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
                )
            )
        ),
        verbs=("softmax_cross_entropy",),
        composites=("softmax_cross_entropy_grad",),
        without={"scalar": "an axis of classes is needed", "half": "logits of 1e4 overflow PyTorch's float16"},
        bad=(
            *label_errors("cross_entropy"),
            Bad(Sample(np.array(1.0), np.array(0)), ShapeError, "needs an axis of classes"),
            Bad(Sample(Z, np.zeros((2, 2))), ShapeError, r"must have the input's shape \(2, 3\), found \(2, 2\)$"),
            Bad(Sample(Z, np.zeros(2)), ShapeError, r"found \(2,\); for class numbers convert with .long\(\)"),
            Bad(
                Sample(Z, np.array([0, 1]), label_smoothing=1.5),
                ConfigError,
                "label_smoothing must be between 0 and 1, found 1.5",
            ),
        ),
    ),
    Op(
        "F.nll_loss",
        F.nll_loss,
        _nlls,
        _nll,
        torch=FN + "nll_loss",
        verbs=("nll_loss",),
        without={"scalar": "an axis of classes is needed"},
        bad=label_errors("nll_loss"),
    ),
    Op(
        "nll_loss_grad",
        lambda g, labels, weight=None: tensors.nll_loss_grad(g, labels, weight, num_classes=3, ignore_index=1),
        lambda d: [
            Sample(d(4), np.array([0, 1, 2, 2])),
            Sample(d(2), np.array([0, 2]), d.between(0.5, 2, 3), constants=(2,)),
            Sample(d(0), np.zeros(0, int)),
        ],
        lambda g, labels, weight=None: transpose_of(lambda u: _nll(u, labels, weight, 1, "none"), (len(g), 3), g),
        verbs=("nll_loss_grad",),
        without={"scalar": "an axis is needed"},
    ),
    elementwise_loss("mse_loss", lambda x, t: (x - t) ** 2),
    elementwise_loss("l1_loss", lambda x, t: np.abs(x - t), _apart),
    elementwise_loss(
        "huber_loss",
        lambda x, t, delta=1.0: np.where(np.abs(x - t) < delta, (x - t) ** 2 / 2, delta * (np.abs(x - t) - delta / 2)),
        _apart,
        ({"delta": 0.5},),
        without=PROMOTES,
        bad=(Bad(Sample(Z, Z, delta=0.0), ConfigError, "delta must be greater than 0"),),
    ),
    elementwise_loss(
        "smooth_l1_loss",
        lambda x, t, beta=1.0: (
            np.where(np.abs(x - t) < beta, (x - t) ** 2 / 2 / beta, np.abs(x - t) - beta / 2) if beta else np.abs(x - t)
        ),
        _apart,
        ({"beta": 0.5}, {"beta": 0}),
        bad=(Bad(Sample(Z, Z, beta=-1.0), ConfigError, "beta must be at least 0"),),
    ),
    elementwise_loss(
        "binary_cross_entropy",
        lambda x, t: -(t * np.log(x) + (1 - t) * np.log(1 - x)),
        _probabilities,
        without=PROMOTES,
        bad=(Bad(Sample(Z + 2, Z), ConfigError, "probabilities between 0 and 1.*with_logits"),),
    ),
    Op(
        "F.kl_div",
        F.kl_div,
        _divergences,
        _kl_div,
        torch=FN + "kl_div",
        without={
            "int64": "both as integers are refused, as by mse_loss",
            "bool": "as integers",
            "int64 and float32": "promoted, as by mse_loss",
        },
        bad=(
            Bad(Sample(Z, np.zeros((2, 4))), ShapeError, r"kl_div: input \(2, 3\) and target \(2, 4\)"),
            Bad(Sample(Z, np.ones(3)), ShapeError, "kl_div: .*must have the same shape", torch="broadcasts"),
            Bad(Sample(Z, Z, reduction="avg"), ConfigError, "kl_div: reduction must be"),
        ),
    ),
    Op(
        "F.binary_cross_entropy_with_logits",
        F.binary_cross_entropy_with_logits,
        lambda d: [
            Sample(d(2, 3), d.between(0, 1, 2, 3)),
            Sample(d(2, 3), d.between(0, 1, 2, 3), d.between(0.5, 2, 3), "none", constants=(2,)),
            Sample(d(2, 3), d.between(0, 1, 2, 3), None, "sum", d.between(0.5, 2, 3), constants=(2,)),
            Sample(d(), d.between(0, 1)),
            Sample(d(0, 2), d(0, 2), reduction="sum"),
            Sample(np.array([1e4, -1e4, 50.0]), np.array([0.0, 0.0, 1.0])),
        ],
        lambda x, t, weight=None, reduction="mean", pos_weight=None: reduced(
            _bce_logits(x, t, 1.0 if weight is None else weight, 1.0 if pos_weight is None else pos_weight), reduction
        ),
        torch=lambda torch: (
            lambda x, t, weight=None, reduction="mean", pos_weight=None: (
                torch.nn.functional.binary_cross_entropy_with_logits(
                    x, t, weight, reduction=reduction, pos_weight=pos_weight
                )
            )
        ),
        bad=(
            Bad(Sample(Z, np.zeros(3)), ShapeError, "must have the same shape"),
            Bad(Sample(Z.astype(int), Z), DTypeError, "needs a floating-point tensor, found int64"),
            Bad(Sample(Z, Z, reduction="avg"), ConfigError, "reduction must be"),
        ),
    ),
    Op(
        "F.multi_margin_loss",
        F.multi_margin_loss,
        _margins,
        _margin,
        torch=lambda torch: (
            lambda x, t, p=1, margin=1.0, weight=None, reduction="mean": torch.nn.functional.multi_margin_loss(
                x, t, p, margin, weight, reduction=reduction
            )
        ),
        without={"scalar": "an axis of classes is needed", "empty": "PyTorch gives uninitialised memory"},
        bad=(
            Bad(Sample(Z, np.array([0, 3])), Exception, "multi_margin_loss.*3"),
            Bad(Sample(Z, np.array([0])), ShapeError, "needs labels of shape"),
            Bad(Sample(Z.astype(int), np.array([0, 1])), DTypeError, "multi_margin_loss: needs a floating-point tensor"),
            Bad(Sample(Z, np.array([0, 1]), 3), ConfigError, "p must be 1 or 2"),
            Bad(Sample(np.zeros((2, 3, 2)), np.zeros((2, 2), int)), ShapeError, "expected"),
            Bad(Sample(Z, np.array([0, 1]), 1, 1.0, np.ones(2)), ShapeError, "weight has shape"),
        ),
    ),
]
