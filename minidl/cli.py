"""The ``minidl`` command.  Heavy imports are inside the commands, so that ``minidl --help`` answers at once.

Every error a user can cause is one line on stderr and exit code 2; ``--debug`` shows where it came from.  A run stopped
by a signal exits with 128 + the signal's number (130 for Ctrl-C).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import minidl
from minidl import cli_zoo
from minidl.cli_zoo import key_values, model_file, print_table
from minidl.errors import ConfigError, DataError, MinidlError
from minidl.train.config import AUGMENTS, OPTIMIZERS, RECIPES, SCHEDULES

LONGEST = 600  # characters of an error that are printed; a state dict can have thousands of wrong names


class _Failure(click.ClickException):
    """One line on stderr, then exit."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST]} ... (all of it: set MINIDL_DEBUG=1)")


class _Interrupted(_Failure):
    exit_code = 130


class _Bug(_Failure):
    exit_code = 1


class _Group(click.Group):
    """The commands, with every exception turned into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _debug(ctx)
            raise _Interrupted("stopped") from None
        except MinidlError as error:
            _debug(ctx)
            raise _Failure(str(error)) from error
        except MemoryError as error:
            _debug(ctx)
            raise _Failure(f"out of memory ({error}); try a smaller --batch-size or a smaller model") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _debug(ctx)
            where = f" {error.filename}" if error.filename else ""
            raise _Failure(f"the system refused{where}: {error.strerror or error}") from error
        except Exception as error:
            _debug(ctx)
            text = (
                f"internal error, {type(error).__name__}: {error}; run it again with --debug and report what it prints"
            )
            raise _Bug(text) from error


def _debug(ctx: click.Context) -> None:
    """With ``--debug``, print the traceback of the exception that is being handled."""
    if ctx.find_root().meta.get("minidl.debug") or os.environ.get("MINIDL_DEBUG"):
        import traceback

        traceback.print_exc()


def _set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["minidl.debug"] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show tracebacks."
)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=_Group, context_settings=CONTEXT)
@click.version_option(minidl.__version__, prog_name="minidl")
@debug_option
def cli() -> None:
    """Deep learning written from scratch on NumPy.

    `minidl train` alone trains a small net on generated pictures, in about two minutes.
    """


# ------------------------------------------------------------------------------------------------------------- train


@cli.command()
@click.option("--data", metavar="NAME", help="Data set (see `minidl data list`), or folder:PATH.  [default: shapes10]")
@click.option(
    "--data-root", metavar="DIR", help="Where the data sets are.  [default: $MINIDL_DATA or ~/.cache/minidl/data]"
)
@click.option("--data-file", metavar="FILE", help="The data set's downloaded file, for closed networks.")
@click.option("--image-size", type=int, metavar="PIXELS", help="For folder:PATH: height and width.  [default: 64]")
@click.option("--model", metavar="NAME", help="Net, by its name in minidl.models.  [default: smallconv]")
@click.option(
    "--model-option", "model_options", metavar="KEY=VALUE", multiple=True, help="Option of the net; repeatable."
)
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="Options that work together.  [default: the model's]")
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--max-steps", type=int, help="Stop after so many updates.")
@click.option("--batch-size", type=int, help="Images per update.")
@click.option("--limit", type=int, metavar="N", help="Use only N images of each split.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS))
@click.option("--lr", type=float, help="Learning rate (its highest value, with a schedule).")
@click.option("--momentum", type=float, help="For sgd and rmsprop.")
@click.option("--weight-decay", type=float, help="Not applied to biases and normalisation.")
@click.option("--schedule", type=click.Choice(SCHEDULES), help="How the learning rate changes.")
@click.option("--warmup", type=float, metavar="EPOCHS", help="Epochs in which the learning rate rises.")
@click.option("--label-smoothing", type=float)
@click.option("--augment", type=click.Choice(AUGMENTS), help="Random changes of the training images.")
@click.option("--clip-norm", type=float, help="Largest norm of the gradient.")
@click.option("--ema", type=float, metavar="DECAY", help="Test and save a moving average of the weights.")
@click.option("--val-every", type=int, metavar="EPOCHS", help="Test after every so many epochs.")
@click.option("--checkpoint-seconds", type=float, help="Save the state at least this often.")
@click.option("--checkpoint-steps", type=int, help="Save the state every so many updates.")
@click.option("--seed", type=int, help="Of weights, order, augmentation and dropout.  [default: 0]")
@click.option("--threads", type=int, help="For matrix products.  [default: half the cores]")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cpu]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder.  [default: runs/DATA-MODEL-001...]"
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with the run in this folder.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@debug_option
def train(out: Path | None, resume: Path | None, quiet: bool, data_file: str | None, **options: Any) -> None:
    """Train a net; without options, a small one on generated pictures.

    The run folder then holds config.json, metrics.jsonl, checkpoints and model.safetensors.  Ctrl-C saves a checkpoint;
    --resume goes on to the same weights, bit for bit, as if nothing had happened.
    """
    from minidl.train import progress

    options["model_options"] = key_values(options["model_options"]) or None
    folder, config = _new_run(out, options) if resume is None else _old_run(resume, out=out, **options)
    try:
        from minidl.data.download import install
        from minidl.train import environment
        from minidl.train.build import build

        reporter = progress.reporter(quiet)
        config = dataclasses.replace(config, threads=config.threads or environment.default_threads())
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


def _new_run(out: Path | None, options: dict[str, Any]) -> tuple[Any, Any]:
    """The folder and the options of a run that begins."""
    from minidl.train import record
    from minidl.train.config import resolve

    config = resolve(**options)
    name = f"{config.data.rstrip('/').rpartition('/')[2].replace(':', '-')}-{config.model}"
    return record.RunFolder.create(out or record.next_folder("runs", name)), config


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


def _conclude(reporter: Any, config: Any, folder: Any, outcome: Any) -> None:
    from minidl.train.progress import duration

    if outcome.signal is not None:
        reporter.warn(
            f"stopped after {outcome.step:,} steps (epoch {outcome.epoch + 1} of {config.epochs}); everything is saved. "
            f"Go on with: minidl train --resume {folder.path}"
        )
        raise click.exceptions.Exit(128 + outcome.signal)
    accuracy = f"test accuracy {outcome.test.top1:.2%}" if outcome.test else f"finished at step {outcome.step:,}"
    if config.data == "shapes10" and config.recipe == "default":
        then = "minidl train --data cifar10 --model resnet20"
    else:
        then = f"minidl predict {folder.path} IMAGE"
    reporter.say(
        f"{accuracy} after {duration(outcome.seconds)}. Model: {folder.path}/model.safetensors, record: "
        f"{folder.path}/metrics.jsonl. Next, try: minidl eval {folder.path}, or: {then}"
    )


# ---------------------------------------------------------------------------------------------- eval, predict, table

for _command in cli_zoo.COMMANDS:
    cli.add_command(debug_option(_command))


# -------------------------------------------------------------------------------------------------------------- data


@cli.group("data", cls=_Group)
def data_() -> None:
    """The data sets: which there are, whether they are whole, and getting them."""


root_option = click.option(
    "--data-root", metavar="DIR", help="Where they are.  [default: $MINIDL_DATA or ~/.cache/minidl/data]"
)


@data_.command("list")
@root_option
@debug_option
def data_list(data_root: str | None) -> None:
    """The data sets known by name, and which are on this machine."""
    from minidl import data

    rows = []
    for status in data.available(data_root):
        counts = " + ".join(f"{count:,}" for count in status.counts.values())
        rows.append((status.name, "yes" if status.present else "no", counts, status.title, status.where))
    print_table(["name", "here", "images", "what", "where, or how to get it"], rows)
    click.echo("Also: folder:PATH, a folder with one sub-folder of pictures per class.")


@data_.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@root_option
@debug_option
def data_check(names: tuple[str, ...], data_root: str | None) -> None:
    """Read the data sets that are here (or those named) and compare their checksums."""
    from minidl import data

    wanted = {data.dataset_info(name).name for name in names}
    found = [status for status in data.available(data_root, verify=True) if status.name in wanted or not names]
    print_table(["name", "checksum", "where"], [(status.name, status.checksum, status.where) for status in found])
    problems = [problem for status in found for problem in status.problems]
    missing = [status.name for status in found if names and not status.present and not status.problems]
    problems += [f"{name} is not here; get it with `minidl data download {name}`" for name in missing]
    if problems:
        raise DataError("; ".join(problems))


@data_.command("download")
@click.argument("name")
@click.option("--data-file", metavar="FILE", help="Take it from this file or folder instead of the network.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@root_option
@debug_option
def data_download(name: str, data_file: str | None, quiet: bool, data_root: str | None) -> None:
    """Get the files of a data set, checked; an interrupted download goes on where it stopped."""
    from minidl.data.download import download, install

    if data_file is not None:
        paths = install(name, data_file, data_root)
    else:
        with _transfers(quiet) as report:
            paths = download(name, data_root, report)
    for path in paths:
        click.echo(f"{path}: ok")


@contextlib.contextmanager
def _transfers(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A callback ``(file, done, total)`` that moves a bar per file; None where no bar can be shown."""
    if quiet or not sys.stdout.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        tasks: dict[str, Any] = {}

        def report(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file, total=total or None)
            progress.update(tasks[file], completed=done)

        yield report


