"""``minidl doctor --gpu``: the installation, the compiler, and every family of kernels."""

from __future__ import annotations

import time
from typing import Any

import click

from minidl.cli.app import print_table


def examine() -> list[str]:
    """Print what is found; what is wrong, a sentence each with what to do."""
    import minidl
    from minidl.backend import cuda_install

    reason = minidl.cuda.why_not()
    found = [] if reason is None else [f"no GPU can be used: {reason}"]
    found += [line for line in cuda_install.advice() if line not in (reason or "")]
    rows = [(f"package {name}", version) for name, version in cuda_install.packages().items()]
    rows += [(f"cuda:{k}", _title(k)) for k in range(minidl.cuda.device_count())]
    print_table(["what", "found"], rows or [("package cupy", "none")])
    compiler = _compiler()
    if compiler:
        click.echo(f"kernels are not compiled: {compiler}")
        return [*found, compiler] if reason is None else found
    for device in range(minidl.cuda.device_count()) or [None]:
        found += _compile(device)
        if device is not None:
            found += _try(device)
    if reason is not None:
        click.echo("not done without a GPU: loading the machine code, running it, comparing it with the CPU")
    return found


def _title(device: int) -> str:
    import minidl

    found = minidl.cuda.get_device_properties(device)
    free, total = minidl.cuda.mem_get_info(device)
    return (
        f"{found.name}, sm_{found.major}{found.minor}, {found.multi_processor_count} multiprocessors, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    )


def _compiler() -> str:
    """Why nothing can be compiled; empty if it can."""
    from minidl.errors import DeviceError
    from minidl.kernels.cuda import loader, source

    try:
        loader.compile_cubin("dropout.cu", "sm_90", source.defines("float16"))
    except DeviceError as error:
        return str(error).splitlines()[0]
    return ""


def _compile(device: int | None) -> list[str]:
    from minidl.inspect import gpu_check

    arch = gpu_check.architecture(device)
    begin, kernels, problems = time.perf_counter(), 0, []
    click.echo(f"\ncompiling for {arch}" + ("" if device is not None else ", as an example"))
    for file in gpu_check.compile_all(arch):
        kept = f", {file.found} kept from before" if file.found else ""
        state = "REFUSED" if file.problem else f"{file.kernels} kernels for {file.dtypes} dtypes{kept}"
        click.echo(f"  {file.file:<18}{file.seconds:6.2f} s  {state}")
        kernels += file.kernels * file.dtypes
        if file.problem:
            problems.append(file.problem)
    click.echo(f"  {kernels} kernels in {time.perf_counter() - begin:.1f} s")
    return problems


def _try(device: int) -> list[str]:
    from minidl.inspect import gpu_check

    click.echo(f"\ncuda:{device} beside the CPU, forward and backward; differences as parts of the largest number")
    problems = []
    for verdict in gpu_check.check_all(f"cuda:{device}"):
        state = "well" if verdict.ok else "FAILED" if verdict.problem else "WRONG"
        name = f"{verdict.family}, {verdict.dtype}"
        click.echo(f"  {name:<22}{verdict.seconds:6.2f} s  {verdict.difference:8.1e}  {state}")
        if not verdict.ok:
            problems.append(f"{name} on cuda:{device}: {_sentence(verdict)}")
    return problems


def _sentence(verdict: Any) -> str:
    if verdict.problem:
        return str(verdict.problem)
    return (
        f"differs from the CPU by {verdict.difference:.1e}; `pytest tests/kernels --device cuda` of a checkout names the kernel, "
        "MINIDL_KERNELS=cupy works without ours"
    )
