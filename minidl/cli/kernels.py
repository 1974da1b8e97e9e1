"""``minidl kernels list``, ``show`` and ``bench``: what computes the operations, how it is written, and how fast it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, print_table
from minidl.errors import ConfigError

ISAS = ("avx512", "avx2", "portable", "neon")


@cli.group("kernels")
@debug_option
def kernels_() -> None:
    """The kernels: what computes each operation, how it is written, how fast it is here.

    MINIDL_KERNELS=conv2d=numpy chooses another variant, MINIDL_ISA=avx2 other instructions.
    """


@kernels_.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@debug_option
def list_(as_json: bool) -> None:
    """List every verb, its variants, and which of them computes it here."""
    from minidl.inspect import kernels

    found = kernels.rows()
    why = {"vector": kernels.unavailable("vector", "cpu"), "cuda": kernels.unavailable("cuda", "cuda")}
    if as_json:
        click.echo(json.dumps({"kernels": [row._asdict() for row in found], "unavailable": why}, indent=1))
        return
    print_table(
        ["verb", "device", "variants", "computed by"],
        [(row.verb, row.device, " ".join(row.variants), row.default or "nothing") for row in found],
    )
    if not why["vector"]:
        click.echo(f"vector kernels use {_isa()}; what they do not take (kernels/cpu/dispatch.py), numpy computes")
    if not why["cuda"]:
        click.echo("on cuda, what a variant does not take goes to the next in the list")
    for what, reason in why.items():
        if reason:
            click.echo(f"no {what} kernels here: {reason}")


def _isa() -> str:
    from minidl.kernels.cpu.engine import host_isa

    isa = host_isa()
    return f"{isa.name} ({isa.width} floats in {isa.registers} registers)"


@kernels_.command()
@click.argument("name")
@click.option("--ir", is_flag=True, help="The LLVM IR that it emits, for the options of a usual convolution.")
@click.option("--asm", is_flag=True, help="The machine code that LLVM makes of that.")
@click.option("--loops", is_flag=True, help="Of the machine code, only the innermost loops.")
@click.option("--isa", type=click.Choice(ISAS), help="For these instructions.  [default: this machine's best, or $MINIDL_ISA]")
@debug_option
def show(name: str, ir: bool, asm: bool, loops: bool, isa: str | None) -> None:
    """Show a kernel: its contract, where its variants are written, the source of its fast one.

    NAME is a verb, such as conv2d, or a program of the vector kernels, such as winograd.
    """
    from minidl.inspect import kernels

    if ir + (asm or loops) > 1:
        raise ConfigError("--ir and --asm: choose one")
    if isa and not (ir or asm or loops):
        raise ConfigError("--isa goes with --ir, --asm or --loops")
    if ir:
        click.echo(kernels.ir(name, isa), nl=False)
    elif asm or loops:
        click.echo(kernels.assembly(name, isa, loops).rstrip())
    else:
        _explain(name)


def _explain(name: str) -> None:
    import inspect

    from minidl.inspect import kernels

    found = kernels.find(name)
    if found.spec is not None:
        spec = found.spec
        click.echo(f"{spec.verb}{spec.signature}\n\n{spec.formula}\n")
        print_table(
            ["dtype", "rtol", "atol", "why"],
            [(dtype, f"{t.rtol:g}", f"{t.atol:g}", t.reason) for dtype, t in spec.tolerance.items()],
        )
        click.echo(f"sums in: {spec.accumulate}\nthe reference is checked against: {spec.oracle}")
        click.echo(f"two runs give {'the same bits' if spec.deterministic else 'other bits'}\n")
        print_table(
            ["device", "variant", "written in"],
            [(p.device, p.variant, f"{_short(p.file)}:{p.line}") for p in kernels.places(name)],
        )
    for program, write in found.programs.items():
        file, line = inspect.getsourcefile(write) or "?", inspect.getsourcelines(write)[1]
        click.echo(f"\n# {program}, {_short(Path(file))}:{line}\n{inspect.getsource(write).rstrip()}")


def _short(path: Path) -> str:
    """From the working directory, if it lies in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@kernels_.command()
