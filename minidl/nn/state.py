"""Writing into a module's tensors: loading values and changing device or dtype, identity kept."""
from __future__ import annotations

from typing import Any

from minidl.autograd import increment_version, no_grad
from minidl.autograd.node import Leaf
from minidl.tensor import Tensor


def replace_data(tensor: Tensor, device: Any, dtype: Any) -> None:
    """Change ``tensor``'s device, and its dtype when floating, in place: whoever holds the tensor keeps holding it."""
    moved = _converted(tensor.detach(), device, dtype)
    if moved.data is tensor.data and moved.F is tensor.F:
        return
    grad = tensor.grad
    tensor.data, tensor.F = moved.data, moved.F
    if isinstance(tensor.edge, Leaf):  # the leaf stays, and with it the hooks on the tensor
        tensor.edge.F, tensor.edge.shape = moved.F, moved.shape
        tensor.edge.grad = None if grad is None else _converted(grad.detach(), device, dtype)
    increment_version(tensor)


def _converted(tensor: Tensor, device: Any, dtype: Any) -> Tensor:
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor if device is None else tensor.to(device)


def load_into(target: Tensor, value: Any) -> None:
    """Copy ``value`` (a Tensor, a NumPy array, a torch tensor, a number) into ``target``, cast to its dtype."""
    if not isinstance(value, Tensor):
        if hasattr(value, "detach"):  # a torch tensor: out of its graph, to the host
            value = value.detach().cpu().numpy()
        value = Tensor(target.F.asarray(value), target.F)
    with no_grad():
        target.copy_(value)
