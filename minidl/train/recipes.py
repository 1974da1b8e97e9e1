"""Recipes: sets of options that are known to work together, each a TOML file that can be read, printed and copied.

Those of the package lie in ``minidl/recipes``; any other file will do as well.  The keys are the fields of
:class:`~minidl.train.config.TrainConfig`; what a file leaves out keeps its default.  A file of the package begins with a comment:
a line that says what it is, then where its values come from and what they reach.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import minidl
from minidl.errors import ConfigError
from minidl.train.config import TrainConfig, check_choice

FOLDER = Path(minidl.__file__).parent / "recipes"
_OF_MODEL = {"convnetjs": "convnetjs-fast", "lenet5": "lenet-mnist", "resnet20": "resnet20"}


def list_recipes() -> list[str]:
    """The names of the package's recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(recipe: str | os.PathLike[str]) -> Path:
    """The file of a recipe: one of the package by its name, any other by its path, which ends in ``.toml``.

    Raises:
        ConfigError: there is no such recipe.
    """
    path = Path(recipe)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"recipe {path}: there is no such file (the package has: {', '.join(list_recipes())})")
        return path
    check_choice("recipe", os.fspath(recipe), tuple(list_recipes()))
    return FOLDER / f"{recipe}.toml"


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options in a recipe's file.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has an unknown key or an impossible value; the message names the
            file, the key and what is expected.
    """
    try:
        values = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}; expected lines such as epochs = 10 or model = \"resnet20\"") from None
    if "recipe" in values:
        raise ConfigError(f"{path}: recipe: the file's own name is the recipe's; leave this key out")
    TrainConfig.from_json(values, str(path))
    return values


def comment(path: str | os.PathLike[str]) -> list[str]:
    """The lines of comment with which a recipe's file begins: its source, and what it reaches."""
    lines = []
    for line in _text(path).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the recipe ({error})") from None


def resolve(recipe: str | os.PathLike[str] | None = None, **options: Any) -> TrainConfig:
    """The recipe's options, overridden by those of ``options`` that are not None.

    Args:
        recipe: a name, or the path of a ``.toml`` file.  None: the one made for the model, except for its data set.
    """
    if recipe is None:
        path = find(_OF_MODEL.get(options.get("model") or "", "default"))
        values = {name: value for name, value in read(path).items() if name != "data"}
    else:
        path = find(recipe)
        values = read(path)
    values.update({name: value for name, value in options.items() if value is not None})
    return TrainConfig.from_json({**values, "recipe": path.stem})


def write(config: TrainConfig) -> str:
    """All options of ``config`` as a recipe's file; those that are not set as comments, since TOML has no null."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "recipe"}
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}  # last, as TOML wants them
    lines = [
        f"# {name}: not set" if value is None else f"{name} = {_toml(value)}"
        for name, value in values.items()
        if name not in tables
    ]
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON's way to write text, numbers and lists is TOML's too; of tables it is not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else json.dumps(key)
