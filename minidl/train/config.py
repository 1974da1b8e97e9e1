"""The options of a training run, their checks, and the recipes: named sets of options that are known to work."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

from minidl.errors import ConfigError

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta")
SCHEDULES = ("constant", "cosine", "step", "onecycle", "plateau")
AUGMENTS = ("auto", "none", "shift", "flip", "standard", "strong")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes; it is written to the run folder and read back by ``--resume``.

    Args:
        data: name of a data set (``minidl data list``), or ``folder:PATH``.
        data_root: folder with the data sets; None: ``MINIDL_DATA`` or the cache folder.
        image_size: height and width to which the pictures of a folder are cut; None: 64.
        skip_unreadable: leave pictures of a folder that cannot be decoded out, instead of stopping; they are named.
        model: name of a net (``minidl.models.list_models()``); ``model_options`` go to it.
        epochs: passes over the training images; ``max_steps`` stops earlier, after so many updates.
        batch_size: images per update.
        limit: use only so many images of each split, evenly spread.
        optimizer: one of :data:`OPTIMIZERS`; ``lr``, ``momentum`` (SGD, RMSprop), ``nesterov`` and ``weight_decay`` are
            its options.  Biases and normalisation parameters are never decayed.
        schedule: one of :data:`SCHEDULES`, over the whole run: constant; cosine to 0; step (a tenth after 1/2 and 3/4);
            onecycle (up during the first quarter, then down to 0); plateau (halved when the test loss stops falling).
            ``warmup`` epochs rise linearly first.
        label_smoothing: fraction of the target spread over all classes.
        augment: none; shift (2 pixels); flip (mirror) and shift; standard (mirror, crop after padding by 4);
            strong (standard and cutout); auto: what suits the data.
        clip_norm: largest norm of the gradient; None: no clipping.
        ema: decay of the moving average of the weights that is tested and saved; None: the weights themselves.
        seed: of the initial weights, the order of images, augmentation and dropout.
        threads: of the kernels (NumPy's matrix products take half as many); None: one for each core.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        val_every: test after every so many epochs (and after the last).
        checkpoint_seconds, checkpoint_steps: how often the state is saved within an epoch.
        recipe: the name of the recipe that these options started from.
    """

    data: str = "shapes10"
    data_root: str | None = None
    image_size: int | None = None
    skip_unreadable: bool = False
    model: str = "smallconv"
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 64
    limit: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    augment: str = "auto"
    clip_norm: float | None = None
    ema: float | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    val_every: int = 1
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    recipe: str = "default"

    def __post_init__(self) -> None:
        for name in ("data", "data_root", "model", "device", "recipe"):
            self._check(name, lambda value: isinstance(value, str), "text")
        if not isinstance(self.model_options, dict) or not all(isinstance(key, str) for key in self.model_options):
            raise ConfigError(f"model_options: expected the names of options with their values, got {self.model_options!r}")
        for name in ("nesterov", "skip_unreadable"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augment", AUGMENTS)):
            check_choice(name, getattr(self, name), choices)
        for name in (
            "epochs",
            "max_steps",
            "batch_size",
            "image_size",
            "limit",
            "threads",
            "val_every",
            "checkpoint_steps",
        ):
            self._check(name, lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1")
        self._check(
            "seed", lambda value: isinstance(value, int) and 0 <= value < 2**63, "a whole number from 0 to 2^63-1"
        )
        for name in ("lr", "checkpoint_seconds", "clip_norm"):
            self._check(name, lambda value: _is_number(value) and value > 0, "a number above 0")
        for name in ("momentum", "label_smoothing", "ema"):
            self._check(name, lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
        for name in ("weight_decay", "warmup"):
            self._check(name, lambda value: _is_number(value) and value >= 0, "a number of at least 0")
        if self.warmup and self.warmup >= self.epochs:
            raise ConfigError(
                f"warmup: {self.warmup:g} epochs of warm-up leave nothing of {self.epochs} epochs; shorten it"
            )

    def _check(self, name: str, holds: Any, expected: str) -> None:
        value = getattr(self, name)
        optional = TrainConfig.__dataclass_fields__[name].default is None
        if not (optional and value is None) and (isinstance(value, bool) or not holds(value)):
            raise ConfigError(f"{name}: expected {expected}, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        """As a dictionary for ``config.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, where: str = "the configuration") -> TrainConfig:
        """Back from such a dictionary.

        Raises:
            ConfigError: it is no dictionary, or has an unknown name or an impossible value.
        """
        if not isinstance(values, dict):
            found = "no options" if values is None else f"{str(values)[:80]!r}"
            raise ConfigError(f"{where}: expected the options of a run with their values, found {found}; start a new run")
        for name in values:
            check_choice(f"{where}: option", name, tuple(cls.__dataclass_fields__))
        return cls(**values)


RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    # Karpathy's ConvNetJS CIFAR-10 demo: https://cs.stanford.edu/people/karpathy/convnetjs/demo/cifar10.html
    "convnetjs": {
        "data": "cifar10", "model": "convnetjs", "optimizer": "adadelta", "lr": 1.0, "batch_size": 4,
        "weight_decay": 1e-4, "epochs": 10, "schedule": "constant", "augment": "flip",
    },
    "convnetjs-fast": {
        "data": "cifar10", "model": "convnetjs", "optimizer": "adamw", "lr": 4e-3, "batch_size": 64,
        "weight_decay": 1e-4, "epochs": 10, "schedule": "onecycle", "augment": "flip",
    },
    "lenet-mnist": {
        "data": "mnist", "model": "lenet5", "optimizer": "sgd", "lr": 0.05, "batch_size": 64,
        "weight_decay": 1e-4, "epochs": 5, "schedule": "onecycle", "augment": "none",
    },
    # He et al. 2015, section 4.2 (batch 128, lr 0.1, 164 epochs), shortened: one cycle instead of steps.
    "resnet20": {
        "data": "cifar10", "model": "resnet20", "optimizer": "sgd", "lr": 0.1, "batch_size": 128,
        "weight_decay": 1e-4, "epochs": 30, "schedule": "onecycle", "augment": "standard",
    },
}  # fmt: skip

_RECIPE_OF_MODEL = {"convnetjs": "convnetjs-fast", "lenet5": "lenet-mnist", "resnet20": "resnet20"}


def resolve(recipe: str | None = None, **options: Any) -> TrainConfig:
    """The recipe's options, overridden by those of ``options`` that are not None.

    Without a recipe, the one made for the model is taken, except for its data set.
    """
    if recipe is None:
        recipe = _RECIPE_OF_MODEL.get(options.get("model") or "", "default")
        values = {name: value for name, value in RECIPES[recipe].items() if name != "data"}
    else:
        check_choice("recipe", recipe, tuple(RECIPES))
        values = dict(RECIPES[recipe])
    values.update({name: value for name, value in options.items() if value is not None})
    return TrainConfig.from_json({**values, "recipe": recipe})


def check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a ConfigError that lists the choices, with the closest first as a suggestion."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{what} {value!r} is not known{hint} (known: {', '.join(choices)})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
