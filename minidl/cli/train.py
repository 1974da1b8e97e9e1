"""``minidl train``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, key_values, print_table, root_option
from minidl.errors import ConfigError, MinidlError
from minidl.train.config import AUGMENTS, BORDERS, FLIPS, OPTIMIZERS, PRECISIONS, SCHEDULES


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """``32000,48000`` as a list."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--{parameter.name}: expected whole numbers as in 32000,48000, got {value!r}")
    return [int(part) for part in parts]


@cli.command()
@click.option("--data", metavar="NAME", help="Data set (see `minidl data list`), or folder:PATH.  [default: shapes10]")
@root_option
@click.option("--data-file", metavar="FILE", help="The data set's downloaded file, for closed networks.")
@click.option("--image-size", type=int, metavar="PIXELS", help="For folder:PATH: height and width.  [default: 64]")
@click.option("--skip-unreadable", is_flag=True, default=None, help="For folder:PATH: leave out pictures that cannot be decoded.")
@click.option("--model", metavar="NAME", help="Net, by its name in minidl.models.  [default: smallconv]")
@click.option(
    "--model-option", "model_options", metavar="KEY=VALUE", multiple=True, help="Option of the net; repeatable."
)
@click.option("--recipe", metavar="NAME|FILE.toml", help="Options that work together: `minidl recipes`.  [default: the model's]")
@click.option("--show", is_flag=True, help="Print the options that would be used as a recipe's file, and stop.")
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--max-steps", type=int, help="Stop after so many updates.")
@click.option("--batch-size", type=int, help="Images per update.")
@click.option("--drop-last/--no-drop-last", default=None, help="Leave out a last batch that is not full.")
@click.option("--limit", type=int, metavar="N", help="Use only N images of each split.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS))
@click.option("--lr", type=float, help="Learning rate (its highest value, with a schedule).")
@click.option("--momentum", type=float, help="For sgd and rmsprop.")
@click.option("--nesterov/--no-nesterov", default=None, help="For sgd: momentum that looks ahead.  [default: yes]")
@click.option("--weight-decay", type=float, help="Not applied to biases and normalisation.")
@click.option("--decay-biases/--no-decay-biases", default=None, help="Applied to them as well.")
@click.option("--decoupled/--no-decoupled", default=None, help="--weight-decay is what an update takes at the highest rate.")
@click.option("--bias-lr", type=float, metavar="FACTOR", help="Of the learning rate, for biases and normalisation.")
@click.option("--schedule", type=click.Choice(SCHEDULES), help="How the learning rate changes.")
@click.option("--milestones", callback=_numbers, metavar="N,N", help="For step: updates after which it is a tenth.")
@click.option("--rise", type=float, metavar="SHARE", help="For onecycle and triangle: of the updates, those in which it rises.")
@click.option("--warmup", type=float, metavar="EPOCHS", help="Epochs in which the learning rate rises.")
@click.option("--label-smoothing", type=float)
@click.option("--augment", type=click.Choice(AUGMENTS), help="Random changes of the training images.")
@click.option("--shift", type=int, metavar="PIXELS", help="How far they are moved.  [default: as --augment says]")
@click.option("--border", type=click.Choice(BORDERS), help="What comes in at their border.")
@click.option("--flip", type=click.Choice(FLIPS), help="How they are mirrored, where they are.")
@click.option("--clip-norm", type=float, help="Largest norm of the gradient.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of products; 16 bits are for GPUs.  [default: float32]")
@click.option("--lookahead", type=float, metavar="SHARE", help="Set the weights back to a slow average, which keeps this share.")
@click.option("--ema", type=float, metavar="DECAY", help="Test and save a moving average of the weights.")
@click.option("--tta", metavar="KIND", help="Views for one more test at the end: none, flip, shift or ten-crop.")
@click.option("--train-error/--no-train-error", default=None, help="Test on the training images too, at the end.")
@click.option("--val-every", type=int, metavar="EPOCHS", help="Test after every so many epochs.")
@click.option("--checkpoint-seconds", type=float, help="Save the state at least this often.")
@click.option("--checkpoint-steps", type=int, help="Save the state every so many updates.")
@click.option("--seed", type=int, help="Of weights, order, augmentation and dropout.  [default: 0]")
@click.option("--threads", type=int, help="Of the kernels.  [default: one per core]")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cpu]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder.  [default: runs/DATA-MODEL-001...]"
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with the run in this folder.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@debug_option
def train(out: Path | None, resume: Path | None, quiet: bool, show: bool, data_file: str | None, **options: Any) -> None:
    """Train a net; without options, a small one on generated pictures.

    The run folder then holds config.json, metrics.jsonl, checkpoints and model.safetensors.  Ctrl-C saves a checkpoint, and
    so does a terminal that is closed; --resume goes on to the same weights, bit for bit, as if nothing had happened.
    """
    from minidl.train import progress

    options["model_options"] = key_values(options["model_options"]) or None
    if show:
        if resume is not None:
            raise ConfigError(f"--show prints what a new run would use; the options of this one are in {resume}/config.json")
        click.echo(_shown(options), nl=False)
        return
    folder, config = _new_run(out, options) if resume is None else _old_run(resume, out=out, **options)
    try:
        from minidl.data.download import install
        from minidl.train import environment
        from minidl.train.build import build

        reporter = progress.reporter(quiet)
        config = dataclasses.replace(config, threads=config.threads or environment.cores())
        environment.set_threads(config.threads)
        if data_file is not None:
            install(config.data, data_file, config.data_root)
        trainer = build(config, folder, reporter)
        if resume is None:
            folder.write_config({"options": config.to_json(), "machine": environment.describe()})
        _introduce(reporter, config, trainer, folder)
        if resume is not None:
            found = trainer.resume()
            reporter.say(f"going on from {found}" if found else "nothing was saved yet: starting from the beginning")
        outcome = trainer.fit()
    finally:
        folder.close()
    _conclude(reporter, config, folder, outcome)


