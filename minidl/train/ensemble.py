"""Nets that answer together, and pictures that are looked at several times.

The prediction for a picture is the mean of the probabilities that each net gives each view of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import minidl
from minidl import data, models
from minidl.backend import get_backend
from minidl.data import transforms
from minidl.data.folder import read_image
from minidl.errors import ConfigError, DataError
from minidl.models.weights import MEAN, STD
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.ops.reduce import logsumexp
from minidl.ops.shape import stack
from minidl.tensor import Tensor
from minidl.train.views import Views
from minidl.train.weights import ModelCard, load_model

Array = Any


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What happens to a picture before the net, taken apart.

    Args:
        size: (height, width) of what the net takes.
        resize: pixels of the picture's shorter side before the cut to ``size``; None: the picture is scaled to ``size``.
        rest: the transforms after that.
        interpolation: how ``resize`` is done.
    """

    size: tuple[int, int]
    resize: int | None
    rest: transforms.Compose
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, card: ModelCard) -> Preparation:
        """From the preprocessing that a model file carries; random parts are left out."""
        kept = transforms.from_config(card.preprocessing or []).deterministic()
        parts = list(kept.transforms) if isinstance(kept, transforms.Compose) else [] if kept is None else [kept]
        if len(parts) > 1 and isinstance(parts[0], transforms.Resize) and isinstance(parts[1], transforms.CenterCrop):
            resize, crop = parts[0].size, parts[1].size
            if isinstance(resize, int) and resize >= max(crop):
                return cls(crop, resize, transforms.Compose(parts[2:]), parts[0].interpolation)
        return cls(card.input_shape[1:], None, transforms.Compose(parts))

    def read(self, path: str | os.PathLike[str], grayscale: bool) -> Array:
        """A picture file as uint8 (1, C, H, W), scaled and not yet cut."""
        if self.resize is None:
            return read_image(path, size=self.size, grayscale=grayscale)[None]
        scaled = transforms.Resize(self.resize, self.interpolation)
        return scaled(read_image(path, grayscale=grayscale)[None], None)  # type: ignore[arg-type]

    def cut(self, images: Array, size: int | None = None) -> Array:
        """The middle of images (N, C, H, W), resized: what the net sees of them, or ``size`` x ``size`` of it."""
        rng: Any = None  # nothing here is random
        if self.resize is None or images.shape[-2:] == self.size:
            return images
        if min(images.shape[-2:]) != self.resize:
            images = transforms.Resize(self.resize, self.interpolation)(images, rng)
        return transforms.CenterCrop(size or self.size)(images, rng)

    def config(self) -> dict[str, Any]:
        """What is done, JSON-able."""
        return {"name": "Preparation", "size": list(self.size), "resize": self.resize, "rest": self.rest.config(),
                "interpolation": self.interpolation}

    def deterministic(self) -> Preparation:
        """Itself: as a transform, ``preparation(images, None)``, it gives one view of each image."""
        return self

    def __call__(self, images: Array, rng: Any) -> Array:
        return self.views(images, 1)[:, 0]

    def views(self, images: Array, kind: Views | str | int) -> Array:
        """(N, C, H, W) -> (N, views, C, h, w), scaled, cut and ready for the net; see :class:`~minidl.train.views.Views`.

        Images of the net's size are not scaled.
        """
        kind = Views.parse(kind)
        crops = kind.kind == "ten-crop"
        viewed = kind.cut(self.cut(images, self.resize if crops else None), self.size if crops else images.shape[-2:])
        n = viewed.shape[0]
        flat = transforms.to_float(self.rest(viewed.reshape(n * kind.count, *viewed.shape[2:]), None))  # type: ignore[arg-type]
        return flat.reshape(n, kind.count, *flat.shape[1:])


class Prepared:
    """The views of a batch, as a DataLoader's transform."""

    def __init__(self, preparation: Preparation, kind: Views | str | int) -> None:
        self.preparation, self.kind = preparation, Views.parse(kind)

    def __call__(self, images: Array, rng: Any) -> Array:
        return self.preparation.views(images, self.kind)


@dataclasses.dataclass(frozen=True)
class Member:
    """One net of an ensemble: in evaluation mode, on its device, with what its file says about it."""

    model: Module
    card: ModelCard
    where: str
    device: str = "cpu"

    @property
    def preparation(self) -> Preparation:
        return Preparation.of(self.card)


