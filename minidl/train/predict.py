"""Use a finished model file: test it on a data set, or ask it about pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import minidl
from minidl import data
from minidl.autograd.grad_mode import no_grad
from minidl.backend import get_backend
from minidl.data import transforms
from minidl.data.folder import read_image
from minidl.errors import ConfigError
from minidl.nn import functional as F
from minidl.train.build import load_split
from minidl.train.evaluate import Evaluation, evaluate
from minidl.train.progress import Quiet
from minidl.train.weights import ModelCard, load_model

Guess = tuple[str, float]


def test_file(
    path: str | os.PathLike[str],
    *,
    data_name: str | None = None,
    root: str | None = None,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 256,
    device: str = "cpu",
    reporter: Quiet | None = None,
) -> tuple[ModelCard, Evaluation]:
    """Test the model in file ``path`` on a data set (by default the one it was trained on).

    Raises :class:`~minidl.errors.ConfigError` when the data set's images or classes are not the model's.
    """
    get_backend(device)
    model, card = load_model(path)
    name = data_name or card.data
    c, h, w = card.input_shape
    dataset = load_split(name, split, root, limit, size=(h, w), grey=c == 1)
    if len(dataset.class_names) != len(card.class_names) or dataset.image_shape != card.input_shape:
        raise ConfigError(
            f"{os.fspath(path)} takes images {card.input_shape} of {len(card.class_names)} classes, but {name} has "
            f"{dataset.image_shape} and {len(dataset.class_names)}; give --data a set that fits"
        )
    loader = data.DataLoader(dataset, batch_size, transform=transforms.from_config(card.preprocessing))
    result = evaluate(
        model.to(device),
        loader,
        num_classes=len(card.class_names),
        device=device,
        reporter=reporter,
        total=len(dataset),
    )
    assert result is not None  # nothing asks it to stop
    return card, result


def predict_files(
    path: str | os.PathLike[str], images: Iterable[str | os.PathLike[str]], *, top: int = 3, device: str = "cpu"
) -> Iterator[tuple[Path, list[Guess]]]:
    """For each picture file, the ``top`` most probable classes with their probabilities, from the model file ``path``.

    A picture is converted to the model's colours, resized so that its shorter side fits, and cropped in the middle.
    """
    get_backend(device)
    model, card = load_model(path)
    model.to(device)
    preprocessing: Any = transforms.from_config(card.preprocessing).deterministic()
    c, h, w = card.input_shape
    for image in map(Path, images):
        pixels = read_image(image, size=(h, w), grayscale=c == 1)[None]
        if preprocessing is not None:
            pixels = preprocessing(pixels, None)  # it has no random part, so it needs no generator
        with no_grad():
            scores = model(minidl.from_numpy(pixels).to(device))
            probabilities = F.softmax(scores, dim=1)[0].tolist()
        order = sorted(range(len(probabilities)), key=lambda k: (-probabilities[k], k))
        yield image, [(card.class_names[k], probabilities[k]) for k in order[:top]]
