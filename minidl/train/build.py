"""From options to a trainer: the data, the net, the optimiser and the schedule that a :class:`TrainConfig` names."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import minidl
from minidl import data, models, optim
from minidl.backend import get_backend
from minidl.backend.dtypes import dtype_of
from minidl.data import transforms
from minidl.errors import ConfigError
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.tensor import Tensor
from minidl.train.config import TrainConfig
from minidl.train.ensemble import Preparation, Prepared
from minidl.train.progress import Quiet
from minidl.train.record import RunFolder
from minidl.train.trainer import Trainer
from minidl.train.weights import ModelCard

TEST_BATCH = 256
PREPARE_WITH = 5000  # training images that a net's prepare() gets
_DIGITS = ("mnist", "digits")  # data whose mirror images are something else


def build(config: TrainConfig, folder: RunFolder | None = None, reporter: Quiet | None = None) -> Trainer:
    """Make everything that ``config`` names; the seed is set first, so equal options give equal runs.

    A model with a method ``prepare(images)`` is given the first 5,000 training images, as a Tensor (N, C, H, W) ready for the
    net and not augmented: it may set weights from them (whitening, scales) and freeze some, but draws no random numbers.  What
    it sets is part of its state dict, so finished models and checkpoints need no images.
    """
    models.model_info(config.model)  # before anything that takes time: is there such a net, such a device, such a dtype?
    get_backend(config.device)
    dtype_of(config.precision)  # bfloat16 needs a package
    minidl.manual_seed(config.seed)
    with warned(reporter or Quiet()):
        train_set, test_set = datasets(config)
    shape = train_set.image_shape
    preprocessing = preprocess(config.data, shape[0])
    augmentation = augment(config)
    mirrors = [part for part in augmentation if isinstance(part, transforms.RandomHorizontalFlip)]
    alternate = config.flip == "alternating" and bool(mirrors)
    if alternate:
        augmentation = [part for part in augmentation if part not in mirrors]
    train_loader = data.DataLoader(
        train_set,
        config.batch_size,
        shuffle=True,
        drop_last=config.drop_last,
        alternate=alternate,
        transform=transforms.Compose([*augmentation, preprocessing]),
        seed=config.seed,
    )
    test_loader = data.DataLoader(test_set, TEST_BATCH, transform=preprocessing)

    options: dict[str, Any] = {
        "num_classes": len(train_set.class_names),
        "in_channels": shape[0],
        "image_size": shape[1:],
    }
    options.update(config.model_options)
    model = models.create(config.model, **options).to(config.device)
    if hasattr(model, "prepare"):
        plain = data.DataLoader(train_set, min(PREPARE_WITH, len(train_set)), transform=preprocessing)
        model.prepare(minidl.from_numpy(next(iter(plain))[0]).to(config.device))
    optimizer = make_optimizer(config, model)
    steps = len(train_loader)
    total = int(min(config.epochs * steps, config.max_steps or math.inf))
    card = ModelCard(config.model, options, shape, tuple(train_set.class_names), preprocessing.config(), config.data)
    plateau = config.schedule == "plateau"
    views = Prepared(Preparation.of(card), config.tta)
    tta_batch = max(1, TEST_BATCH // views.kind.count)  # as many pictures for the net at once
    return Trainer(
        model,
        optimizer,
        train_loader,
        test_loader,
        loss=cross_entropy(config.label_smoothing),
        epochs=config.epochs,
        max_steps=config.max_steps,
        schedule=make_schedule(config, optimizer, total, steps),
        plateau=optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=2) if plateau else None,
        lookahead=optim.Lookahead(model, total, config.lookahead) if config.lookahead else None,
        ema=optim.EMA(model, config.ema) if config.ema else None,
        clip_norm=config.clip_norm,
        precision=config.precision,
        val_every=config.val_every,
        tta=views.kind,
        tta_loader=data.DataLoader(test_set, tta_batch, transform=views) if views.kind.count > 1 else None,  # type: ignore[arg-type]
        train_error_loader=data.DataLoader(train_set, TEST_BATCH, transform=preprocessing) if config.train_error else None,
        folder=folder,
        card=card,
        checkpoint_seconds=config.checkpoint_seconds,
        checkpoint_steps=config.checkpoint_steps,
        reporter=reporter,
        device=config.device,
    )


@contextlib.contextmanager
def warned(reporter: Quiet) -> Iterator[None]:
    """Python's warnings of what happens within it go to ``reporter``, each once: pictures that are left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        reporter.warn(text)


def datasets(config: TrainConfig) -> tuple[data.Dataset, data.Dataset]:
    """The training and the test images."""
    size = config.image_size
    if not config.data.startswith("folder:"):
        if size is not None:
            raise ConfigError(f"image_size: only folder:PATH is resized; {config.data} has images of one size")
    options: dict[str, Any] = {"size": (size or 64, size or 64), "skip_unreadable": config.skip_unreadable}
    train, test = (load_split(config.data, split, config.data_root, config.limit, **options) for split in ("train", "test"))
    return train, test


