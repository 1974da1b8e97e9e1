"""``minidl bench``: how many times as fast each kind of kernels computes a net."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, print_table
from minidl.errors import ConfigError


@cli.command("bench")
@click.option("--model", default="lenet5", metavar="NAME", help="A net of `minidl models`.")
@click.option("--batch", "--batch-size", type=click.IntRange(1), default=64, metavar="N", help="Images at once.")
@click.option("--device", metavar="NAME", help="The GPU's column: cuda, cuda:1; cpu: none.  [default: cuda, if there is one]")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Of the CPU's columns.  [default: one per core]")
@click.option("--budget", type=click.FloatRange(1), default=120.0, metavar="SECONDS", help="Rows that do not fit are left out.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write all figures there.")
@debug_option
def bench(
    model: str, batch: int, device: str | None, dtype: str, threads: int | None, budget: float, file: Path | None
) -> None:
    """Time a net with NumPy, Numba's loops, the vector kernels and a GPU: each layer, the forward pass, a training step.

    Layers are timed forward, in training mode, on random numbers.  First calls compile and are not counted.  x is how many
    times as fast as NumPy; the last column is the largest difference from NumPy's result.
    """
    from minidl.inspect import speed
    from minidl.train import environment

    if file is not None and not (file.parent.is_dir() and environment.may_write(file.parent)):
        raise ConfigError(f"--json {file}: {file.parent} may not be written; choose another folder")
    environment.set_threads(threads or environment.cores())
    gpu, words = _gpu(device)
    begin = time.perf_counter()
    bench = speed.Bench(model, batch, gpu, dtype, budget)
    facts = _facts(model, batch, dtype, gpu, words, bench)
    click.echo("\n".join(_conditions(facts)))
    rows = list(bench.rows())
    _print(rows, [contender.name for contender in bench.contenders])
    click.echo("\n".join(_notes(rows, bench, time.perf_counter() - begin)))
    if file is not None:
        from minidl.io.atomic import write_atomic

        found = {"conditions": facts, "rows": [_plain(row) for row in rows]}
        write_atomic(file, [(json.dumps(found, indent=1) + "\n").encode()])


def _gpu(device: str | None) -> tuple[str | None, str]:
    """The GPU to time, and what there is to say of it."""
    import minidl

    if device == "cpu":
        return None, "not asked for"
    if device is not None and not device.startswith("cuda"):
        raise ConfigError(f"--device {device!r}: expected cuda, cuda:1, or cpu for the CPU's columns alone")
    reason = minidl.cuda.why_not()
    if reason is not None:
        return None, f"none, so there is no column for it: {reason}"
    return device or "cuda", minidl.cuda.get_device_name(device)


def _facts(model: str, batch: int, dtype: str, gpu: str | None, words: str, bench: Any) -> dict[str, Any]:
    from minidl.kernels.cpu.threads import get_num_threads
    from minidl.train import environment

    return {
        "model": model, "batch": batch, "dtype": dtype, "images": list(bench.info.input_shape), "device": gpu, "gpu": words,
        "processor": environment.processor(), "cores": environment.cores(), "threads": get_num_threads(),
        "load": environment.load(), "versions": environment.versions(),
    }  # fmt: skip


def _conditions(facts: dict[str, Any]) -> list[str]:
    image = "x".join(map(str, facts["images"]))
    lines = [
        f"{facts['model']}, {facts['batch']} images of {image}, {facts['dtype']}",
        f"CPU: {facts['processor']}, {facts['threads']} of {facts['cores']} cores",
        f"GPU: {facts['gpu']}",
    ]
    if facts["load"] is not None and facts["load"] > 0.3:
        lines.append(f"NOT QUIET: {facts['load']:.1f} programs wanted to run in the last minute: times are too long")
    return lines


def _print(rows: list[Any], names: list[str]) -> None:
    from minidl.inspect.speed import TITLES

    columns = ["layer", "input"]
    for name in names:
        columns += [f"{TITLES[name]} ms"] + ["x"] * (name != "numpy")
    print_table([*columns, "difference"], [_line(row, names) for row in [*rows[2:], *rows[:2]]])


def _line(row: Any, names: list[str]) -> list[str]:
    cells = [row.name + (f" (and {row.like} like it)" if row.like else ""), "x".join(map(str, row.shape))]
    for name in names:
        cells.append(f"{row.cells[name].seconds * 1e3:.3f}" if name in row.cells else "-")
        if name != "numpy":
            ratio = row.ratio(name)
            cells.append(f"{ratio:.1f}" if ratio is not None else "-")
    return [*cells, f"{row.difference:.1e}" if len(row.cells) > 1 else "-"]


def _notes(rows: list[Any], bench: Any, seconds: float) -> list[str]:
    from minidl.inspect.speed import TITLES

    lines = []
    for name in (contender.name for contender in bench.contenders):
        cells = [row.cells[name] for row in rows if name in row.cells]
        first, later = sum(cell.first for cell in cells), sum(cell.seconds for cell in cells)
        first_calls = f"first calls, which compile, on two images and not counted: {first:.2f} s"
        lines.append(f"{TITLES[name]}: {first_calls}; later ones {later:.2f} s")
        if name == "numba":
            lines[-1] += "; its loops are convolution, pooling, batch norm, dropout, softmax and loss, the rest is NumPy"
    reasons = dict.fromkeys(reason for row in rows for reason in row.left_out.values())
    for reason in reasons:
        places = []
        for row in rows:
            names = [TITLES[name] for name, why in row.left_out.items() if why == reason]
            everybody = len(names) == len(bench.contenders)
            places += [row.name + ("" if everybody else f" ({', '.join(names)})")] if names else []
        lines.append(f"left out, {reason}: {', '.join(places)}")
    rounds = max((cell.rounds for row in rows for cell in row.cells.values()), default=0)
    lines.append(f"took {seconds:.0f} s; times are medians of up to {rounds} rounds")
    return lines


def _plain(row: Any) -> dict[str, Any]:
    cells = {name: {**cell._asdict(), "ratio": row.ratio(name)} for name, cell in row.cells.items()}
    return {**row._asdict(), "cells": cells, "difference": row.difference}
