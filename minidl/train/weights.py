"""The finished model as one file: weights, and everything that is needed to use them.

The metadata of ``model.safetensors`` holds a JSON object: the model's name and options, the class names, the shape of
an input, the preprocessing, the data set and minidl's version.  There is no date in it: equal runs give equal files.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import minidl
from minidl.autograd.grad_mode import no_grad
from minidl.data import transforms
from minidl.errors import CheckpointError, MinidlError
from minidl.io import safetensors
from minidl.nn import Module
from minidl.ops.creation import zeros

_KEY = "minidl.model"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What a weight file says about its model.

    Args:
        model: the name in ``minidl.models``; ``options`` are passed to ``minidl.models.create`` with it.
        input_shape: (C, H, W).
        class_names: in the order of the outputs.
        preprocessing: ``config()`` of the transform between an image and the net.
        data: the data set that it was trained on.
        version: of minidl.
    """

    model: str
    options: dict[str, Any]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    preprocessing: Any
    data: str = ""
    version: str = minidl.__version__


def save_model(path: str | os.PathLike[str], model: Module, card: ModelCard | None = None) -> None:
    """Write the model's state dict, and its card if it has one; atomically, and equal models give equal bytes."""
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    safetensors.save_file(arrays, path, {_KEY: json.dumps(dataclasses.asdict(card))} if card else {})


def load_model(path: str | os.PathLike[str]) -> tuple[Module, ModelCard]:
    """Build the net that ``path`` describes, with its weights, in evaluation mode.

    Raises :class:`~minidl.errors.CheckpointError` for a damaged file, one without a card, and weights that do not fit.
    """
    from minidl import models

    arrays, metadata = safetensors.load_file(path)
    where = os.fspath(path)
    if _KEY not in metadata:
        raise CheckpointError(
            f"{where} holds weights but does not say of which net; expected a file that `minidl train` wrote"
        )
    try:
        card = _card(json.loads(metadata[_KEY]))
        model = models.create(card.model, **card.options)
    except MinidlError as error:
        raise CheckpointError(f"{where}: cannot build its model: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where}: its description is damaged ({error}); use another copy of it") from error
    try:
        model.load_state_dict(arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    model.eval()
    with no_grad():
        outputs = model(zeros(0, *card.input_shape)).shape
    if outputs != (0, len(card.class_names)):
        raise CheckpointError(
            f"{where}: its net has an output of {outputs[1:]} for each image, but it names {len(card.class_names)} "
            "classes; its description is damaged, use another copy of it"
        )
    return model, card


def _card(values: Any) -> ModelCard:
    """The description in a file, every part checked: the file may come from anywhere.  Raises nearly anything."""
    c, h, w = (int(size) for size in values["input_shape"])
    names = tuple("".join(x if x.isprintable() else "?" for x in str(name)) for name in values["class_names"])
    card = ModelCard(**{**values, "input_shape": (c, h, w), "class_names": names})
    for name in ("model", "data", "version"):
        if not isinstance(getattr(card, name), str):
            raise ValueError(f"{name} is no text")
    if min(c, h, w) < 1:
        raise ValueError(f"images of shape {(c, h, w)}")
    transforms.from_config(card.preprocessing or [])
    return card
