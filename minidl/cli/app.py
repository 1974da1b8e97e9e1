"""The ``minidl`` command itself: its errors, its ``--debug``, and what the commands share.

Every error a user can cause is one line on stderr and exit code 2; ``--debug`` shows where it came from.  A run stopped
by a signal exits with 128 + the signal's number (130 for Ctrl-C).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

import minidl
from minidl.errors import ConfigError, MinidlError

LONGEST = 600  # characters of an error that are printed; a state dict can have thousands of wrong names


class Failure(click.ClickException):
    """One line on stderr, then exit."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST]} ... (all of it: set MINIDL_DEBUG=1)")


class Interrupted(Failure):
    exit_code = 130


class Bug(Failure):
    exit_code = 1


class Group(click.Group):
    """The commands, with every exception turned into one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _debug(ctx)
            raise Interrupted("stopped") from None
        except MinidlError as error:
            _debug(ctx)
            raise Failure(str(error)) from error
        except MemoryError as error:
            _debug(ctx)
            raise Failure(f"out of memory ({error}); try a smaller --batch-size or a smaller model") from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _debug(ctx)
            where = f" {error.filename}" if error.filename else ""
            raise Failure(f"the system refused{where}: {error.strerror or error}") from error
        except Exception as error:
            _debug(ctx)
            text = (
                f"internal error, {type(error).__name__}: {error}; run it again with --debug and report what it prints"
            )
            raise Bug(text) from error


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


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(minidl.__version__, prog_name="minidl")
@debug_option
def cli() -> None:
    """Deep learning written from scratch on NumPy.

    `minidl train` alone trains a small net on generated pictures, in about two minutes.
    """

root_option = click.option(
    "--data-root", metavar="DIR", help="Where the data sets are.  [default: $MINIDL_DATA or ~/.cache/minidl/data]"
)


def model_file(path: Path) -> Path:
    """A run folder stands for the model in it."""
    if not path.is_dir():
        return path
    for name in ("model.safetensors", "best.safetensors"):
        if (path / name).is_file():
            return path / name
    raise ConfigError(f"{path} has no finished model; go on with its run first: minidl train --resume {path}")


def key_values(pairs: tuple[str, ...], option: str = "--model-option") -> dict[str, Any]:
    """``("depth=20", "batch_norm=true")`` as a dictionary; values are read as JSON where they are JSON."""
    import json

    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not key or not separator:
            raise ConfigError(f"{option} {pair!r}: expected KEY=VALUE")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def print_table(columns: list[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout: ruled on a terminal, aligned text elsewhere."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
        for row in [columns, *rows]:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
