"""Published weights as facts, and weight files into nets."""
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError
from minidl.models.fit import advice, compare
from minidl.nn.module import Module

#: Mean and standard deviation of ImageNet's training images, by which everybody normalises.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """One set of published weights.  minidl does not download it: give the file to ``models.create(name, weights=FILE)``.

    Args:
        url: where it is published; the last part of its name is the beginning of its SHA-256.
        top1, top5: accuracy on ImageNet's validation images, one centre crop, in percent, as the publisher reports.
        source: who published it.
        licence: under which the publisher gives it away.
        resize, crop: the shorter side is resized to ``resize`` pixels, the middle ``crop`` x ``crop`` are used.
    """

    url: str
    top1: float
    top5: float
    source: str = "torchvision"
    licence: str = "BSD-3-Clause"
    resize: int = 256
    crop: int = 224

    @property
    def sha256_prefix(self) -> str:
        """The first digits of the file's SHA-256: ``resnet18-f37072fd.pth`` begins with f37072fd."""
        return Path(self.url).stem.rpartition("-")[2]

    @property
    def preprocessing(self) -> list[dict[str, Any]]:
        """What an image goes through before these weights, for ``minidl.data.transforms.from_config``."""
        return [
            {"name": "Resize", "size": self.resize},
            {"name": "CenterCrop", "size": self.crop},
            {"name": "ToFloat"},
            {"name": "Normalize", "mean": list(MEAN), "std": list(STD)},
        ]


def torchvision(file: str, top1: float, top5: float, **options: Any) -> tuple[Weights]:
    """Weights that torchvision publishes."""
    return (Weights(f"https://download.pytorch.org/models/{file}.pth", top1, top5, **options),)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a weight file by name; safetensors, or anything that ``torch.save`` wrote.

    Raises:
        CheckpointError: a missing, damaged or hostile file.
    """
    if Path(path).suffix == ".safetensors":
        from minidl.io.safetensors import load_file

        return load_file(path)[0]
    from minidl.io.torch_import import load_pth

    return load_pth(path)[0]


def resized_head(model: Module, state: dict[str, Any]) -> int | None:
    """How many classes ``state`` has, if that alone makes it differ from ``model`` in its last layer; else None."""
    weights = [name for name, tensor in model.state_dict().items() if tensor.ndim > 1]
    if not weights or weights[-1] not in state:
        return None
    wanted, found = model.state_dict()[weights[-1]].shape, tuple(state[weights[-1]].shape)
    return found[0] if found[1:] == wanted[1:] and found[0] != wanted[0] else None


def load_weights(
    model: Module, state: dict[str, Any], where: str, closest: Callable[[dict[str, Any]], list[tuple[str, float]]] | None = None,
    adopt: bool = False,
) -> None:
    """Load ``state`` into ``model``, adapted by the net's own ``adapt_state_dict`` where it has one.

    Args:
        where: the file, for the message.
        closest: finds the nets that a state dict fits best, for the message.
        adopt: the arrays of ``state`` become the net's memory instead of being copied; nobody else may use them any more, nor
            the memory that the net had.

    Raises:
        CheckpointError: what is missing, what is too much, what has another shape, and which net fits better.
    """
    adapt = getattr(model, "adapt_state_dict", None)
    adapted = state if adapt is None else adapt(state)
    misfit = compare(model.state_dict(), adapted)
    if misfit:
        hint = advice(misfit.share, closest(state)) if closest else ""
        raise CheckpointError(f"{where} does not fit {type(model).__name__}:\n{misfit}" + (f"\n  {hint}" if hint else ""))
    if adopt:
        _adopt(model, adapted)
    try:
        model.load_state_dict(adapted)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _adopt(model: Module, state: dict[str, Any]) -> None:
    """Exchange the memory of parameters and buffers for arrays of ``state`` of the same dtype that nothing else shares."""
    taken: set[int] = set()
    for name, target in model.state_dict(keep_vars=True).items():
        value = state.get(name)
        flags = getattr(value, "flags", None)
        if value is None or flags is None or value.dtype != target.dtype or value.shape != target.shape:
            continue
        owner = value if value.base is None else value.base
        if flags.c_contiguous and flags.writeable and owner.nbytes == value.nbytes and id(owner) not in taken:
            taken.add(id(owner))
            target.data = value
