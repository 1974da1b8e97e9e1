"""Use finished nets: test them on a data set, or ask them about pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import minidl
from minidl import data
from minidl.autograd.grad_mode import no_grad
from minidl.errors import ConfigError
from minidl.train.build import load_split, warned
from minidl.train.checkup import checkup
from minidl.train.ensemble import Member, Prepared, combined, load_members
from minidl.train.evaluate import Evaluation, evaluate_members
from minidl.train.progress import Quiet
from minidl.train.views import Views
from minidl.train.weights import ModelCard

Guess = tuple[str, float]


def test_file(path: str | os.PathLike[str], *, device: str = "cpu", **options: Any) -> tuple[ModelCard, Evaluation]:
    """Test the model in file ``path``; the options are those of :func:`test_members`."""
    members = load_members([path], device=device)
    return members[0].card, test_members(members, **options)


def test_members(
    members: Sequence[Member],
    *,
    data_name: str | None = None,
    root: str | None = None,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 256,
    views: Views | str | int = "none",
    skip_unreadable: bool = False,
    reporter: Quiet | None = None,
) -> Evaluation:
    """Test nets, together if there are several, on a data set (by default the one the first was trained on).

    Args:
        views: of each image, see :class:`~minidl.train.views.Views`.
        skip_unreadable: leave pictures of a folder that cannot be decoded out, instead of stopping; ``reporter`` names them.

    Raises:
        ConfigError: the data set's images or classes are not the nets', or no data set is known.
    """
    views = Views.parse(views)
    name = data_name or members[0].card.data
    if not name:
        raise ConfigError(f"{members[0].where}: it is not known what it was trained on; name a data set with --data")
    with warned(reporter or Quiet()):
        loaders = [_loader(m, name, root, split, limit, batch_size, views, skip_unreadable) for m in members]
    return evaluate_members(
        members,
        loaders,
        views=views,
        num_classes=len(members[0].card.class_names),
        reporter=reporter,
        total=len(loaders[0].dataset),
    )


def examine(path: str | os.PathLike[str], *, root: str | None = None, images: int = 128) -> list[str]:
    """Look the model in file ``path`` over, with images it was trained on: what is wrong, a sentence for each thing.

    See :func:`minidl.train.checkup.checkup`.

    Raises:
        CheckpointError: the file is damaged.  DataError: the data set is not there.
    """
    (member,) = load_members([path])
    if not member.card.data:
        return checkup(member.model)
    loader = _loader(member, member.card.data, root, "train", images, images)
    batch, _ = next(iter(loader))
    return checkup(member.model, minidl.from_numpy(batch[:, 0]))


def images_for(
    member: Member, name: str, root: str | None, split: str, limit: int | None = None,
    views: Views | str | int = "none", skip_unreadable: bool = False,
) -> data.Dataset:  # fmt: skip
    """A data set's images of a size that ``member`` can prepare; its classes may be any.

    Raises:
        ConfigError: images of another size or number of channels than the net takes.
        DataError: the data are missing.
    """
    card, preparation = member.card, member.preparation
    size = (preparation.resize,) * 2 if preparation.resize and Views.parse(views).kind == "ten-crop" else preparation.size
    dataset = load_split(
        name, split, root, limit, size=size, grey=card.input_shape[0] == 1, resize=preparation.resize,
        skip_unreadable=skip_unreadable,
    )  # fmt: skip
    if dataset.image_shape != card.input_shape and not (preparation.resize and dataset.image_shape[0] == card.input_shape[0]):
        raise ConfigError(
            f"{member.where} takes images {card.input_shape}, but {name} has {dataset.image_shape}; give --data a set that fits"
        )
    return dataset


def _loader(
    member: Member, name: str, root: str | None, split: str, limit: int | None, batch_size: int,
    views: Views | str | int = "none", skip_unreadable: bool = False,
) -> data.DataLoader:  # fmt: skip
    """The data set's images as ``member`` wants them."""
    dataset = images_for(member, name, root, split, limit, views, skip_unreadable)
    if len(dataset.class_names) != len(member.card.class_names):
        raise ConfigError(
            f"{member.where} knows {len(member.card.class_names)} classes, but {name} has {len(dataset.class_names)}; give "
            "--data a set that fits"
        )
    return data.DataLoader(dataset, batch_size, transform=Prepared(member.preparation, views))  # type: ignore[arg-type]


def predict_files(
    path: str | os.PathLike[str], images: Iterable[str | os.PathLike[str]], *, top: int = 3, device: str = "cpu"
) -> Iterator[tuple[Path, list[Guess]]]:
    """As :func:`predict_members`, for the model file ``path``."""
    yield from predict_members(load_members([path], device=device), images, top=top)


def predict_members(
    members: Sequence[Member], images: Iterable[str | os.PathLike[str]], *, top: int = 3,
    views: Views | str | int = "none",
) -> Iterator[tuple[Path, list[Guess]]]:  # fmt: skip
    """For each picture file, the ``top`` most probable classes with their probabilities.

    A picture is converted to the net's colours, resized so that its shorter side fits, and cropped in the middle, as the
    model file says.  With several nets or views, the probabilities are averaged.  Equal ones are ordered by class.
    """
    views = Views.parse(views)
    names = members[0].card.class_names
    for image in map(Path, images):
        prepared = []
        for member in members:
            pixels = member.preparation.read(image, member.card.input_shape[0] == 1)
            prepared.append(member.preparation.views(pixels, views))
        with no_grad():
            probabilities = combined(members, prepared, views).exp()[0].tolist()
        order = sorted(range(len(probabilities)), key=lambda k: (-probabilities[k], k))
        yield image, [(names[k], probabilities[k]) for k in order[:top]]
