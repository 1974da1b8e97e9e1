"""The commands that look at runs: ``minidl runs`` and ``minidl plot``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from minidl.cli.app import cli, debug_option, print_table
from minidl.cli.nets import check_picture
from minidl.errors import ConfigError


@cli.command("runs")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"), metavar="[DIR]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@debug_option
def runs_(folder: Path, as_json: bool) -> None:
    """List the runs in DIR and below: what they train, how far they are, how well they do.

    A run that was interrupted goes on with `minidl train --resume RUN`.  Times are those of training, without the tests.
    """
    from minidl.train import runs
    from minidl.train.progress import duration

    found = [run.to_json() for run in runs.find(folder)]
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if not found:
        click.echo(f"{folder} holds no runs; `minidl train` makes one")
        return
    columns = ["run", "state", "model", "data", "recipe", "epochs", "best", "last", "averaged", "train error", "img/s", "time"]
    rows = []
    for run in found:
        best, last, averaged, error = (
            "-" if run[name] is None else f"{run[name]:.2f} %"
            for name in ("best_test_accuracy", "test_accuracy", "tta_accuracy", "train_error")
        )
        named = [run[name] or "-" for name in ("model", "data", "recipe")]
        speed = "-" if run["images_per_second"] is None else f"{run['images_per_second']:,}"
        done = f"{run['epochs_done']}/{run['epochs'] or '?'}"
        rows.append([run["run"], run["state"], *named, done, best, last, averaged, error, speed, duration(run["seconds"])])
    for k in (9, 8):  # columns that hardly any run has anything for
        if all(row[k] == "-" for row in rows):
            for line in (columns, *rows):
                del line[k]
    print_table(columns, rows)


@cli.command("plot")
@click.argument("paths", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, metavar="FILE.png")
@click.option("--what", type=click.Choice(["error", "loss"]), default="error", help="Error is in percent.")
@click.option("--top", type=click.FloatRange(0, min_open=True), metavar="VALUE", help="Cut the picture there.")
@click.option("--label", "labels", multiple=True, metavar="TEXT", help="A run's name in the legend; one for each, in order.")
@click.option("--title", default="", metavar="TEXT")
@debug_option
def plot_(paths: tuple[str, ...], out: Path, what: str, top: float | None, labels: tuple[str, ...], title: str) -> None:
    """Draw the courses of RUNs in one picture: training thin, tests bold.

    RUN is a run folder, or a run that was kept as JSON, as in benchmarks/results.
    """
    from minidl.inspect import draw
    from minidl.train import runs

    check_picture(out)
    if labels and len(labels) != len(paths):
        raise ConfigError(f"--label: expected one for each of {len(paths)} runs or none, got {len(labels)}")
    found = [runs.curve(path, what) for path in paths]
    names = labels or [curve.name for curve in found]
    draw.curves([(name, curve.train, curve.test) for name, curve in zip(names, found, strict=True)], out, what, top, title)
    click.echo(f"{out}: written")