# ---------------------------------------------------------------------------------------------------- gradcheck, doctor


@cli.command("gradcheck")
@click.argument("target", metavar="OP|FILE.py:NAME")
@click.option("--shape", "shapes", multiple=True, metavar="2,3", help="Shape of an input; repeat it for each.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Keyword argument; repeatable.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the random inputs.")
@debug_option
def gradcheck_(target: str, shapes: tuple[str, ...], options: tuple[str, ...], seed: int) -> None:
    """Compare a gradient with finite differences, in float64.

    OP is an operation, such as conv2d or softmax; FILE.py:NAME is a Function, an nn.Module or a function of yours.
    Elements where backward is wrong are shown, told from those at a kink (where no gradient exists, and none is wrong).
    Exit code 1: a gradient is wrong.
    """
    from minidl.train import gradients

    subject = gradients.find(target, [_shape(text) for text in shapes], key_values(options, "--option"), seed)
    verdict = gradients.check(subject)
    for order, found in (("gradient", verdict), ("gradient of the gradient", verdict.second)):
        if found is None:
            continue
        if found.problem:
            click.echo(f"{subject.title}, {order}: {found.problem}")
        elif found.mismatches:
            _show_mismatches(subject, order, found)
        else:
            click.echo(f"{subject.title}, {order}: right ({found.elements} elements, finite differences agree)")
    if not verdict.ok:
        raise click.exceptions.Exit(1)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").strip("(),").split(",") if part.strip())
    except ValueError:
        shape = (-1,)
    if any(size < 0 for size in shape):
        raise ConfigError(f"--shape {text!r}: expected sizes with commas between them, such as 2,3")
    return shape


