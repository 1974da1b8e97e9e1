"""Find where a NaN or an infinity came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from minidl.autograd.grad_mode import no_grad
from minidl.nn import Module
from minidl.tensor import Tensor


def is_finite(array: Any) -> bool:
    """Whether an array (NumPy's or CuPy's; any dtype) has neither NaN nor infinities."""
    return bool((abs(array) < math.inf).all()) if array.dtype.kind in "fcV" else True


def first_bad(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The name of the first tensor that is not finite."""
    return next((name for name, tensor in named if tensor is not None and not is_finite(tensor.data)), None)


def explain(model: Module, loss: Callable[..., Tensor], images: Tensor, labels: Tensor, lr: float) -> str:
    """Say in one sentence where the first non-finite value of this batch appears.

    Looks at the images, then the parameters and buffers, then runs the forward pass again and looks at the output of
    each module in the order in which they finish.  Call it with the random state of the pass that failed, so that
    dropout drops the same units.
    """
    if not is_finite(images.data):
        index = _first_index(images.data)
        return f"the batch itself has a {_kind(images.data)}, first at index {index}; check the data set"
    bad = first_bad(model.named_parameters())
    if bad is not None:
        return (
            f"the parameter {bad} is already {_kind(model.get_parameter(bad).data)}: an earlier update made it so; "
            f"lower the learning rate (now {lr:.3g}) or clip the gradients"
        )
    bad = first_bad(model.named_buffers()) if not model.training else None
    if bad is not None:
        return f"the buffer {bad} is already {_kind(model.get_buffer(bad).data)}; an earlier batch made it so"
    found: list[str] = []
    handles = [
        module.register_forward_hook(_watcher(name or "the model", found)) for name, module in model.named_modules()
    ]
    try:
        with no_grad():
            value = loss(model(images), labels)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"the first layer whose output is not finite is {found[0]}; lower the learning rate (now {lr:.3g})"
    if not is_finite(value.data):
        return "every layer's output is finite but the loss is not; check the labels and the loss"
    return "the forward pass is finite when run again; the gradients of an earlier step may have been at fault"


def _watcher(name: str, found: list[str]) -> Callable[[Module, Any, Any], None]:
    def watch(module: Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if not found and isinstance(tensor, Tensor) and not is_finite(tensor.data):
                kind, shape = _kind(tensor.data), tuple(tensor.shape)
                found.append(f"{name} ({type(module).__name__}; {kind} in its output of shape {shape})")

    return watch


def _kind(array: Any) -> str:
    return "NaN" if bool((array != array).any()) else "infinity"


def _first_index(array: Any) -> tuple[int, ...]:
    flat = int((~(abs(array) < math.inf)).reshape(-1).argmax())
    index: list[int] = []
    for size in reversed(array.shape):
        flat, k = divmod(flat, size)
        index.insert(0, k)
    return tuple(index)
