"""The commands that use nets rather than train them: ``minidl table``, ``eval`` and ``predict``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from minidl.cli.app import cli, debug_option, key_values, model_file, print_table
from minidl.errors import ConfigError, DataError

READABLE = 12  # classes of which a confusion matrix is still readable in a terminal


def _split_names(names: Iterable[str]) -> list[Path]:
    """``a,b c`` as three models; folders of runs become the files in them."""
    found = []
    for name in names:
        parts = [name] if Path(name).exists() else name.split(",")  # a file's name may have a comma
        found += [model_file(Path(part)) for part in parts if part]
    return found


def _model_options(command: Any) -> Any:
    """The options that say which nets, shared by eval and predict."""
    for option in reversed(
        [
            click.option(
                "--weights", multiple=True, metavar="FILE",
                help="For a net by name: .pth or .safetensors; one for each such net, in order.",
            ),
            click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of a net by name; repeatable."),
            click.option(
                "--classes", metavar="FILE",
                help="Names of the classes: one on each line, or JSON.  [default: those in the model file]",
            ),
            click.option(
                "--preprocess", metavar="NAME",
                help="For weights that do not say: imagenet, or a data set whose mean and deviation were used.",
            ),
            click.option(
                "--tta", "--views", "views", metavar="KIND", default="none",
                help="Average over views: flip (2: and mirrored), shift, ten-crop (10: corners and centre, mirrored).",
            ),
            click.option("--device", metavar="NAME", default="cpu"),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def _members(
    names: list[Path], weights: tuple[str, ...], options: tuple[str, ...], classes: str | None, preprocess: str | None,
    device: str,
) -> Any:  # fmt: skip
    from minidl.train.ensemble import load_members

    return load_members(
        names, weights=weights, classes=classes, preprocess=preprocess, options=key_values(options, "--option"), device=device
    )


# ------------------------------------------------------------------------------------------------------------- eval


@cli.command("eval")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", "data_name", metavar="NAME", help="Data set.  [default: the one it was trained on]")
@click.option(
    "--data-root", metavar="DIR", help="Where the data sets are.  [default: $MINIDL_DATA or ~/.cache/minidl/data]"
)
@click.option("--split", type=click.Choice(["test", "train"]), default="test")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only N images.")
@click.option("--batch-size", type=click.IntRange(1), default=256)
@click.option("--skip-unreadable", is_flag=True, help="For folder:PATH: leave out pictures that cannot be decoded.")
@_model_options
@click.option("--confusion", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the confusion matrix.")
@click.option("--quiet", "-q", is_flag=True, help="Print the totals only.")
@debug_option
def eval_(
    models: tuple[str, ...],
    data_name: str | None,
    data_root: str | None,
    split: str,
    limit: int | None,
    batch_size: int,
    views: str,
    skip_unreadable: bool,
    confusion: Path | None,
    quiet: bool,
    **which: Any,
) -> None:
    """Test MODEL: loss, top-1, top-5, each class, and what is taken for what.

    MODEL is a run folder, its model.safetensors, or a net's name with --weights.  Several, also as A,B,C, answer together:
    their probabilities are averaged.  Of equal scores the lower class counts as the higher one.
    """
    from minidl.train import predict, progress
    from minidl.train.views import Views

    kind = Views.parse(views)
    if confusion is not None:
        check_picture(confusion)
    reporter = progress.reporter(quiet)
    members = _members(_split_names(models), **which)
    with reporter.running():
        result = predict.test_members(
            members,
            data_name=data_name,
            root=data_root,
            split=split,
            limit=limit,
            batch_size=batch_size,
            views=kind,
            skip_unreadable=skip_unreadable,
            reporter=reporter,
        )
    card = members[0].card
    title = "+".join(member.card.model for member in members) + (f", {kind.count} views" if kind.count > 1 else "")
    title += f" on {data_name or card.data} ({split}, {result.images:,} images)"
    if not quiet:
        _print_classes(card.class_names, result.confusion)
    if confusion is not None:
        from minidl.inspect import draw

        draw.confusion(result.confusion.counts, card.class_names, confusion, f"{title}: top-1 {result.top1:.2%}")
        if not quiet:
            click.echo(f"confusion matrix: {confusion}")
    click.echo(
        f"{title}: loss {result.loss:.4f}, top-1 {result.top1:.2%}, top-5 {result.top5:.2%}, {result.seconds:.1f} s"
    )


def _print_classes(names: Sequence[str], confusion: Any) -> None:
    """Each class's accuracy; for few classes with the confusion matrix, for many with the most frequent mistakes."""
    accuracies = ["-" if share != share else f"{share:.2%}" for share in confusion.per_class()]
    if len(names) <= READABLE:
        for line in confusion_lines(names, confusion.counts, accuracies):
            click.echo(line)
    else:
        rows = [
            (name, f"{sum(row):,}", accuracy) for name, row, accuracy in zip(names, confusion.counts, accuracies, strict=True)
        ]
        print_table(["class", "images", "accuracy"], rows)
    for true, predicted, count in confusion.most_confused(3 if len(names) <= READABLE else 10):
        click.echo(f"{count} x {names[true]} taken for {names[predicted]}")


