"""Fused losses over logits (M, C) and labels (M,)."""
from __future__ import annotations

from minidl.autograd.function import Function, composite


class SoftmaxCrossEntropy(Function, verb="softmax_cross_entropy"):
    """(loss of each sample, weight of each sample): log-softmax and the negative log-likelihood in one pass."""
    primary = True

    def forward(self, F, logits, labels, weight, *, ignore_index, label_smoothing):
        self.options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        return F.softmax_cross_entropy(logits, labels, weight, **self.options)

    def backward(self, F, gy, logits, labels, weight):
        return F.softmax_cross_entropy_grad(gy, logits, labels, weight, **self.options), None, None


@composite("softmax_cross_entropy_grad")
def softmax_cross_entropy_grad(F, g, logits, labels, weight, *, ignore_index, label_smoothing):
    # The derivative of what the losses are, with the softmax computed again so that it depends on the logits.
    classes = logits.shape[1]
    targets = F.nll_loss_grad(F.neg(g), labels, weight, num_classes=classes, ignore_index=ignore_index)      # g * w[t] at t
    pull = F.mul(targets, 1.0 - label_smoothing)
    if label_smoothing:
        kept = F.astype(F.ne(labels, ignore_index), dtype=g.dtype)
        spread = F.reshape(F.mul(F.mul(g, kept), label_smoothing / classes), shape=(logits.shape[0], 1))
        even = F.broadcast_to(spread, shape=logits.shape)
        pull = F.add(pull, even if weight is None else F.mul(even, weight))
    return F.sub(F.mul(F.softmax(logits, axis=1), F.sum(pull, axis=1, keepdims=True)), pull)


class NllLoss(Function, verb="nll_loss"):
    """(-weight[t] * logp[t] of each sample, weight of each sample), 0 where the label is ignored."""
    primary = True

    def forward(self, F, logp, labels, weight, *, ignore_index):
        self.ignore_index, self.num_classes = ignore_index, logp.shape[1]
        return F.nll_loss(logp, labels, weight, ignore_index=ignore_index)

    def backward(self, F, gy, labels, weight):
        return F.nll_loss_grad(gy, labels, weight, num_classes=self.num_classes, ignore_index=self.ignore_index), None, None


class NllLossGrad(Function, verb="nll_loss_grad"):
    """-weight[t] * g at each label, else 0."""

    def forward(self, F, g, labels, weight, *, num_classes, ignore_index):
        self.ignore_index = ignore_index
        return F.nll_loss_grad(g, labels, weight, num_classes=num_classes, ignore_index=ignore_index)

    def backward(self, F, gx, labels, weight):
        losses = F.nll_loss(gx, labels, weight, ignore_index=self.ignore_index)
        return losses[0], None, None