def _show_mismatches(subject: Any, order: str, found: Any, most: int = 12) -> None:
    from minidl.train.gradients import factor

    names = [*subject.names, *(f"output gradient {k}" for k in range(99))]
    worst = sorted(found.mismatches, key=lambda m: (m.kink, -abs(m.analytic - m.numeric)))
    rows = [
        (names[m.input], str(m.index), f"{m.analytic:.8g}", f"{m.numeric:.8g}", f"{m.left:.6g}", f"{m.right:.6g}",
         "a kink" if m.kink else "WRONG")
        for m in worst[:most]
    ]  # fmt: skip
    print_table(["input", "element", "backward", "finite differences", "from the left", "from the right", ""], rows)
    if len(worst) > most:
        click.echo(f"... and {len(worst) - most} more")
    if not found.wrong:
        click.echo(
            f"{subject.title}, {order}: {len(worst)} elements lie at a kink, where no gradient exists; none is wrong"
        )
        return
    places = {name: [m for m in found.wrong if names[m.input] == name] for name in dict.fromkeys(names)}
    for name, wrong in places.items():
        size = next((t.numel() for t, own in zip(subject.inputs, subject.names, strict=True) if own == name), None)
        if wrong:
            times = factor(wrong)
            hint = f"; backward gives {times:.4g} times the right value" if times is not None else ""
            click.echo(f"{name}: {len(wrong)} {f'of {size} ' if size else ''}elements are wrong{hint}")
    click.echo(f"{subject.title}, {order}: WRONG")


# ------------------------------------------------------------------------------------------------ convert and export


@cli.command("convert")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.pth")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--entry", metavar="NAME", help="Which weights, if the file holds several sets.")
@debug_option
def convert_(source: Path, target: Path, entry: str | None) -> None:
    """Turn PyTorch weights into safetensors, without PyTorch and without running anything in them."""
    from minidl.io.convert import convert

    click.echo(convert(source, target, entry))


@cli.command("export")
@click.argument("model", metavar="MODEL")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.onnx")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="For a net by name: .pth or .safetensors.")
@click.option("--num-classes", type=click.IntRange(1), metavar="N", help="For a net by name.")
@click.option("--image-size", type=click.IntRange(1), metavar="PIXELS", help="For a net by name.")
@debug_option
def export_(model: str, target: Path, **options: Any) -> None:
    """Write MODEL (a net's name, a run folder or its model.safetensors) as an ONNX file."""
    from minidl.train.export import export

    click.echo(export(model_file(Path(model)), target, **options))


@cli.command()
@root_option
@debug_option
def doctor(data_root: str | None) -> None:
    """What this machine offers: versions, BLAS and its threads, processor, GPU, kernels, data sets, disk."""
    from minidl import data
    from minidl.train import environment

    memory = environment.memory_bytes()
    blas = environment.blas()
    has_gpu, gpu = environment.gpu()
    threads = environment.blas_threads()
    root = data.data_root(data_root)
    rows = [(name, version) for name, version in environment.versions().items()]
    rows += [
        ("processor", environment.processor()),
        (
            "cores",
            f"{environment.cores()} for this process" + (f", {memory / 2**30:.0f} GiB of memory" if memory else ""),
        ),
        ("vector units", " ".join(environment.simd()) or "none beyond the baseline"),
        ("BLAS", f"{blas['name']} {blas['version']}, {'unknown' if threads is None else threads} threads"),
        ("GPU", gpu if has_gpu else f"none: {gpu}"),
        ("kernels", environment.kernel_variants()),
    ]
    rows += [
        (f"data {status.name}", status.where if status.present else f"not here; {status.where}")
        for status in data.available(data_root)
    ]
    for what, folder in (("data root", root), ("run folders", Path("runs").absolute())):
        rows.append((what, f"{folder} ({'writable' if environment.may_write(folder) else 'NOT writable'})"))
    print_table(["what", "found"], rows)
    advice = environment.advice()
    for line in advice:
        click.echo(f"! {line}")
    click.echo("Something needs attention." if advice else "All is well.")


def main() -> None:
    """The entry point of the ``minidl`` program."""
    cli(prog_name="minidl")