@cli.command("recipes")
@debug_option
def recipes_() -> None:
    """List the recipes of the package; `minidl train --recipe NAME --show` prints one."""
    from minidl.train import recipes

    rows = []
    for name in recipes.list_recipes():
        config = recipes.resolve(name)
        title = recipes.comment(recipes.find(name))[0].lstrip("# ").rstrip(".")
        rows.append([name, config.model, config.data, str(config.epochs), title])
    print_table(["recipe", "model", "data", "epochs", "what it is"], rows)


def _new_run(out: Path | None, options: dict[str, Any]) -> tuple[Any, Any]:
    """The folder and the options of a run that begins."""
    from minidl.train import record
    from minidl.train.recipes import resolve

    config = resolve(**options)
    name = f"{config.data.rstrip('/').rpartition('/')[2].replace(':', '-')}-{config.model}"
    return record.RunFolder.create(out or record.next_folder("runs", name)), config


def _shown(options: dict[str, Any]) -> str:
    """What ``--show`` prints: the comment of the recipe, and all options."""
    from minidl.train import recipes

    config = recipes.resolve(**options)
    source = recipes.comment(recipes.find(options["recipe"] or config.recipe))
    return "\n".join([*source, recipes.write(config)])


def _old_run(path: Path, **options: Any) -> tuple[Any, Any]:
    """The folder and the options of a run that goes on; only the place of the data may be given anew."""
    from minidl.train import record
    from minidl.train.config import TrainConfig

    _refuse_changes(**options)
    folder = record.RunFolder.open(path)
    try:
        config = TrainConfig.from_json(folder.read_config().get("options"), f"{path}/config.json")
    except MinidlError:
        folder.close()
        raise
    return folder, dataclasses.replace(config, data_root=options["data_root"] or config.data_root)


def _refuse_changes(**options: Any) -> None:
    for name, value in options.items():
        if value is not None and name != "data_root":
            option = "--" + name.replace("_", "-").replace("model-options", "model-option")
            raise ConfigError(
                f"{option} cannot be given with --resume: a run goes on with the options in its config.json"
            )


def _introduce(reporter: Any, config: Any, trainer: Any, folder: Any) -> None:
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    images = len(trainer.train_loader.dataset), len(trainer.test_loader.dataset)
    reporter.say(
        f"{config.model} ({count:,} parameters) on {config.data} ({images[0]:,} training and {images[1]:,} test images), "
        f"recipe {config.recipe}, seed {config.seed}, {config.threads} thread{'s'[: config.threads != 1]}"
    )
    reporter.say(f"run folder: {folder.path}")


def _let_go_of_a_closed_terminal() -> None:
    """What cannot be written any more goes nowhere: Python would end with status 120 when it tries once more at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _conclude(reporter: Any, config: Any, folder: Any, outcome: Any) -> None:
    from minidl.train.progress import duration

    if outcome.signal is not None:
        reporter.warn(
            f"stopped after {outcome.step:,} steps (epoch {outcome.epoch + 1} of {config.epochs}); everything is saved. "
            f"Go on with: minidl train --resume {folder.path}"
        )
        _let_go_of_a_closed_terminal()
        raise click.exceptions.Exit(128 + outcome.signal)
    accuracy = f"test accuracy {outcome.test.top1:.2%}" if outcome.test else f"finished at step {outcome.step:,}"
    if outcome.averaged_test:
        accuracy += f" ({outcome.averaged_test.top1:.2%} averaged over views: {config.tta})"
    if outcome.train_test:
        accuracy += f", training error {1 - outcome.train_test.top1:.2%}"
    if config.data == "shapes10" and config.recipe == "default":
        then = "minidl train --data cifar10 --model resnet20"
    else:
        then = f"minidl predict {folder.path} IMAGE"
    reporter.say(
        f"{accuracy} after {duration(outcome.seconds)}. Model: {folder.path}/model.safetensors, record: "
        f"{folder.path}/metrics.jsonl. Next, try: minidl eval {folder.path}, or: {then}"
    )
