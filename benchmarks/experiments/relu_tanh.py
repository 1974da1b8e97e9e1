"""ReLU against tanh: how many epochs does a four-layer net need until its training error on CIFAR-10 is 25 %?

Figure 1 of Krizhevsky, Sutskever and Hinton 2012: "a four-layer convolutional neural network with ReLUs reaches a 25% training
error rate on CIFAR-10 six times faster than an equivalent network with tanh neurons. The learning rates for each network were
chosen independently to make training as fast as possible. No regularization of any kind was employed." The paper does not give
the net; ours has three convolutions and a linear layer, with max-pooling, and no normalisation, dropout, decay or augmentation.

The learning rates of a grid are tried in turn, from the middle outwards; one that has taken as many epochs as the best so far is
given up, so the best rate is found and little time is lost. The training error is that of an epoch's own batches, and the epochs
to 25 % are interpolated between the two epochs around it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minidl
from benchmarks.bench import ROOT
from benchmarks.experiments import common
from minidl import data, nn, optim
from minidl.errors import NumericsError
from minidl.inspect import draw
from minidl.nn import init
from minidl.train import environment
from minidl.train.build import load_split, preprocess
from minidl.train.progress import Plain
from minidl.train.trainer import Trainer

GRID = (0.02, 0.01, 0.04, 0.005, 0.08)  # the middle first
ACTIVATIONS = ("relu", "tanh")
RECIPE: dict[str, Any] = {"data": "cifar10", "optimizer": "sgd", "momentum": 0.9, "batch_size": 128}
GOAL = 0.25
PAPER = 6.0  # times as many epochs with tanh


def four_layers(activation: str) -> nn.Sequential:
    """Three 5x5 convolutions of 32, 32 and 64 channels with max-pooling, and a linear layer: 89,578 parameters.

    Weights are drawn as suits the activation (Glorot and Bengio 2010 for tanh, He et al. 2015 for ReLU), so that neither is
    held back by its start.
    """
    layers: list[nn.Module] = []
    in_channels = 3
    for channels in (32, 32, 64):
        conv = nn.Conv2d(in_channels, channels, 5, padding=2)
        if activation == "tanh":
            init.xavier_uniform_(conv.weight)
        else:
            init.kaiming_uniform_(conv.weight, nonlinearity="relu")
        init.zeros_(conv.bias)
        layers += [conv, nn.Tanh() if activation == "tanh" else nn.ReLU(), nn.MaxPool2d(2)]
        in_channels = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


class Watch(Plain):
    """Ends the run when the training error is low enough, or has been too high for too long."""

    def __init__(self, goal: float, patience: float) -> None:
        super().__init__(every=math.inf)
        self.goal, self.patience = goal, patience
        self.errors: list[float] = []
        self.seconds = 0.0
        self.trainer: Any = None

    def start_table(self) -> None:
        """No table: a line for each run is enough."""

    def epoch(self, values: Sequence[Any]) -> None:
        self.errors.append(1 - values[2])
        self.seconds += values[6]
        if self.errors[-1] <= self.goal or len(self.errors) >= self.patience:
            self.trainer.epochs = self.trainer.epoch  # it is finished


def epochs_to(errors: Sequence[float], goal: float) -> float | None:
    """Epochs until the error is ``goal``, interpolated on straight lines; None if it never is.

    The running error of epoch k is about that in the epoch's middle.

    >>> epochs_to([0.5, 0.3, 0.2], 0.25)
    2.0
    >>> epochs_to([0.5, 0.3], 0.25) is None
    True
    """
    for k, error in enumerate(errors):
        if error <= goal:
            before = errors[k - 1] if k else None
            back = 0.0 if before is None else (goal - error) / (before - error)
            return round(k + 0.5 - back, 2)
    return None


def run(activation: str, lr: float, most: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train with one rate for at most ``most`` epochs."""
    watch = Watch(options.goal, most)
    minidl.manual_seed(options.seed)
    model = four_layers(activation)
    images = load_split(RECIPE["data"], "train", limit=options.limit)
    loader = data.DataLoader(
        images, RECIPE["batch_size"], shuffle=True, transform=preprocess(RECIPE["data"], 3), seed=options.seed
    )
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=RECIPE["momentum"])
    trainer = watch.trainer = Trainer(model, optimizer, loader, epochs=most, reporter=watch)
    failure = None
    try:
        if trainer.fit().signal is not None:
            raise SystemExit("stopped")
    except NumericsError:
        failure = "diverged"
    reached = epochs_to(watch.errors, options.goal)
    last = f"{watch.errors[-1]:.1%}" if watch.errors else "-"
    outcome = failure or (f"{reached} epochs" if reached is not None else f"given up at {last} after {len(watch.errors)}")
    print(f"{activation}, lr {lr:g}: {outcome}, {watch.seconds:.0f} s", flush=True)
    return {
        "activation": activation, "lr": lr, "epochs_to_goal": reached, "diverged": failure is not None,
        "train_error": [common.percent(error) for error in watch.errors], "seconds": round(watch.seconds, 1),
    }  # fmt: skip


def best(runs: Sequence[dict[str, Any]], activation: str) -> dict[str, Any] | None:
    """The run of an activation that was the first at the goal."""
    there = [r for r in runs if r["activation"] == activation and r["epochs_to_goal"] is not None]
    return min(there, key=lambda r: r["epochs_to_goal"], default=None)


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "relu_tanh")
    parser.set_defaults(out=ROOT / "benchmarks" / "results" / "cifar10" / "experiments" / "relu-tanh.json")
    parser.add_argument("--most", type=int, default=40, metavar="EPOCHS", help="give up after so many; default: %(default)s")
    parser.add_argument("--goal", type=float, default=GOAL, help="training error; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, metavar="N", help="use only N images, to try it out")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="default: beside the JSON")
    options = parser.parse_args()
    environment.set_threads(options.threads)
    draw.check()  # before hours of training
    runs: list[dict[str, Any]] = []
    for activation in ACTIVATIONS:
        for lr in GRID:
            leader = best(runs, activation)
            most = options.most if leader is None else min(options.most, math.ceil(leader["epochs_to_goal"]) + 1)
            runs.append(run(activation, lr, most, options))
    leaders = {activation: best(runs, activation) for activation in ACTIVATIONS}
    relu, tanh = (leader and leader["epochs_to_goal"] for leader in (leaders["relu"], leaders["tanh"]))
    ratio = round(tanh / relu, 2) if relu and tanh else None
    print(f"epochs to {options.goal:.0%}: ReLU {relu}, tanh {tanh}: {ratio} times as many (the paper: about {PAPER:g})")
    for name, leader in leaders.items():
        if leader and leader["lr"] in (min(GRID), max(GRID)):
            print(f"{name}: the best rate is the grid's last, {leader['lr']:g}; one beyond it may be better")
    recipe = {**RECIPE, "threads": options.threads, "seed": options.seed, "limit": options.limit, "goal": options.goal}
    question = f"How many times as many epochs does tanh need as ReLU, to {options.goal:.0%} training error?"
    common.keep(options.out, question, recipe, runs, epochs={"relu": relu, "tanh": tanh}, ratio=ratio, paper=PAPER)
    plot = options.plot or options.out.with_suffix(".png")
    lines: list[tuple[str, draw.Points, draw.Points]] = [
        (f"{name}, learning rate {leader['lr']:g}", list(enumerate(leader["train_error"], 1)), [])
        for name, leader in leaders.items()
        if leader
    ]
    if lines:
        draw.curves(lines, plot, title="training error of a four-layer net on CIFAR-10")
        print(f"drawn to {plot}")


if __name__ == "__main__":
    main()