def log_probabilities(model: Any, images: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Log of the (weighted) mean over views of the probabilities: (N, views, C, H, W) -> (N, classes)."""
    n, views = images.shape[:2]
    scores = F.log_softmax(model(images.reshape(n * views, *images.shape[2:])), dim=1)
    if views == 1:
        return scores
    scores = scores.reshape(n, views, -1)
    if weights is None:
        return logsumexp(scores, 1) - math.log(views)
    return logsumexp(scores + minidl.tensor([[math.log(w)] for w in weights]).to(scores.device), 1)


def combined(members: Sequence[Member], images: Iterable[Array], views: Views | str | int = "none") -> Tensor:
    """Log of the mean probability of all members: (N, classes) on the first one's device.

    Args:
        images: for each member, (N, views, C, H, W) prepared as it wants them.
        views: which views these are, if some count more than others.
    """
    weights = Views.parse(views).weights
    given = [
        log_probabilities(m.model, minidl.from_numpy(x).to(m.device), weights)
        for m, x in zip(members, images, strict=True)
    ]
    return given[0] if len(given) == 1 else logsumexp(stack(given), 0) - math.log(len(given))


# ------------------------------------------------------------------------------------------------------------- loading


def load_members(
    names: Sequence[str | os.PathLike[str]],
    *,
    weights: Sequence[str | os.PathLike[str]] = (),
    classes: str | os.PathLike[str] | None = None,
    preprocess: str | None = None,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
) -> list[Member]:
    """The nets that ``names`` stand for.

    Args:
        names: model files that carry a description, or names of nets in the zoo.
        weights: for each net of the zoo, in order, a ``.pth`` or ``.safetensors`` file.
        classes: a file with the names of the classes, see :func:`read_classes`.
        preprocess: how images were prepared for weights of which minidl does not know it: "imagenet", or a data set whose
            mean and standard deviation were used.
        options: of the nets of the zoo.

    Raises:
        ConfigError: an unknown name, too many or too few weights, nets whose classes differ.
        CheckpointError: a file that is damaged or does not fit.
    """
    get_backend(device)
    left = list(weights)
    members = []
    for name in names:
        if _is_file(name):
            model, card = load_model(name)
        else:
            if not left:
                raise ConfigError(f"{name}: nets of the zoo come without weights; give a file that fits: --weights FILE")
            model, card = _zoo_net(str(name), left.pop(0), preprocess, options or {})
        members.append(Member(model.to(device), card, os.fspath(name), device))
    if not members:
        raise ConfigError("no model is given")
    if left:
        raise ConfigError(f"--weights {left[0]}: there is no net by name that it could be for; model files have their own")
    if classes is not None:
        told = read_classes(classes)
        members = [dataclasses.replace(m, card=_renamed(m.card, told, m.where, classes)) for m in members]
    first = members[0]
    for other in members[1:]:
        if other.card.class_names != first.card.class_names:
            raise ConfigError(
                f"{other.where} knows {len(other.card.class_names)} classes ({_some(other.card.class_names)}), {first.where} "
                f"{len(first.card.class_names)} ({_some(first.card.class_names)}); an ensemble needs the same ones in the "
                "same order"
            )
    return members


def _is_file(name: str | os.PathLike[str]) -> bool:
    """Whether a model is meant by its file and not by its name in the zoo."""
    path = Path(name)
    if path.suffix.lower() in (".pth", ".pt", ".bin", ".ckpt"):
        raise ConfigError(
            f"{path} holds weights but does not say of which net; name it: minidl predict NET --weights {path} IMAGE"
        )
    if path.suffix == ".safetensors" or path.exists() or path.parent != Path("."):
        return True
    models.model_info(str(name))  # or an error that names similar ones
    return False


def _zoo_net(
    name: str, weights: str | os.PathLike[str], preprocess: str | None, options: dict[str, Any]
) -> tuple[Module, ModelCard]:
    info = models.model_info(name)
    stem = Path(weights).stem
    published = next((w for w in info.weights if Path(w.url).stem == stem), info.weights[0] if info.weights else None)
    size = published.crop if published else info.input_size
    model = models.create(name, image_size=size, weights=weights, **options).eval()
    first = next(iter(model.parameters()))
    channels = first.shape[1] if first.ndim == 4 else info.input_shape[0]
    steps = published.preprocessing if published else None
    if preprocess is not None:
        steps = _steps(preprocess, size, channels)
    if steps is None:
        raise ConfigError(
            f"{name}: minidl does not know how images were prepared for {weights}; say so with --preprocess, imagenet or the "
            "name of the data set whose mean and standard deviation were used"
        )
    with minidl.no_grad():
        classes = model(minidl.zeros(0, channels, size, size)).shape[1]
    names = tuple(f"class {k}" for k in range(classes))
    return model, ModelCard(name, options, (channels, size, size), names, steps)


def _steps(preprocess: str, size: int, channels: int) -> list[dict[str, Any]]:
    """The preprocessing that a word stands for."""
    if preprocess == "imagenet":
        resize = {"name": "Resize", "size": round(size * 256 / 224)}
        mean: tuple[float, ...] = MEAN
        std: tuple[float, ...] = STD
        steps = [resize, {"name": "CenterCrop", "size": size}]
    else:
        info = data.dataset_info(preprocess)
        mean, std, steps = tuple(info.mean), tuple(info.std), []
    if len(mean) not in (1, channels):
        raise ConfigError(f"--preprocess {preprocess}: is for {len(mean)} channels, the net takes {channels}")
    return [*steps, {"name": "ToFloat"}, {"name": "Normalize", "mean": list(mean), "std": list(std)}]


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of classes from a file: text with one on each line, a JSON list, or a JSON object {"0": name, ...}.

    In JSON a name may also be a list whose last entry is the name, as in ``{"0": ["n01440764", "tench"]}``.

    Raises:
        DataError: the file cannot be read as any of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the names of the classes ({error})") from None
    if text.lstrip()[:1] not in ("[", "{"):
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    else:
        try:
            found = json.loads(text)
            if isinstance(found, dict):
                found = [found[str(k)] for k in range(len(found))]
            names = tuple(str(entry[-1] if isinstance(entry, list) else entry) for entry in found)
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(
                f'{path}: expected a JSON list of names, or an object {{"0": name, "1": ...}} ({type(error).__name__}: {error})'
            ) from None
    if not names:
        raise DataError(f"{path}: holds no names; expected one class on each line")
    return names


def _renamed(card: ModelCard, names: tuple[str, ...], where: str, file: str | os.PathLike[str]) -> ModelCard:
    if len(names) != len(card.class_names):
        raise ConfigError(f"{file} names {len(names)} classes, but {where} has {len(card.class_names)}")
    return dataclasses.replace(card, class_names=names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
