"""Looking at kernels: what the emitter writes and what LLVM makes of it, for this machine or for another one.

The size of a register tile and much else depends on the shapes of a call and on the instruction set, so which kernels there are
for a machine shows when calls are made.  :func:`pretend` lets a process make them for a machine that it does not run on.
"""
from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minidl.kernels.cpu import engine, launch, threads
from minidl.kernels.cpu.emit import Kernel
from minidl.kernels.cpu.engine import ISA


def programs() -> dict[str, Callable[..., Kernel]]:
    """Every program by the name of the function that writes it; imports all of them."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")
    return dict(sorted(launch.programs.items()))


class Written(NamedTuple):
    """A kernel as text: the function that wrote it, its own name, which tells the options apart, and its IR."""

    program: str
    name: str
    text: str


def pretend(isa: ISA, execute: Callable[[Kernel, int], None] | None = None) -> Callable[[Callable[[], Any]], list[Written]]:
    """Turn this process into one that writes kernels for ``isa`` and runs none, or has ``execute(kernel, address of its slots)``
    run them, such as an emulator.

    Returns a function: given a call, it makes it and returns the kernels that would have run, in their order.  Results of the
    call are whatever was in memory.  There is no way back, so this is for processes that do nothing else; llvmlite is not needed.
    """
    kernels: list[Written] = []
    built: list[Kernel] = []
    seen: dict[Written, None] = {}

    class Unrun(launch.Program):
        def __init__(self, kernel: Kernel, written_by: str = "") -> None:
            self.kernel, self.name, self.address = kernel, kernel.name, len(kernels)
            self.slots = ctypes.c_int64 * len(kernel.parameters)
            kernels.append(Written(written_by, kernel.name, kernel.text()))
            built.append(kernel)

    def run(kernel: int, arguments: int, alone: bool = False) -> None:
        seen[kernels[kernel]] = None
        if execute is not None:
            execute(built[kernel], arguments)

    def written(call: Callable[[], Any]) -> list[Written]:
        seen.clear()
        call()
        return list(seen)

    engine.host_isa.cache_clear()
    engine.available_isas = lambda: {isa.name: isa}
    engine.os.environ.pop(engine.ENVIRONMENT, None)
    launch.Program = Unrun  # type: ignore[misc]
    threads.run = run
    return written


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
