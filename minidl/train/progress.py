"""What a training run prints: a live bar on a terminal, plain lines elsewhere, or nothing.

All three print the same table, one row per epoch.  The plain one writes no control codes, so that a log file reads well.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

COLUMNS = (  # name, width, and how the value of the epoch's record is written
    ("epoch", 7, "{}"),
    ("train loss", 10, "{:.4f}"),
    ("train acc", 9, "{:.2%}"),
    ("test loss", 9, "{:.4f}"),
    ("test acc", 8, "{:.2%}"),
    ("lr", 8, "{:.3g}"),
    ("seconds", 7, "{:.1f}"),
    ("img/s", 7, "{:,.0f}"),
)


def header() -> str:
    """The table's first line."""
    return "  ".join(name.rjust(width) for name, width, _ in COLUMNS)


def row(values: Sequence[Any]) -> str:
    """One line of the table, for values in the order of :data:`COLUMNS`; None and NaN are printed as a dash."""
    cells = []
    for value, (_, width, style) in zip(values, COLUMNS, strict=True):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        cells.append(("-" if missing else style.format(value)).rjust(width))
    return "  ".join(cells)


class Quiet:
    """Prints nothing but warnings; the base of the others and the interface that the trainer calls."""

    def __init__(self, errors: TextIO | None = None) -> None:
        self._errors = errors
        self._gone = False
        self._later = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the whole run."""
        yield

    def say(self, text: str) -> None:
        """A line for the user."""

    def warn(self, text: str) -> None:
        """A line about something that needs attention, on stderr."""
        with self._if_there():
            print(text, file=self._errors or sys.stderr, flush=True)

    def hang_up(self) -> None:
        """The terminal is gone.  What goes to a file is still written; what cannot be printed any more is no error."""
        self._gone = True

    @contextmanager
    def _if_there(self) -> Iterator[None]:
        """Around printing.  A terminal that is gone answers EIO, maybe before :meth:`hang_up` is called."""
        try:
            yield
        except OSError as error:
            if not self._gone and error.errno != errno.EIO:
                raise

    def expect(self, images: int) -> None:
        """So many images follow after the pass that begins, in later epochs."""
        self._later = images

    def start_table(self) -> None:
        """Print the table's header."""

    def start_phase(self, name: str, total: int, done: int = 0) -> None:
        """A pass over ``total`` images begins (``done`` of them were seen before the run was interrupted)."""

    def advance(self, images: int, loss: float, accuracy: float) -> None:
        """``images`` more were seen; loss and accuracy are the running means of the pass."""

    def end_phase(self) -> None:
        """The pass is over."""
        self._later = 0

    def epoch(self, values: Sequence[Any]) -> None:
        """Print an epoch's row."""


class Plain(Quiet):
    """Lines only: the table, and during long passes a line now and then."""

    def __init__(self, out: TextIO | None = None, errors: TextIO | None = None, every: float = 30.0) -> None:
        super().__init__(errors)
        self._out = out
        self._every = every
        self._phase = ("", 0, 0, 0.0)
        self._next = 0.0

    def say(self, text: str) -> None:
        with self._if_there():
            print(text, file=self._out or sys.stdout, flush=True)

    def start_table(self) -> None:
        self.say(header())

    def start_phase(self, name: str, total: int, done: int = 0) -> None:
        now = time.monotonic()
        self._phase = (name, total, done, now)
        self._seen = done
        self._next = now + self._every

    def advance(self, images: int, loss: float, accuracy: float) -> None:
        self._seen += images
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        name, total, done, start = self._phase
        rate = (self._seen - done) / max(now - start, 1e-9)
        left = (total - self._seen) / max(rate, 1e-9)
        self.say(
            f"  {name}: {self._seen:,} of {total:,} images, loss {loss:.4f}, accuracy {accuracy:.2%}, "
            f"{rate:,.0f} img/s, {duration(left)} left"
            + (f", {duration(left + self._later / max(rate, 1e-9))} for the whole run" if self._later else "")
        )

    def epoch(self, values: Sequence[Any]) -> None:
        self.say(row(values))


class Live(Quiet):
    """A progress bar that moves, below the table; for terminals."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description:>7}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("acc {task.fields[accuracy]:.2%}"),
            TextColumn("{task.fields[rate]:,.0f} img/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[whole]}"),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._task: Any = None
        self._start = 0.0
        self._seen = self._left = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._progress.start()
        try:
            yield
        finally:
            with self._if_there():
                self._progress.stop()

    def hang_up(self) -> None:
        super().hang_up()
        self._console.file = open(os.devnull, "w")  # noqa: SIM115  (the bar's own thread prints too, until the end)

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str, **style: Any) -> None:
        with self._if_there():
            self._console.print(text, markup=False, **style)

    def start_table(self) -> None:
        self._print(header(), style="bold")

    def start_phase(self, name: str, total: int, done: int = 0) -> None:
        self._start, self._seen = time.monotonic(), 0
        self._task = self._progress.add_task(name, total=total, completed=done, loss=0.0, accuracy=0.0, rate=0.0, whole="")
        self._left = total - done

    def advance(self, images: int, loss: float, accuracy: float) -> None:
        self._seen += images
        rate = self._seen / max(time.monotonic() - self._start, 1e-9)
        left = self._left - self._seen + self._later
        whole = f"run {duration(left / max(rate, 1e-9))}" if self._later else ""
        self._progress.update(self._task, advance=images, loss=loss, accuracy=accuracy, rate=rate, whole=whole)

    def end_phase(self) -> None:
        super().end_phase()
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def epoch(self, values: Sequence[Any]) -> None:
        self._print(row(values))


def reporter(quiet: bool = False) -> Quiet:
    """The right one: nothing if ``quiet``, a bar if stdout is a terminal that can move its cursor, lines otherwise."""
    if quiet:
        return Quiet()
    if sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        return Live()
    return Plain()


def duration(seconds: float) -> str:
    """``75.2`` as ``1 min 15 s``."""
    seconds = int(seconds + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
