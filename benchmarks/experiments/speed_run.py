"""The speed run's training step, with minidl and with PyTorch: how long does each take?

The recipe `speedrun` says net, batch, loss and optimiser. PyTorch runs the same net, our own source with torch.nn in the place of
minidl.nn, in both of its memory formats; the ratio is to the faster one. Each contender is a process of its own, and they take
turns. All begin with the same weights and images, and must agree on the loss before and after the first update.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.bench import ROOT, UNSET, Timing, clean_environment
from benchmarks.experiments import common

RECIPE = "speedrun"
OURS, TORCH, CHANNELS_LAST = "minidl", "torch", "torch channels_last"
CONTENDERS = (OURS, TORCH, CHANNELS_LAST)
# Float32 rounding; after the update, of a step at a high learning rate. Another padding, loss or update differs by far more.
BEFORE, AFTER = 1e-4, 1e-2


class Contender:
    """The net with its batch and its optimiser. ``library`` is minidl or torch: one text for both."""

    def __init__(self, library: Any, model: Any, groups: list[dict[str, Any]], batch: Any, config: Any) -> None:
        self.model, (self.images, self.labels) = model.train(), batch
        self.loss = library.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.optimizer = library.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)

    def step(self) -> float:
        """One update; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


def build(name: str, threads: int, batch: int | None) -> tuple[Contender, dict[str, Any]]:
    """The contender ``name``, and what there is to know of its step."""
    import numpy as np

    import minidl
    from minidl import models
    from minidl.train import environment
    from minidl.train.build import make_optimizer
    from minidl.train.recipes import resolve

    config = resolve(RECIPE, batch_size=batch)
    environment.set_threads(threads)
    minidl.manual_seed(0)
    model: Any = models.create(config.model, **config.model_options)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((config.batch_size, *models.model_info(config.model).input_shape), dtype=np.float32)
    labels = rng.integers(0, 10, config.batch_size)
    model.prepare(minidl.tensor(images))
    groups = [{**group} for group in make_optimizer(config, model).param_groups]
    facts = {"batch": config.batch_size, "gflop": gflop(model, images.shape), "options": config.model_options}
    if name == OURS:
        return Contender(minidl, model, groups, (minidl.tensor(images), minidl.tensor(labels)), config), facts

    import torch

    torch.set_num_threads(threads)
    twins = importlib.import_module("tests.models.twins").Twins(torch, inplace=True)
    twin = twins.create(config.model, **config.model_options)
    twin.load_state_dict({key: torch.from_numpy(np.array(t.numpy())) for key, t in model.state_dict().items()})
    order = torch.channels_last if name == CHANNELS_LAST else torch.contiguous_format
    twin.to(memory_format=order)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    own = dict(twin.named_parameters())
    for group in groups:
        group["params"] = [own[names[id(parameter)]] for parameter in group["params"]]
    data = torch.from_numpy(images).contiguous(memory_format=order), torch.from_numpy(labels)
    return Contender(torch, twin, groups, data, config), facts


def gflop(model: Any, shape: tuple[int, ...]) -> float:
    """Billions of operations of a step: two for each multiply-accumulate of the layers that have them.

    Backward takes as many for the gradient of the weights, and for that of the input; but the first layer is frozen, and
    the second one's input then needs none.
    """
    from minidl.inspect import table

    macs = [row.macs for row in table(model, shape[1:]).rows if row.macs]
    return 2e-9 * shape[0] * (3 * sum(macs) - 2 * macs[0] - macs[1])


def serve(connection: Connection, name: str, threads: int, batch: int | None) -> None:
    """A contender's process: makes as many steps as it is asked for, and answers with their seconds and losses."""
    contender, facts = build(name, threads, batch)
    connection.send(facts)
    while (steps := connection.recv()) is not None:
        wall, cpu = time.perf_counter(), time.process_time()
        losses = [contender.step() for _ in range(steps)]
        wall, cpu = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
        connection.send({"wall": wall, "cpu": cpu, "losses": losses})


def race(threads: int, rounds: int, steps: int, batch: int | None) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The facts, and the answers of each contender, round by round."""
    context = multiprocessing.get_context("spawn")
    pipes = {name: context.Pipe() for name in CONTENDERS}
    workers = [context.Process(target=serve, args=(pipes[name][1], name, threads, batch), daemon=True) for name in CONTENDERS]
    for worker in workers:
        worker.start()
    for _, theirs in pipes.values():
        theirs.close()  # so that a contender that fails ends the file
    ours = {name: pipe for name, (pipe, _) in pipes.items()}

    def ask(name: str, count: int) -> dict[str, Any]:
        ours[name].send(count)
        return ours[name].recv()

    try:
        facts = [ours[name].recv() for name in CONTENDERS][0]
        first = {name: ask(name, 2)["losses"] for name in CONTENDERS}
        agree(first)
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for turn in range(rounds):
            for name in CONTENDERS if turn % 2 == 0 else CONTENDERS[::-1]:
                taken[name].append(ask(name, steps))
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return facts, taken


def agree(losses: dict[str, list[float]]) -> None:
    """That all contenders have the same loss before the first update, and after it.

    Raises:
        ValueError: they have not.
    """
    for name, found in losses.items():
        for ours, theirs, allowed in zip(losses[OURS], found, (BEFORE, AFTER), strict=True):
            if not abs(ours - theirs) <= allowed * abs(ours):
                raise ValueError(f"{OURS} and {name} have losses of {losses[OURS]} and {found}; timing them means nothing")


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "speed_run")
    parser.set_defaults(out=ROOT / "benchmarks" / "results" / "cifar10" / "speed-run-step.json")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1, help="of each contender in a round; default: %(default)s")
    parser.add_argument("--batch", type=int, help="default: the recipe's")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of the process, for a busy machine")
    options = parser.parse_args()
    os.environ.update(clean_environment(options.threads))
    for name in UNSET:
        os.environ.pop(name, None)
    facts, taken = race(options.threads, options.rounds, options.steps, options.batch)
    seconds = {name: [answer[options.clock] for answer in taken[name]] for name in CONTENDERS}
    timings = {name: Timing.of(seconds[name]) for name in CONTENDERS}
    rival = min(CONTENDERS[1:], key=lambda name: timings[name].median)
    ratio = Timing.of([ours / theirs for ours, theirs in zip(seconds[OURS], seconds[rival], strict=True)])
    runs = []
    for name, timing in timings.items():
        runs.append({
            "library": name, "seconds": timing.median, "low": timing.low, "high": timing.high,
            "images_per_second": round(facts["batch"] / timing.median, 1),
            "gflop_per_second": round(facts["gflop"] / timing.median, 1),
        })  # fmt: skip
        print("{library:<20} {seconds:.3f} s a step, {images_per_second} images/s, {gflop_per_second} GFLOP/s".format(**runs[-1]))
    print(f"{OURS} / {rival}: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
    recipe = {"name": RECIPE, **facts, "threads": options.threads, "rounds": options.rounds, "steps": options.steps,
              "clock": options.clock}  # fmt: skip
    found = {"reference": rival, "median": ratio.median, "low": ratio.low, "high": ratio.high}
    common.keep(options.out, "How long does a step of the speed run take, beside PyTorch's?", recipe, runs, ratio=found)


if __name__ == "__main__":
    main()
