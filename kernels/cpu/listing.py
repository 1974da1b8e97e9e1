"""Looking at kernels: what the emitter writes and what LLVM makes of it, for this machine or for another one.

A program is written with *options*: the size of its register tile, whether channels are ragged.  Here each gets the ones that
the dispatch code would choose for a convolution of 64 to 64 channels over rows of 32 pixels.
"""
from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from minidl.kernels.cpu import attention, engine, launch, roofs, threads  # noqa: F401  (roofs adds its programs)
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.engine import ISA
from minidl.kernels.cpu.tiles import accumulators, choose_tile

CHANNELS, COLUMNS = 64, 32


def _vectors(isa: ISA) -> int:
    return choose_tile(isa, COLUMNS, -(-CHANNELS // isa.width))[1]


def _tile_channels(isa: ISA) -> int:
    """Input channels of a tile of the weight gradient: a power of two, so that they never straddle a vector."""
    most = min(isa.width, accumulators(isa) // _vectors(isa))
    return 1 << (most.bit_length() - 1)


# What an option is for the convolution above, by its name.  Those with a default value have that, flags are off.
EXAMPLES: dict[str, Callable[[ISA], Any]] = {
    "pixels": lambda isa: choose_tile(isa, COLUMNS, -(-CHANNELS // isa.width))[0],
    "vectors": _vectors,
    "tile_channels": _tile_channels,
    "taps_at_once": lambda isa: accumulators(isa) // (_tile_channels(isa) * _vectors(isa)),
    "outputs": lambda isa: 4,
    "taps": lambda isa: 3,
    "filters": lambda isa: "transformed",
    "of": lambda isa: "image",
    "few": lambda isa: 0,
    "window": lambda isa: (2, 2),
    "score_tile": lambda isa: attention.tiles_for(isa, CHANNELS, CHANNELS, CHANNELS)[0],
    "value_tile": lambda isa: attention.tiles_for(isa, CHANNELS, CHANNELS, CHANNELS)[1],
}


def programs() -> dict[str, Callable[..., Kernel]]:
    """Every program by the name of the function that writes it; imports all of them."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")
    return dict(sorted(launch.programs.items()))


def options(write: Callable[..., Kernel], isa: ISA) -> dict[str, Any]:
    """Representative options of a program.

    Raises:
        LookupError: it has an option that EXAMPLES does not know.
    """
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(write).parameters.items())[1:]:
        if parameter.default is not parameter.empty:
            found[name] = parameter.default
        elif parameter.annotation in (bool, "bool"):
            found[name] = False
        elif name in EXAMPLES:
            found[name] = EXAMPLES[name](isa)
        else:
            raise LookupError(f"program {write.__name__}: give its option {name!r} an example in {__name__}.EXAMPLES")
    return found


def written(write: Callable[..., Kernel], isa: ISA) -> Kernel:
    """A program as it is for ``isa``, with representative options."""
    return write(isa, **options(write, isa))


@contextmanager
def watched() -> Iterator[list[str]]:
    """The names of the programs that run inside the block, each once, in the order of their first launch."""
    known = {program.address: program for program in launch.compiled_programs()}
    seen: list[str] = []
    run = threads.run

    def note(kernel: int, arguments: int, alone: bool = False) -> None:
        if kernel not in known:
            known.update((program.address, program) for program in launch.compiled_programs())
        name = known[kernel].written_by
        if name not in seen:
            seen.append(name)
        run(kernel, arguments, alone)

    threads.run = note
    try:
        yield seen
    finally:
        threads.run = run


class Loop(NamedTuple):
    """An innermost loop of some assembly: its lines from the label to the jump back."""

    lines: tuple[str, ...]

    @property
    def multiplies(self) -> int:
        """Vector instructions that multiply and add, or (where a machine has none that do both) multiply."""
        return sum(bool(_MULTIPLY.search(line)) for line in self.lines)

    @property
    def spills(self) -> int:
        """Vector instructions that touch the stack: the registers did not suffice."""
        return sum(bool(_STACK.search(line) and _VECTOR.search(line)) for line in self.lines)


_MULTIPLY = re.compile(r"\b(vfn?m(add|sub)\d+ps|mulps|fml[as]\.4s|fml[as]\s+v\d+\.4s)\b")
_VECTOR = re.compile(r"%[xyz]mm\d|\b[vq]\d+\b")
_STACK = re.compile(r"\(%rsp\)|\[sp\b")
_LABEL = re.compile(r"^(\.?L\w+):")
_JUMP = re.compile(r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.?L\w+)\b")


def innermost_loops(assembly: str) -> list[Loop]:
    """The loops of some assembly that contain no other loop, in their order."""
    lines = [line.split("#" if "%" in assembly else "//")[0].rstrip() for line in assembly.splitlines()]
    at = {match[1]: i for i, line in enumerate(lines) if (match := _LABEL.match(line))}
    spans = []
    for i, line in enumerate(lines):
        match = _JUMP.match(line)
        if match and at.get(match[1], i) < i:
            spans.append((at[match[1]], i))
    inner = [(a, b) for a, b in spans if not any((a <= c and d <= b) and (a, b) != (c, d) for c, d in spans)]
    return [Loop(tuple(line for line in lines[a : b + 1] if line)) for a, b in inner]