@click.argument("verbs", nargs=-1, metavar="[VERB]...")
@click.option("--rounds", type=click.IntRange(3), default=11, help="How often each variant is timed.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="[default: as many as kernels use]")
@click.option("--reference", is_flag=True, help="Time the reference variant, too: seconds to minutes per call.")
@click.option("--torch/--no-torch", default=True, help="Beside PyTorch, where it is installed.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@debug_option
def bench(verbs: tuple[str, ...], rounds: int, threads: int | None, reference: bool, torch: bool, as_json: bool) -> None:
    """Time every variant of VERBs (default: of all) on float32 arrays of usual sizes, each in turn.

    Times are the median and quartiles of the rounds; ~ marks those that scatter too much to be trusted.  The rate counts the
    products and sums of the plain formula (so Winograd's may pass the roof), or each array read or written once (so what
    stays in a cache may).
    """
    from minidl.inspect import kernel_bench
    from minidl.kernels.cpu.threads import get_num_threads
    from minidl.train import environment

    chosen, left_out = kernel_bench.verbs_with_samples(verbs)
    if threads is not None:
        environment.set_threads(threads)
    used = get_num_threads()
    theirs = kernel_bench.find_torch(used) if torch else None
    facts = {
        "processor": environment.processor(), "threads": used, "blas_threads": environment.blas_threads(),
        "torch": getattr(theirs, "__version__", None), "load": environment.load(), "cores": environment.cores(),
        **kernel_bench.roofs()._asdict(),
    }  # fmt: skip
    if not as_json:
        click.echo("\n".join(_conditions(facts)))
    measured = []
    for verb in chosen:
        found = kernel_bench.measure(verb, rounds, reference, theirs)
        measured.append(found)
        if not as_json:
            click.echo(f"\n{found.verb}: {found.what}")
            print_table(["variant", "ms", "quartiles", "", "ratio", "rate", "% of roof"], _lines(found, facts))
    if as_json:
        click.echo(json.dumps({"machine": facts, "kernels": [_plain(found) for found in measured]}, indent=1))
    elif left_out:
        click.echo(f"\nwithout a sample of their arguments, and so not timed: {', '.join(left_out)}")


def _conditions(facts: dict[str, Any]) -> list[str]:
    blas, load, cores = facts["blas_threads"], facts["load"], facts["cores"]
    torch = f", PyTorch {facts['torch']} on {facts['threads']}" if facts["torch"] else ", no PyTorch"
    lines = [
        f"{facts['processor']}, {cores} cores; kernels on {facts['threads']} thread{'s' * (facts['threads'] > 1)}, "
        f"BLAS on {'an unknown number' if blas is None else blas}{torch}"
    ]
    if facts["gflops"]:
        peak, copying = facts["gflops"], facts["gbytes"]
        lines.append(f"roofs on these threads: {peak:.0f} GFLOP/s of multiply-adds, {copying:.0f} GB/s of copying")
    else:
        lines.append("no roofs: they are measured with kernels, and llvmlite does not work here")
    if load is not None and load > 0.3:
        lines.append(f"NOT QUIET: {load:.1f} programs wanted to run in the last minute: times are too long, ratios suffer less")
    return lines


def _lines(found: Any, facts: dict[str, Any]) -> list[list[str]]:
    unit, roof = ("GFLOP/s", facts["gflops"]) if found.flop else ("GB/s", facts["gbytes"])
    lines = []
    for name, t in found.timings.items():
        rate = found.rate(name)
        lines.append([
            name, f"{t.median * 1e3:.3f}", f"{t.low * 1e3:.3f}-{t.high * 1e3:.3f}", "~" if t.noisy else "", f"{t.ratio:.2f}",
            f"{rate:.1f} {unit}", f"{100 * rate / roof:.0f}" if roof else "",
        ])  # fmt: skip
    return lines


def _plain(found: Any) -> dict[str, Any]:
    timings = {
        name: {**t._asdict(), "noisy": t.noisy, "rate": found.rate(name)} for name, t in found.timings.items()
    }  # fmt: skip
    return {**found._asdict(), "unit": "GFLOP/s" if found.flop else "GB/s", "timings": timings}
