"""``minidl convert`` and ``minidl export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, model_file


@cli.command("convert")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.pth")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--entry", metavar="NAME", help="Which weights, if the file holds several sets.")
@debug_option
def convert_(source: Path, target: Path, entry: str | None) -> None:
    """Turn PyTorch weights into safetensors, without PyTorch and without running anything in them."""
    from minidl.io.convert import convert

    click.echo(convert(source, target, entry))


@cli.command("export")
@click.argument("model", metavar="MODEL")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.onnx")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="For a net by name: .pth or .safetensors.")
@click.option("--num-classes", type=click.IntRange(1), metavar="N", help="For a net by name.")
@click.option("--image-size", type=click.IntRange(1), metavar="PIXELS", help="For a net by name.")
@debug_option
def export_(model: str, target: Path, **options: Any) -> None:
    """Write MODEL (a net's name, a run folder or its model.safetensors) as an ONNX file."""
    from minidl.train.export import export

    click.echo(export(model_file(Path(model)), target, **options))
