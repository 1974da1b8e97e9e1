"""The nets minidl knows by name."""
from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from minidl.errors import ConfigError
from minidl.models.fit import compare
from minidl.models.weights import Weights, load_weights, read_weights, resized_head
from minidl.nn import init
from minidl.nn.module import Module

Builder = Callable[..., Module]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a net before it is built.

    Args:
        name: as ``create`` takes it.
        build: the function that builds it.
        summary: a line about it.
        options: the names of what ``build`` takes.
        num_classes, in_channels: what ``build`` takes by default; None where it has no such option.
        paper: where it was published.
        input_size: side of the square images that it was made for, in pixels.
        parameters: how many it has with its default options; None where that was not stated.
        reported: the accuracy that the paper reports, in words.
        weights: published weights that fit it.
    """

    name: str
    build: Builder
    summary: str
    options: tuple[str, ...]
    num_classes: int | None = None
    in_channels: int | None = None
    paper: str = ""
    input_size: int = 32
    parameters: int | None = None
    reported: str = ""
    weights: tuple[Weights, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the net was made for."""
        return self.in_channels or 3, self.input_size, self.input_size

    @property
    def preprocessing(self) -> list[dict[str, Any]] | None:
        """What an image goes through before the published weights, for ``minidl.data.transforms.from_config``."""
        return self.weights[0].preprocessing if self.weights else None


_MODELS: dict[str, ModelInfo] = {}


def register(
    name: str, *, paper: str = "", input_size: int = 32, parameters: int | None = None, reported: str = "",
    weights: tuple[Weights, ...] = (),
) -> Callable[[Builder], Builder]:
    """Make ``build(num_classes, in_channels, **options)`` known as ``name``; the first line of its docstring describes it.

    The other arguments are the ModelInfo's.
    """

    def add(build: Builder) -> Builder:
        if name in _MODELS:
            raise ConfigError(f"models.register: there is a model {name!r} already")
        summary = (inspect.getdoc(build) or "").split("\n", 1)[0]
        taken = inspect.signature(build).parameters
        num_classes, in_channels = (
            taken[option].default if option in taken and taken[option].default is not inspect.Parameter.empty else None
            for option in ("num_classes", "in_channels")
        )
        _MODELS[name] = ModelInfo(
            name, build, summary, tuple(taken), num_classes, in_channels, paper, input_size, parameters, reported, weights
        )
        return build

    return add


def list_models(pattern: str = "*") -> list[str]:
    """The names of all nets that match a shell pattern such as ``"resnet*"``, sorted."""
    return sorted(name for name in _MODELS if fnmatch(name, pattern))


def model_info(name: str) -> ModelInfo:
    """What is known of the net ``name``.

    Raises:
        ConfigError: no such net; the message names the closest ones.
    """
    info = _MODELS.get(name)
    if info is None:
        close = difflib.get_close_matches(str(name).lower(), _MODELS, n=3, cutoff=0.5)
        known = f"`minidl models`, or minidl.models.list_models(), names the {len(_MODELS)} that there are"
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else known
        raise ConfigError(f"models: no model {name!r}; {hint}")
    return info


def create(
    name: str, num_classes: int | None = None, in_channels: int | None = None,
    image_size: int | tuple[int, int] | None = None, weights: str | os.PathLike[str] | None = None, **options: Any,
) -> Module:
    """Build the net ``name``.

    Args:
        num_classes: length of the output, the logits.  By default as published (1000 for ImageNet's nets, 10 for CIFAR's)
            or, with ``weights``, as many as these have.
        in_channels: the input's axis 1; by default as published.
        image_size: height and width of the images, for nets whose layers depend on it; the others take any size and
            ignore it.
        weights: a file with the net's state dict, ``.safetensors`` or torch's ``.pth``.  No random numbers are drawn then.
        options: the net's own; see ``model_info(name).options``.

    Raises:
        ConfigError: an unknown name or option.
        CheckpointError: a file that cannot be read or does not fit; the message names the nets that it fits.
    """
    info = model_info(name)
    for option in options:
        if option not in info.options:
            own = [o for o in info.options if o not in ("num_classes", "in_channels")]
            raise ConfigError(f"model {name}: no option {option!r}; it takes: {', '.join(own) or 'none'}")
    given = {"num_classes": num_classes, "in_channels": in_channels}
    options = {**{key: value for key, value in given.items() if value is not None}, **options}
    if image_size is not None and "image_size" in info.options:
        options["image_size"] = image_size
    if weights is None:
        return info.build(**options)
    state = read_weights(weights)
    if num_classes is None:
        with init.shape_only():
            classes = resized_head(info.build(**options), state)
        options.update({} if classes is None else {"num_classes": classes})
    with init.skip_init():
        model = info.build(**options)
    load_weights(model, state, os.fspath(weights), closest_models, adopt=True)
    return model


def fitting_models(state: dict[str, Any]) -> list[str]:
    """The nets whose state dict has the names and shapes of ``state``, another number of classes allowed."""
    return sorted(name for name, share in closest_models(state) if share == 1)


def closest_models(state: dict[str, Any]) -> list[tuple[str, float]]:
    """All nets with the share of names and shapes in which ``state`` agrees with them, the best first.

    Another number of classes is allowed.  No net takes memory for it.
    """
    found = []
    for name, info in _MODELS.items():
        with init.shape_only():
            model = info.build()
            classes = resized_head(model, state)
            if classes is not None:
                model = info.build(num_classes=classes)
        found.append((name, compare(model.state_dict(), state).share))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))
