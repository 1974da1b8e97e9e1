"""What a net's layers say and where it looks: ``minidl features`` and ``minidl attention``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, key_values, model_file, print_table
from minidl.cli.nets import check_picture
from minidl.errors import ConfigError


def _net_options(command: Any) -> Any:
    """The options that say which net, for commands that take one."""
    for option in reversed(
        [
            click.option("--weights", metavar="FILE", help="For a net by name: .pth or .safetensors."),
            click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of a net by name; repeatable."),
            click.option(
                "--preprocess", metavar="NAME",
                help="For weights that do not say: imagenet, or a data set whose mean and deviation were used.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def _member(model: str, weights: str | None, options: tuple[str, ...], preprocess: str | None) -> Any:
    from minidl.train.ensemble import load_members

    given = () if weights is None else (weights,)
    told = key_values(options, "--option")
    return load_members([model_file(Path(model))], weights=given, preprocess=preprocess, options=told)[0]


@cli.command("features")
@click.argument("model")
@click.argument("data_name", metavar="DATA")
@click.option("--layers", default="fc7", metavar="A,B", help="Layers: pool5, fc6, fc7 of AlexNet and VGG, or modules' paths.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors", help="Write them there.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only N images.")
@click.option("--batch-size", type=click.IntRange(1), default=64)
@click.option("--cache", metavar="DIR", help="Keep each layer's features there, and take them from there the next time.")
@click.option("--data-root", metavar="DIR", help="Where the data sets are.  [default: $MINIDL_DATA or ~/.cache/minidl/data]")
@_net_options
@click.option("--quiet", "-q", is_flag=True)
@debug_option
def features_(
    model: str, data_name: str, layers: str, out: Path, split: str, limit: int | None, batch_size: int, cache: str | None,
    data_root: str | None, quiet: bool, **which: Any,
) -> None:  # fmt: skip
    """Write what layers of MODEL say of the images of DATA, one vector for each image.

    MODEL is a run folder, its model.safetensors, or a net's name with --weights; DATA a data set or folder:PATH.  The file
    has an array (images, features) for each layer, and `labels`.
    """
    from minidl.io import safetensors
    from minidl.train import progress
    from minidl.train.predict import images_for
    from minidl.transfer import extract, layer_paths, model_hash

    names = [name for name in layers.split(",") if name]
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ConfigError(f"--out {out}: expected a name that ends in .safetensors, in a folder that exists")
    member = _member(model, **which)
    paths = layer_paths(member.model, names)
    dataset = images_for(member, data_name, data_root, split, limit)
    reporter = progress.reporter(quiet)
    done = 0

    def advance(now: int, total: int) -> None:
        nonlocal done
        reporter.advance(now - done, 0.0, 0.0)
        done = now

    with reporter.running():
        reporter.start_phase("features", len(dataset))
        try:
            found = extract(
                member.model, dataset, names, transform=member.preparation, batch_size=batch_size, cache=cache, progress=advance
            )
        finally:
            reporter.end_phase()
    facts = {
        "model": member.card.model, "model_sha256": model_hash(member.model), "data": data_name, "split": split,
        "layers": paths, "preprocessing": member.card.preprocessing, "class_names": dataset.class_names,
    }  # fmt: skip
    safetensors.save_file({**found, "labels": dataset.labels}, out, {"minidl.features": json.dumps(facts)})
    if not quiet:
        rows = [(name, paths[name], f"{len(values):,} x {values.shape[1]:,}") for name, values in found.items()]
        print_table(["layer", "module", "images x features"], rows)
        click.echo(f"{out}: written")


@cli.command("attention")
@click.argument("model")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.png", help="[default: attention.png]")
@click.option("--block", type=int, default=-1, metavar="N", help="Of which block: 0 is the first, -1 the last.")
@_net_options
@debug_option
def attention_(model: str, image: Path, out: Path | None, block: int, **which: Any) -> None:
    """Draw where MODEL, a Vision Transformer, looks in a picture: each head of a block, their mean, and all blocks at once.

    MODEL is a run folder, its model.safetensors, or a net's name with --weights.
    """
    from minidl.inspect import attention, draw

    target = out or Path("attention.png")
    check_picture(target)
    member = _member(model, **which)
    preparation = member.preparation
    pixels = preparation.read(image, member.card.input_shape[0] == 1)
    found = attention.look(member.model, preparation.views(pixels, 1)[:, 0])
    draw.attention(found, preparation.cut(pixels)[0], target, block, f"{member.card.model}: {image.name}")
    click.echo(f"{target}: written")
