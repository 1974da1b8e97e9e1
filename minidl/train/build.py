"""From options to a trainer: the data, the net, the optimiser and the schedule that a :class:`TrainConfig` names."""

from __future__ import annotations

import math
import warnings
from typing import Any

import minidl
from minidl import data, models, optim
from minidl.backend import get_backend
from minidl.data import transforms
from minidl.errors import ConfigError
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.tensor import Tensor
from minidl.train.config import TrainConfig
from minidl.train.progress import Quiet
from minidl.train.record import RunFolder
from minidl.train.trainer import Trainer
from minidl.train.weights import ModelCard

TEST_BATCH = 256
_DIGITS = ("mnist", "digits")  # data whose mirror images are something else


def build(config: TrainConfig, folder: RunFolder | None = None, reporter: Quiet | None = None) -> Trainer:
    """Make everything that ``config`` names; the seed is set first, so equal options give equal runs."""
    models.model_info(config.model)  # before anything that takes time: is there such a net, such a device?
    get_backend(config.device)
    minidl.manual_seed(config.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        train_set, test_set = datasets(config)
    for text in dict.fromkeys(str(warning.message) for warning in caught):  # pictures that were left out
        (reporter or Quiet()).warn(text)
    shape = train_set.image_shape
    preprocessing = preprocess(config.data, shape[0])
    augmentation = augment(config.augment, config.data)
    train_loader = data.DataLoader(
        train_set,
        config.batch_size,
        shuffle=True,
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
    optimizer = make_optimizer(config, model)
    steps = len(train_loader)
    total = min(config.epochs * steps, config.max_steps or math.inf)
    card = ModelCard(config.model, options, shape, tuple(train_set.class_names), preprocessing.config(), config.data)
    plateau = config.schedule == "plateau"
    return Trainer(
        model,
        optimizer,
        train_loader,
        test_loader,
        loss=cross_entropy(config.label_smoothing),
        epochs=config.epochs,
        max_steps=config.max_steps,
        schedule=make_schedule(config, optimizer, int(total), steps),
        plateau=optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=2) if plateau else None,
        ema=optim.EMA(model, config.ema) if config.ema else None,
        clip_norm=config.clip_norm,
        val_every=config.val_every,
        folder=folder,
        card=card,
        checkpoint_seconds=config.checkpoint_seconds,
        checkpoint_steps=config.checkpoint_steps,
        reporter=reporter,
        device=config.device,
    )


def datasets(config: TrainConfig) -> tuple[data.Dataset, data.Dataset]:
    """The training and the test images."""
    size = config.image_size
    if not config.data.startswith("folder:"):
        if size is not None:
            raise ConfigError(f"image_size: only folder:PATH is resized; {config.data} has images of one size")
        if config.skip_unreadable:
            raise ConfigError(f"skip_unreadable: is for folder:PATH; {config.data} is checked as a whole")
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


def augment(kind: str, name: str) -> list[transforms.Transform]:
    """The random transforms of ``kind`` (see :class:`TrainConfig`); "auto" depends on the data's name."""
    if kind == "auto":
        kind = "shift" if name in _DIGITS else "standard" if name.startswith("cifar") else "flip"
    flip, crop = transforms.RandomHorizontalFlip(), transforms.RandomCrop(padding=4)
    kinds: dict[str, list[transforms.Transform]] = {
        "none": [],
        "shift": [transforms.RandomShift(2)],
        "flip": [flip, transforms.RandomShift(2)],
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
    """The optimiser, with weight decay on weights of two or more dimensions only."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((weights, config.weight_decay), (others, 0.0))
        if params
    ]
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
    if config.schedule == "onecycle":
        # One step more than there are updates: the schedule is stepped after the last one too.
        return schedule.OneCycleLR(
            optimizer, max_lr=config.lr, total_steps=total + 1, pct_start=0.25, cycle_momentum=False
        )
    main: Any = None
    if config.schedule == "cosine":
        main = schedule.CosineAnnealingLR(optimizer, T_max=rest)
    elif config.schedule == "step":
        main = schedule.MultiStepLR(optimizer, milestones=[rest // 2, rest * 3 // 4], gamma=0.1)
    if not warmup:
        return main
    rise = schedule.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    if main is None:
        return rise
    return schedule.SequentialLR(optimizer, [rise, main], milestones=[warmup])
