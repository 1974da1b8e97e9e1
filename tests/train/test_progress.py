import errno
import io
import os
import sys

import pytest

from minidl.train import progress

VALUES = ("1/3", 0.5, 0.25, None, float("nan"), 0.1, 1.25, 12345.6)


def test_the_table_is_aligned():
    row = progress.row(VALUES)
    assert len(row) == len(progress.header())
    assert row.split() == ["1/3", "0.5000", "25.00%", "-", "-", "0.1", "1.2", "12,346"]


def test_plain_lines_have_no_control_codes(monkeypatch):
    out = io.StringIO()
    clock = iter([0.0, 10.0, 40.0, 50.0, 60.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    plain = progress.Plain(out)
    plain.start_table()
    plain.start_phase("1/3", 1000)
    for _ in range(3):
        plain.advance(100, 0.5, 0.25)
    plain.end_phase()
    plain.epoch(VALUES)
    plain.expect(2000)
    plain.start_phase("2/3", 1000)
    plain.advance(100, 0.5, 0.25)
    text = out.getvalue()
    assert "\x1b" not in text and "\r" not in text
    assert "1/3: 200 of 1,000 images, loss 0.5000, accuracy 25.00%, 5 img/s, 2 min 40 s left\n" in text
    # 100 images in 40 s; 900 of this epoch and 2,000 of later ones are left
    assert "2/3: 100 of 1,000 images" in text and "2 img/s, 6 min 00 s left, 19 min 20 s for the whole run\n" in text
    assert text.count("\n") == 4


def test_quiet_prints_only_warnings():
    errors = io.StringIO()
    quiet = progress.Quiet(errors)
    with quiet.running():
        quiet.say("x")
        quiet.epoch(VALUES)
        quiet.warn("attention")
    assert errors.getvalue() == "attention\n"


def test_the_live_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    live = progress.reporter()
    assert isinstance(live, progress.Live)
    with live.running():
        live.start_table()
        live.expect(3600)
        live.start_phase("1/1", 100)
        live.advance(50, 1.5, 0.5)
        live._progress.refresh()
        live.end_phase()
        live.epoch(VALUES)
        live.say("[bold] is not markup here")
    text = terminal.getvalue()
    assert "loss 1.5000" in text and " run " in text and "acc 50.00%" in text
    assert "12,346" in text and "[bold] is not markup" in text


def test_which_reporter(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert type(progress.reporter()) is progress.Plain
    assert type(progress.reporter(quiet=True)) is progress.Quiet
    sys.stdout.isatty = lambda: True
    monkeypatch.setenv("TERM", "dumb")
    assert type(progress.reporter()) is progress.Plain


class Dead(io.StringIO):
    """A terminal that was closed."""

    def __init__(self, number=errno.EIO):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


def test_a_terminal_that_is_gone_is_no_error(monkeypatch):
    for number in (errno.EIO, errno.EBADF):
        plain = progress.Plain(Dead(number), Dead(number))
        if number == errno.EBADF:
            with pytest.raises(OSError):
                plain.say("x")
            plain.hang_up()
        plain.say("x")
        plain.warn("x")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    live = progress.Live()
    with live.running():
        live.start_phase("1/1", 100)
        monkeypatch.setattr(sys, "stdout", Dead())
        terminal.write = Dead().write
        live.hang_up()
        live.advance(50, 1.5, 0.5)
        live._progress.refresh()
        live.say("x")


def test_durations():
    assert [progress.duration(s) for s in (0.4, 59.6, 75, 7325)] == ["0 s", "1 min 00 s", "1 min 15 s", "2 h 02 min"]
