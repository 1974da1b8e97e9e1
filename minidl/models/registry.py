"""The nets minidl knows by name."""
from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from minidl.errors import ConfigError
from minidl.nn.module import Module

Builder = Callable[..., Module]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a net before it is built: its name, its builder, a line about it, and the options it takes."""

    name: str
    build: Builder
    summary: str
    options: tuple[str, ...]


_MODELS: dict[str, ModelInfo] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Make ``build(num_classes, in_channels, **options)`` known as ``name``; the first line of its docstring describes it."""

    def add(build: Builder) -> Builder:
        if name in _MODELS:
            raise ConfigError(f"models.register: there is a model {name!r} already")
        summary = (inspect.getdoc(build) or "").split("\n", 1)[0]
        _MODELS[name] = ModelInfo(name, build, summary, tuple(inspect.signature(build).parameters))
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
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(list_models())}"
        raise ConfigError(f"models: no model {name!r}; {hint}")
    return info


def create(
    name: str, num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] | None = None, **options: Any
) -> Module:
    """Build the net ``name``.

    Args:
        num_classes: length of the output, the logits.
        in_channels: the input's axis 1.
        image_size: height and width of the images, for nets whose first fully connected layer depends on it; the others
            take any size and ignore it.
        options: the net's own; see ``model_info(name).options``.

    Raises:
        ConfigError: an unknown name or option.
    """
    info = model_info(name)
    for option in options:
        if option not in info.options:
            own = [o for o in info.options if o not in ("num_classes", "in_channels")]
            raise ConfigError(f"model {name}: no option {option!r}; it takes: {', '.join(own) or 'none'}")
    if image_size is not None and "image_size" in info.options:
        options["image_size"] = image_size
    return info.build(num_classes=num_classes, in_channels=in_channels, **options)
