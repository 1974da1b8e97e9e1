"""``minidl gradcheck`` and ``minidl doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, key_values, model_file, print_table, root_option
from minidl.errors import ConfigError


@cli.command("gradcheck")
@click.argument("target", metavar="OP|FILE.py:NAME")
@click.option("--shape", "shapes", multiple=True, metavar="2,3", help="Shape of an input; repeat it for each.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Keyword argument; repeatable.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the random inputs.")
@debug_option
def gradcheck_(target: str, shapes: tuple[str, ...], options: tuple[str, ...], seed: int) -> None:
    """Compare a gradient with finite differences, in float64.

    OP is an operation, such as conv2d or softmax; FILE.py:NAME is a Function, an nn.Module or a function of yours.
    Elements where backward is wrong are shown, told from those at a kink (where no gradient exists, and none is wrong).
    Exit code 1: a gradient is wrong.
    """
    from minidl.train import gradients

    subject = gradients.find(target, [_shape(text) for text in shapes], key_values(options, "--option"), seed)
    verdict = gradients.check(subject)
    for order, found in (("gradient", verdict), ("gradient of the gradient", verdict.second)):
        if found is None:
            continue
        if found.problem:
            click.echo(f"{subject.title}, {order}: {found.problem}")
        elif found.mismatches:
            _show_mismatches(subject, order, found)
        else:
            click.echo(f"{subject.title}, {order}: right ({found.elements} elements, finite differences agree)")
    if not verdict.ok:
        raise click.exceptions.Exit(1)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").strip("(),").split(",") if part.strip())
    except ValueError:
        shape = (-1,)
    if any(size < 0 for size in shape):
        raise ConfigError(f"--shape {text!r}: expected sizes with commas between them, such as 2,3")
    return shape


def _show_mismatches(subject: Any, order: str, found: Any, most: int = 12) -> None:
    from minidl.train.gradients import factor

    names = [*subject.names, *(f"output gradient {k}" for k in range(99))]
    worst = sorted(found.mismatches, key=lambda m: (m.kink, -abs(m.analytic - m.numeric)))
    rows = [
        (names[m.input], str(m.index), f"{m.analytic:.8g}", f"{m.numeric:.8g}", f"{m.left:.6g}", f"{m.right:.6g}",
         "a kink" if m.kink else "WRONG")
        for m in worst[:most]
    ]  # fmt: skip
    print_table(["input", "element", "backward", "finite differences", "from the left", "from the right", ""], rows)
    if len(worst) > most:
        click.echo(f"... and {len(worst) - most} more")
    if not found.wrong:
        click.echo(
            f"{subject.title}, {order}: {len(worst)} elements lie at a kink, where no gradient exists; none is wrong"
        )
        return
    places = {name: [m for m in found.wrong if names[m.input] == name] for name in dict.fromkeys(names)}
    for name, wrong in places.items():
        size = next((t.numel() for t, own in zip(subject.inputs, subject.names, strict=True) if own == name), None)
        if wrong:
            times = factor(wrong)
            hint = f"; backward gives {times:.4g} times the right value" if times is not None else ""
            click.echo(f"{name}: {len(wrong)} {f'of {size} ' if size else ''}elements are wrong{hint}")
    click.echo(f"{subject.title}, {order}: WRONG")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), required=False, metavar="[MODEL]")
@root_option
@click.option("--gpu", is_flag=True, help="Compile every CUDA kernel, and compare each family with the CPU.")
@debug_option
def doctor(model: Path | None, data_root: str | None, gpu: bool) -> None:
    """What this machine offers: versions, BLAS and its threads, processor, GPU, kernels, data sets, disk.

    With MODEL, a run folder or its model.safetensors: whether that net is well, on images it was trained on.  With --gpu: whether
    CUDA is; exit code 1 if not.
    """
    from minidl import data
    from minidl.backend import cuda_install
    from minidl.train import environment

    if gpu:
        from minidl.cli.gpu import examine as examine_gpu

        if model is not None:
            raise ConfigError("doctor: a MODEL or --gpu, not both")
        found = examine_gpu()
        click.echo()
        _advise(found)
        if found:
            raise click.exceptions.Exit(1)
        return
    if model is not None:
        from minidl.train.predict import examine

        _advise(examine(model_file(model), root=data_root))
        return
    memory = environment.memory_bytes()
    blas = environment.blas()
    has_gpu, gpu_found = environment.gpu()
    threads = environment.blas_threads()
    root = data.data_root(data_root)
    rows = [(name, version) for name, version in environment.versions().items()]
    rows += [
        ("processor", environment.processor()),
        (
            "cores",
            f"{environment.cores()} for this process" + (f", {memory / 2**30:.0f} GiB of memory" if memory else ""),
        ),
        ("vector units", " ".join(environment.simd()) or "none beyond the baseline"),
        ("BLAS", f"{blas['name']} {blas['version']}, {'unknown' if threads is None else threads} threads"),
        ("GPU", gpu_found if has_gpu else f"none: {gpu_found}"),
        ("kernels", environment.kernel_variants()),
        ("kernel cache", environment.kernel_cache()),
    ]
    rows += [
        (f"data {status.name}", status.where if status.present else f"not here; {status.where}")
        for status in data.available(data_root)
    ]
    for what, folder in (("data root", root), ("run folders", Path("runs").absolute())):
        rows.append((what, f"{folder} ({'writable' if environment.may_write(folder) else 'NOT writable'})"))
    print_table(["what", "found"], rows)
    _advise([*environment.advice([root, Path("runs").absolute()]), *cuda_install.advice()])


def _advise(advice: list[str]) -> None:
    for line in advice:
        click.echo(f"! {line}")
    click.echo("Something needs attention." if advice else "All is well.")