def confusion_lines(names: Sequence[str], counts: Sequence[Sequence[int]], accuracies: Sequence[str]) -> list[str]:
    """A confusion matrix in text: a row for each true class, a column for each predicted one."""
    left = max(len("true \\ predicted"), *map(len, names))
    width = max(6, *(len(f"{count:,}") for row in counts for count in row))
    short = [name[:width] for name in names]
    lines = ["  ".join(["true \\ predicted".ljust(left), *(name.rjust(width) for name in short), "images", "accuracy"])]
    for name, row, accuracy in zip(names, counts, accuracies, strict=True):
        cells = [f"{count:,}" if count else "." for count in row]
        parts = [name.ljust(left), *(cell.rjust(width) for cell in cells), f"{sum(row):,}".rjust(6), accuracy.rjust(8)]
        lines.append("  ".join(parts))
    return lines


def check_picture(path: Path) -> None:
    """Before anything that takes time: can the picture be drawn, and written?"""
    from minidl.inspect import draw

    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: expected a name that ends in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}")
    draw.check()


# ---------------------------------------------------------------------------------------------------------- predict


@cli.command("predict")
@click.argument("model")
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, metavar="K", help="How many classes to show.")
@_model_options
@debug_option
def predict_(model: str, images: tuple[Path, ...], top: int, views: str, **which: Any) -> None:
    """Say what MODEL sees in pictures.

    MODEL is a run folder, its model.safetensors, or a net's name with --weights.  Several, as A,B,C or one after the other,
    answer together: their probabilities are averaged.  Size, colours and normalisation come from the model file.
    """
    from minidl.train import predict

    names, pictures = [model], list(images)
    while pictures and (pictures[0].is_dir() or pictures[0].suffix == ".safetensors"):
        names.append(str(pictures.pop(0)))
    if not pictures:
        raise DataError(f"no picture is given, only models: {', '.join(names)}")
    members = _members(_split_names(names), **which)
    rows = []
    for path, guesses in predict.predict_members(members, pictures, top=top, views=views):
        for place, (name, probability) in enumerate(guesses):
            rows.append((str(path) if place == 0 else "", name, f"{probability:.1%}", "#" * round(20 * probability)))
    print_table(["image", "class", "probability", ""], rows)


# ------------------------------------------------------------------------------------------------------------ table


@cli.command("table")
@click.argument("model")
@click.option("--input", "size", metavar="N", help="Images: 227, 224x320 or 1x28x28 (channels first).  [default: the net's]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the net; repeatable.")
@click.option("--as-printed", is_flag=True, help="With the lectures' wrong values, marked and explained.")
@click.option("--all", "every", is_flag=True, help="Also activations, dropout and normalisation.")
@click.option("--biases", is_flag=True, help="Count biases among the parameters of each layer.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json", "png"]), default="text")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there.  [default: stdout; png: MODEL.png]")
@debug_option
def table_(
    model: str, size: str | None, options: tuple[str, ...], as_printed: bool, every: bool, biases: bool, form: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Print the layers of MODEL with sizes, receptive fields, memory, parameters and operations.

    MODEL is a net's name, a run folder or its model.safetensors.  No net is too large: nothing is computed.
    """
    from minidl.inspect import draw, render

    if form == "png":
        target = out or Path(f"{Path(model).name}.png")
        check_picture(target)
        if as_printed:
            raise ConfigError("--as-printed: a picture has no room for it; use --format text or markdown")
        draw.bars(_table_of(model, size, key_values(options, "--option")), target)
        click.echo(f"{target}: written")
        return
    found = _table_of(model, size, key_values(options, "--option"))
    if form == "json":
        printed = render.to_json(found, as_printed=as_printed)
    else:
        write = render.markdown if form == "markdown" else render.text
        printed = write(found, every=every, biases=biases, as_printed=as_printed)
    if out is None:
        click.echo(printed)
    else:
        out.write_text(printed + "\n", encoding="utf-8")
        click.echo(f"{out}: written")


def _table_of(model: str, size: str | None, options: dict[str, Any]) -> Any:
    """The table of a net by name or file."""
    from minidl import inspect, models
    from minidl.nn import init
    from minidl.train.weights import load_model

    path = Path(model)
    if path.exists() or path.suffix == ".safetensors" or path.parent != Path("."):
        if options:
            raise ConfigError(f"--option: {model} is a finished model, with options of its own")
        net, card = load_model(model_file(path))
        return inspect.table(net, _image_shape(size, card.input_shape), card.model)
    shape = _image_shape(size, models.model_info(model).input_shape)
    options = {"in_channels": shape[0], **options} if "in_channels" in models.model_info(model).options else options
    with init.shape_only():
        net = models.create(model, image_size=shape[1:], **options)
    return inspect.table(net, shape, model)


def _image_shape(text: str | None, default: tuple[int, int, int]) -> tuple[int, int, int]:
    """``227``, ``224x320`` or ``1x28x28`` as (C, H, W)."""
    if text is None:
        return default
    parts = text.lower().replace(",", "x").split("x")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts) or len(parts) > 3:
        raise ConfigError(f"--input {text!r}: expected 227, 224x320 (height, width) or 1x28x28 (channels first)")
    sizes = [int(part) for part in parts]
    channels = sizes.pop(0) if len(sizes) == 3 else default[0]
    return channels, sizes[0], sizes[-1]
