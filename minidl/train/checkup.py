"""Look a net over for the mistakes that batch normalisation and dropout invite: the work of ``minidl doctor MODEL``."""

from __future__ import annotations

from typing import Any

from minidl.autograd.grad_mode import no_grad
from minidl.nn import Module
from minidl.nn.dropout import Dropout, Dropout2d
from minidl.nn.norm import BatchNorm1d, BatchNorm2d
from minidl.tensor import Tensor

# Running statistics come from many batches and a changing net, so they never equal those of some images exactly.
MOST_SHIFT = 1.0  # deviations between the means, at most, in half of the channels
MOST_RATIO = 4.0  # between the variances


def checkup(model: Module, images: Tensor | None = None, *, evaluating: bool = True) -> list[str]:
    """What is wrong with ``model``, a sentence for each thing; an empty list if nothing was found.

    * A layer in training mode while the net is tested: its answer depends on chance, or on the other images of the batch.
    * Training on a batch of one image: batch normalisation then has the statistics of that image alone.
    * Running statistics that never saw a batch, or are not those of ``images``: another preprocessing than in training, or
      weights without their statistics.

    Args:
        images: (N, C, H, W), prepared as the net wants them; about a hundred of the training images say most.  None leaves
            out what needs them.
        evaluating: whether the net is about to be tested or used; False: trained.

    The model is left as it was.
    """
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, BatchNorm1d | BatchNorm2d)]
    kinds = BatchNorm1d | BatchNorm2d | Dropout | Dropout2d
    found = []
    if evaluating:
        wrong = [_called(name, m) for name, m in model.named_modules() if isinstance(m, kinds) and m.training]
        if wrong:
            found.append(
                f"{_some(wrong)} in training mode: answers depend on chance or on the rest of the batch; call model.eval()"
            )
    elif images is not None and len(images) == 1 and (live := [_called(name, m) for name, m in norms if m.training]):
        found.append(
            f"a training batch of one image: the statistics of {_some(live)} are those of this image alone; use larger "
            "batches, drop_last=True, or GroupNorm"
        )
    tracked = [(name, m) for name, m in norms if m.num_batches_tracked is not None]
    new = [_called(name, m) for name, m in tracked if int(m.num_batches_tracked.item()) == 0]  # type: ignore[union-attr]
    if evaluating and new:
        found.append(
            f"{_some(new)} never saw a training batch: evaluation would use mean 0 and variance 1; train the net, or load "
            "weights that have running statistics"
        )
    elif evaluating and images is not None and len(images) > 1:
        found += _stale(model, images)[:1]  # the first: what follows it gets other inputs because of it
    return found


def _stale(model: Module, images: Tensor) -> list[str]:
    """The layers whose running statistics are not those of ``images``, in the order in which they run."""
    found: list[str] = []

    def compare(name: str, layer: Any) -> Any:
        def hook(module: Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].transpose(0, 1).flatten(1)
            deviation = (layer.running_var + layer.eps).sqrt()
            shift = _median((x.mean(1) - layer.running_mean).abs() / deviation)
            ratio = _median((x.var(1, correction=0) + layer.eps) / (layer.running_var + layer.eps))
            if shift > MOST_SHIFT or not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
                found.append(
                    f"the running statistics of {_called(name, layer)} are not those of these images (the means differ by "
                    f"{shift:.2g} deviations, the variance is {ratio:.2g} times as large): they are prepared differently "
                    "than in training, or the statistics are those of other weights"
                )

        return hook

    modes = [(module, module.training) for module in model.modules()]
    handles = [
        module.register_forward_pre_hook(compare(name, module))
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm1d | BatchNorm2d) and module.running_mean is not None
    ]
    try:
        model.eval()
        with no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return found


def _median(values: Tensor) -> float:
    ordered = sorted(values.tolist())
    return float(ordered[len(ordered) // 2])


def _called(name: str, layer: Module) -> str:
    return f"{name or 'the net'} ({type(layer).__name__})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
