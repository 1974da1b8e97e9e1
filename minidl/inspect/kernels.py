"""Looking at kernels: which there are, what each promises, where it is written, and what it compiles to."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import minidl
from minidl import kernels
from minidl.errors import ConfigError
from minidl.kernels import KernelSpec
from minidl.kernels.registry import best_first

DEVICES = ("cpu", "cuda")
VECTOR = "vector"


class Row(NamedTuple):
    """A verb on a device: its variants, best first, and the one that is asked first here (None: none can run)."""

    verb: str
    device: str
    variants: tuple[str, ...]
    default: str | None


def unavailable(variant: str, device: str) -> str:
    """Why kernels of this kind cannot run here; empty if they can."""
    if device == "cuda":
        return minidl.cuda.why_not() or ""
    if variant == VECTOR:
        from minidl.kernels.cpu.engine import Unavailable, host_isa

        try:
            host_isa()
        except Unavailable as error:
            return str(error)
    return ""


def rows() -> list[Row]:
    """Every verb on every device that has kernels for it.

    The default is what the registry would choose now, MINIDL_KERNELS included.
    """
    no_gpu, no_vector = bool(unavailable("cuda", "cuda")), bool(unavailable(VECTOR, "cpu"))
    found = []
    for verb in kernels.verbs():
        for device in DEVICES:
            known = kernels.variants(verb, device)
            if known:
                chosen = _chosen(verb, device, known)
                if device == "cuda" and no_gpu:
                    chosen = None
                elif device == "cpu" and chosen == VECTOR and no_vector:
                    chosen = "numpy"  # to which it hands over
                found.append(Row(verb, device, best_first(verb, device), chosen))
    return found


def _chosen(verb: str, device: str, known: dict[str, Callable[..., Any]]) -> str | None:
    try:
        kernel = kernels.lookup(verb, device)
    except ConfigError:
        if device == "cpu":
            raise
        return None  # a variant was chosen that only the CPU has
    return next(name for name, function in known.items() if function is kernel)


class Place(NamedTuple):
    """Where a variant of a verb is written."""

    device: str
    variant: str
    file: Path
    line: int


def places(verb: str) -> list[Place]:
    """The file and line of every variant of a verb."""
    return [
        Place(device, name, *_written_at(kernel))
        for device in DEVICES
        for name, kernel in kernels.variants(verb, device).items()
    ]


def _written_at(kernel: Any) -> tuple[Path, int]:
    if hasattr(kernel, "written_in"):  # it is imported when it is called
        return kernel.written_in
    while isinstance(kernel, functools.partial):  # the plain kernels are one function for numpy and cupy, its module bound
        kernel = next((part for part in kernel.args if callable(part) and not inspect.ismodule(part)), kernel.func)
    kernel = inspect.unwrap(kernel)
    return Path(inspect.getsourcefile(kernel) or "?"), inspect.getsourcelines(kernel)[1]


class Found(NamedTuple):
    """What a name stands for: a verb, with its contract, or a program of the vector kernels; and what writes the programs."""

    spec: KernelSpec | None
    programs: dict[str, Callable[..., Any]]


def find(name: str) -> Found:
    """The verb or the vector program called ``name``; a verb has no programs where vector kernels cannot run.

    Raises:
        ConfigError: there is nothing of that name; the message has the closest ones.
    """
    known = _check(name)
    if name in known:
        return Found(None, {name: known[name]})
    if _without_programs(name):
        return Found(kernels.spec(name), {})
    return Found(kernels.spec(name), {text.program: known[text.program] for text in _written(name, None)[1]})


def _check(name: str) -> dict[str, Callable[..., Any]]:
    """All programs, if ``name`` is one of them or a verb."""
    from minidl.kernels.cpu import listing

    programs = listing.programs()
    if name not in programs and name not in kernels.verbs():
        close = difflib.get_close_matches(name, [*kernels.verbs(), *programs], 3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        raise ConfigError(f"no kernel is called {name!r}{hint} `minidl kernels list` lists the verbs")
    return programs


def _without_programs(verb: str) -> str:
    """Why there is no machine code of a verb; empty if there is some."""
    from minidl.inspect.kernel_samples import SAMPLES

    if VECTOR not in kernels.variants(verb, "cpu"):
        return "it has no vector kernel; NumPy computes it"
    if verb not in SAMPLES:
        return "there is no sample of its arguments"
    return unavailable(VECTOR, "cpu")


def ir(name: str, isa: str | None) -> str:
    """The IR text of a program, or of the programs that a verb's sample runs, for an instruction set (default: the host's)."""
    return "\n".join(text.text for text in _written(name, isa)[1])


def assembly(name: str, isa: str | None, only_loops: bool = False) -> str:
    """The machine code of what :func:`ir` returns; ``only_loops``: of its innermost loops."""
    from minidl.kernels.cpu import engine, listing

    machine, texts = _written(name, isa)
    try:
        codes = {text.name: engine.assembly(text.text, machine) for text in texts}
    except engine.Unavailable as error:
        raise ConfigError(str(error)) from None
    if not only_loops:
        return "\n".join(codes.values())
    comment = "//" if machine.name == "neon" else "#"
    return "\n\n".join(
        "\n".join([f"{comment} {program}: {len(loop.lines)} lines", *loop.lines])
        for program, code in codes.items()
        for loop in listing.innermost_loops(code)
    )


def _written(name: str, isa: str | None) -> tuple[Any, list[Any]]:
    """(the instruction set, the kernels' texts).

    Raises:
        ConfigError: no such name, no such instruction set, or nothing to show of it.
    """
    from minidl.inspect import kernel_texts
    from minidl.kernels.cpu import engine

    known = _check(name)
    why = "" if name in known else _without_programs(name)
    if why:
        raise ConfigError(f"{name} has no machine code to show: {why}")
    try:
        machine = engine.isa_named(isa) if isa else engine.host_isa()
    except engine.Unavailable as error:
        raise ConfigError(f"{name}: its machine code cannot be shown: {error}") from None
    if name not in known:
        return machine, kernel_texts.texts(machine, name)
    found = [text for text in kernel_texts.texts(machine) if text.program == name]
    if not found:
        raise ConfigError(f"{name}: no sample runs this program, so there is nothing to show")
    return machine, found[:1]
