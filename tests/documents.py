"""What commands print, in the pages of docs/: ``python -m tests.documents`` writes it anew, a test compares it.

A page holds ``<!-- minidl table alexnet -->``, what that command prints (as it is, or between fences), and ``<!-- end -->``.  Or
``<!-- results runs -->``, and a table of :mod:`benchmarks.cifar10`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from benchmarks import cifar10
from minidl.cli import cli
from tests.sources import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"^<!-- (?P<program>minidl|results) (?P<command>[^\n]+) -->\n(?P<printed>.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL
)


def printed(command: str) -> str:
    """What ``minidl COMMAND`` prints, as it stands on a page."""
    done = CliRunner().invoke(cli, shlex.split(command))
    if done.exit_code:
        raise ValueError(f"minidl {command}: {done.output}")
    return done.output if "--format markdown" in command else f"```\n{done.output}```\n"


def renewed(text: str) -> str:
    """A page with the output of its commands as it is now."""

    def again(match: re.Match[str]) -> str:
        program, command = match["program"], match["command"]
        table = cifar10.TABLES[command]() if program == "results" else printed(command)
        return f"<!-- {program} {command} -->\n{table}<!-- end -->"

    return BLOCK.sub(again, text)


def pages() -> list[Path]:
    return sorted(DOCS.glob("*.md"))


if __name__ == "__main__":
    for page in pages():
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
