"""Where a Vision Transformer looks: the attention of the class token to the patches of an image."""

from __future__ import annotations

import dataclasses
from typing import Any

import minidl
from minidl.autograd.grad_mode import no_grad
from minidl.errors import ConfigError, ShapeError
from minidl.nn import Module
from minidl.tensor import Tensor


@dataclasses.dataclass(frozen=True)
class Look:
    """What the class token of a Vision Transformer looks at in one image.

    Args:
        blocks: (blocks, heads, rows, columns): its attention to each patch.  The rest, up to 1, goes to itself.
        rollout: (rows, columns): through all blocks, see :func:`rollout`; it sums to 1 with what goes to the class token.
    """

    blocks: Tensor
    rollout: Tensor


def look(model: Module, images: Any) -> Look:
    """Where ``model`` looks in one image, prepared as it wants it.

    Args:
        model: a net with ``attention_maps`` and ``patch_size``, such as ``vit_tiny_cifar``; its mode does not change.
        images: (1, C, H, W), an array or Tensor.

    Raises:
        ConfigError: a net without attention maps.
        ShapeError: not one image, or one that cannot be cut into patches.
    """
    if not hasattr(model, "attention_maps") or not hasattr(model, "patch_size"):
        raise ConfigError(
            f"attention: {type(model).__name__} has no attention maps; expected a Vision Transformer, such as vit_b_16"
        )
    x = images if isinstance(images, Tensor) else minidl.from_numpy(images)
    if x.ndim != 4 or x.shape[0] != 1:
        raise ShapeError(f"attention: expected one image (1, C, H, W), found shape {tuple(x.shape)}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            maps = model.attention_maps(x)
    finally:
        for module, training in modes:
            module.training = training
    rows, columns = x.shape[2] // model.patch_size, x.shape[3] // model.patch_size
    blocks = minidl.stack([m[0, :, 0, 1:].reshape(-1, rows, columns) for m in maps])
    return Look(blocks, rollout([m[0] for m in maps])[0, 1:].reshape(rows, columns))


def rollout(maps: list[Tensor]) -> Tensor:
    """How much of each token's end comes from each token's beginning: (L, L), each row sums to 1.

    Args:
        maps: the attention of every block, (heads, L, L), the first block's first.

    The mean over heads, mixed half and half with the identity for the residual connection, multiplied from block to block
    (Abnar and Zuidema 2020: Quantifying attention flow in transformers, arXiv:2005.00928).
    """
    total = identity = minidl.eye(maps[0].shape[-1], dtype=maps[0].dtype)
    for attention in maps:
        total = ((attention.mean(0) + identity) / 2) @ total
    return total
