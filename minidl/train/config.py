"""The options of a training run, and their checks."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

from minidl.errors import ConfigError
from minidl.train.views import Views

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta")
SCHEDULES = ("constant", "cosine", "step", "onecycle", "triangle", "plateau")
AUGMENTS = ("auto", "none", "shift", "flip", "standard", "strong")
FLIPS = ("random", "alternating")
BORDERS = ("zero", "reflect")
PRECISIONS = ("float32", "bfloat16", "float16")


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
        batch_size: images per update; ``drop_last`` leaves out a last batch that is not full.
        limit: use only so many images of each split, evenly spread.
        optimizer: one of :data:`OPTIMIZERS`; ``lr``, ``momentum`` (SGD, RMSprop), ``nesterov`` and ``weight_decay`` are
            its options.  Biases and normalisation parameters are not decayed, but with ``decay_biases``, and their rate
            is ``bias_lr`` times the others'.
        decoupled: ``weight_decay`` is then what a weight loses in an update at the highest learning rate, as a share of
            itself, whatever that rate is; so the two can be chosen one after the other.
        schedule: one of :data:`SCHEDULES`, over the whole run: constant; cosine to 0; step (a tenth after each of the
            ``milestones``, numbers of updates; by default after 1/2 and 3/4); onecycle (up during the first ``rise`` of all
            updates, then down to 0, along cosines); triangle (the same along straight lines, from ``lr_start`` and down to
            ``lr_end`` times ``lr``); plateau (halved when the test loss stops falling).  ``warmup`` epochs rise linearly
            first.
        label_smoothing: fraction of the target spread over all classes.
        augment: none; shift (2 pixels); flip (mirror) and shift; standard (mirror, crop after padding by 4);
            strong (standard and cutout); auto: what suits the data.  ``shift``: so many pixels instead; ``border``: black
            ("zero") or mirrored ("reflect") pixels come in; ``flip``: "random", or "alternating" from epoch to epoch.
        clip_norm: largest norm of the gradient; None: no clipping.
        precision: one of :data:`PRECISIONS`, in which the products of an update are computed; weights and tests are float32
            in any case.  float16 scales the loss.  See docs/mixed-precision.md.
        lookahead: how much of their slow average the weights keep when, every 5 updates, they are set back to it; the
            share at the end of the run, to which it rises.  None: never.  See :class:`minidl.optim.Lookahead`.
        ema: decay of the moving average of the weights that is tested and saved; None: the weights themselves.
        tta: views of each image that the last test averages over, beside the test without: none, flip, shift or ten-crop;
            see :class:`minidl.train.views.Views`.
        train_error: test on the training images as well, once at the end, without augmentation.
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
    drop_last: bool = False
    limit: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_biases: bool = False
    decoupled: bool = False
    bias_lr: float = 1.0
    schedule: str = "onecycle"
    milestones: list[int] | None = None
    rise: float = 0.25
    lr_start: float = 0.2
    lr_end: float = 0.0
    warmup: float = 0.0
    label_smoothing: float = 0.0
    augment: str = "auto"
    shift: int | None = None
    border: str = "zero"
    flip: str = "random"
    clip_norm: float | None = None
    precision: str = "float32"
    lookahead: float | None = None
    ema: float | None = None
    tta: str = "none"
    train_error: bool = False
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
        for name in ("nesterov", "skip_unreadable", "drop_last", "decay_biases", "decoupled", "train_error"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        kinds = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "augment": AUGMENTS, "border": BORDERS, "flip": FLIPS,
                 "precision": PRECISIONS}  # fmt: skip
        for name, choices in kinds.items():
            check_choice(name, getattr(self, name), choices)
        Views.parse(self.tta)
        counts = ("epochs", "max_steps", "batch_size", "image_size", "limit", "shift", "threads", "val_every", "checkpoint_steps")
        for name in counts:
            self._check(name, lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1")
        self._check(
            "seed", lambda value: isinstance(value, int) and 0 <= value < 2**63, "a whole number from 0 to 2^63-1"
        )
        for name in ("lr", "bias_lr", "checkpoint_seconds", "clip_norm"):
            self._check(name, lambda value: _is_number(value) and value > 0, "a number above 0")
        for name in ("momentum", "label_smoothing", "lookahead", "ema"):
            self._check(name, lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
        for name in ("weight_decay", "warmup"):
            self._check(name, lambda value: _is_number(value) and value >= 0, "a number of at least 0")
        for name in ("rise", "lr_start", "lr_end"):
            self._check(name, lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
        self._check("milestones", _increasing, "numbers of updates, each larger than the one before")
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
    def from_json(cls, values: Any, where: str = "") -> TrainConfig:
        """Back from such a dictionary; ``where`` it was found is what an error begins with.

        Raises:
            ConfigError: it is no dictionary, or has an unknown name or an impossible value.
        """
        if not isinstance(values, dict):
            found = "no options" if values is None else f"{str(values)[:80]!r}"
            raise ConfigError(f"{where}: expected the options of a run with their values, found {found}; start a new run")
        for name in values:
            check_choice(f"{where}: option" if where else "option", name, tuple(cls.__dataclass_fields__))
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def check_choice(what: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a ConfigError that lists the choices, with the closest first as a suggestion."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{what} {value!r} is not known{hint} (known: {', '.join(choices)})")


def _increasing(value: Any) -> bool:
    whole = isinstance(value, list) and all(isinstance(count, int) and not isinstance(count, bool) for count in value)
    return whole and len(value) > 0 and value[0] > 0 and all(a < b for a, b in zip(value, value[1:], strict=False))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
