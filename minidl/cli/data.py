"""``minidl data``: list, check, download."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from minidl.cli.app import Group, cli, debug_option, print_table, root_option
from minidl.errors import DataError


@cli.group("data", cls=Group)
def data_() -> None:
    """The data sets: which there are, whether they are whole, and getting them."""


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
