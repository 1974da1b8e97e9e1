"""A net by its name, or as `minidl train` saved it, as an ONNX file that is tried out at once."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl import models
from minidl.errors import CheckpointError, ConfigError
from minidl.io.onnx_export import difference, export_onnx
from minidl.nn import Module
from minidl.train.weights import load_model


@dataclass(frozen=True)
class Exported:
    """What was written: of which net, for images of which shape, and how far onnxruntime's outputs are from minidl's.

    ``error`` is relative to the largest output; None where onnxruntime is not installed.
    """

    title: str
    input_shape: tuple[int, int, int]
    parameters: int
    error: float | None

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.input_shape))
        if self.error is None:
            checked = "not tried out, onnxruntime is not installed"
        else:
            checked = f"onnxruntime agrees within {self.error:.1e}"
        return f"{self.title}, {self.parameters:,} parameters, input (N, {shape}): {checked}"


def export(
    model: str | Path, target: str | Path, weights: str | Path | None = None, num_classes: int | None = None,
    image_size: int | None = None,
) -> Exported:
    """Write ``model`` as the ONNX file ``target``.

    Args:
        model: a file that `minidl train` wrote, or a name in ``minidl.models``.
        weights: of a net by name: a file of torch or safetensors; without, the initial values.
        num_classes, image_size: of a net by name; as published by default.

    Raises:
        ConfigError: no such file or net, or an option that a file decides.
        CheckpointError, GraphError: see :func:`minidl.io.onnx_export.export_onnx`.
    """
    net: Module
    if Path(model).is_file():
        if weights is not None or num_classes is not None or image_size is not None:
            raise ConfigError(f"export: {model} has its own weights, classes and image size; leave these options out")
        net, card = load_model(model)
        title, shape = card.model, card.input_shape
        notes: dict[str, Any] = {"class_names": card.class_names, "preprocessing": card.preprocessing}
    else:
        info = models.model_info(str(model))
        net = models.create(info.name, num_classes=num_classes, image_size=image_size, weights=weights)
        side = image_size or info.input_size
        title, shape = info.name, (info.in_channels or 3, side, side)
        notes = {"preprocessing": info.preprocessing if weights else None}
    metadata = {f"minidl.{key}": json.dumps(value) for key, value in notes.items() if value}
    export_onnx(net, (1, *shape), target, metadata={"minidl.model": title, **metadata})
    error = difference(net, (1, *shape), target)
    if error is not None and not error < 1e-3:  # rounding makes 1e-6; this is a wrong operation
        raise CheckpointError(
            f"{target}: onnxruntime's outputs differ from minidl's by {error:.1e} of the largest; do not use it"
        )
    return Exported(title, shape, sum(parameter.numel() for parameter in net.parameters()), error)