def load_split(
    name: str,
    split: str,
    root: str | None = None,
    limit: int | None = None,
    size: tuple[int, int] = (64, 64),
    grey: bool = False,
    resize: int | None = None,
    skip_unreadable: bool = False,
) -> data.Dataset:
    """A split of a data set, or ``limit`` images of it; ``size`` and what follows it are for ``folder:PATH``."""
    if skip_unreadable and not name.startswith("folder:"):
        raise ConfigError(f"skip_unreadable: is for folder:PATH; {name} is checked as a whole")
    if name.startswith("folder:"):
        options: dict[str, Any] = {"resize": resize, "grayscale": grey, "skip_unreadable": skip_unreadable}
        dataset = data.load(name, split=split, size=size, **options)
    elif limit is not None and (info := data.dataset_info(name)).kind == "generated":
        return data.load(name, split=split, size=min(limit, info.counts[split]))  # draw no more than are used
    else:
        dataset = data.load(name, root=root, split=split)
    if limit is None or limit >= len(dataset):
        return dataset
    # Evenly spread: a folder is sorted by class, and its first images would all be of one.
    return data.Subset(dataset, [k * len(dataset) // limit for k in range(limit)])


def preprocess(name: str, channels: int) -> transforms.Transform:
    """What every image goes through, in training, testing and prediction alike: to [0, 1], then mean 0 and std 1."""
    mean, std = (0.5,) * channels, (0.25,) * channels
    if not name.startswith("folder:"):
        info = data.dataset_info(name)
        mean, std = info.mean, info.std
    return transforms.Compose([transforms.ToFloat(), transforms.Normalize(mean, std)])


def augment(config: TrainConfig) -> list[transforms.Transform]:
    """The random transforms of ``config.augment``; "auto" depends on the data's name."""
    kind, name = config.augment, config.data
    if kind == "auto":
        kind = "shift" if name in _DIGITS else "standard" if name.startswith("cifar") else "flip"
    flip = transforms.RandomHorizontalFlip()
    crop = transforms.RandomCrop(padding=config.shift or 4, mode=config.border)
    shift = transforms.RandomShift(config.shift or 2, mode=config.border)
    kinds: dict[str, list[transforms.Transform]] = {
        "none": [],
        "shift": [shift],
        "flip": [flip, shift],
        "standard": [flip, crop],
        "strong": [flip, crop, transforms.Cutout(8)],
    }
    return kinds[kind]


def cross_entropy(label_smoothing: float) -> Any:
    """The loss: cross-entropy, its targets mixed with ``label_smoothing`` of the uniform distribution."""

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels, label_smoothing=label_smoothing)

    return loss


def make_optimizer(config: TrainConfig, model: Module) -> Any:
    """The optimiser over what is not frozen: weights in one group, biases and normalisation's parameters in another."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = []
    for params, lr, decay in (
        (weights, config.lr, config.weight_decay),
        (others, config.lr * config.bias_lr, config.weight_decay if config.decay_biases else 0.0),
    ):
        # An update takes lr * weight_decay of a weight.
        if params:
            groups.append({"params": params, "lr": lr, "weight_decay": decay / lr if config.decoupled else decay})
    if config.optimizer == "sgd":
        return optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
        )
    if config.optimizer == "rmsprop":
        return optim.RMSprop(groups, lr=config.lr, momentum=config.momentum)
    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "adagrad": optim.Adagrad, "adadelta": optim.Adadelta}
    # ConvNetJS's values. With PyTorch's (0.9 and 1e-6) and batches of 4, its net stays below 45 % on CIFAR-10: eps sets the
    # smallest step, and the steps never become small.
    extra = {"rho": 0.95, "eps": 1e-8} if config.optimizer == "adadelta" else {}
    return kinds[config.optimizer](groups, lr=config.lr, **extra)


def make_schedule(config: TrainConfig, optimizer: Any, total: int, steps_per_epoch: int) -> Any:
    """The learning-rate schedule over ``total`` updates, stepped after each; None for a constant rate."""
    schedule = optim.schedule
    warmup = round(config.warmup * steps_per_epoch)
    rest = max(total - warmup, 1)
    if config.schedule in ("onecycle", "triangle"):
        shape: dict[str, Any] = {}
        if config.schedule == "triangle":
            low, end = max(config.lr_start, 1e-12), max(config.lr_end, 1e-12)  # as divisors
            shape = {"anneal_strategy": "linear", "div_factor": 1 / low, "final_div_factor": low / end}
        # One step more than there are updates: the schedule is stepped after the last one too.
        return schedule.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total + 1,
            pct_start=config.rise,
            cycle_momentum=False,
            **shape,
        )
    main: Any = None
    if config.schedule == "cosine":
        main = schedule.CosineAnnealingLR(optimizer, T_max=rest)
    elif config.schedule == "step":
        # SequentialLR counts from the end of the warm-up.
        given = [count - warmup for count in config.milestones or ()]
        main = schedule.MultiStepLR(optimizer, milestones=given or [rest // 2, rest * 3 // 4], gamma=0.1)
    if not warmup:
        return main
    rise = schedule.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    if main is None:
        return rise
    return schedule.SequentialLR(optimizer, [rise, main], milestones=[warmup])
