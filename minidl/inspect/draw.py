"""Pictures of tables and results, by matplotlib, which is needed for nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from minidl.errors import ConfigError
from minidl.inspect.attention import Look
from minidl.inspect.table import Table


def _figure(width: float, height: float) -> Any:
    """A matplotlib figure that no window belongs to."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"pictures need matplotlib ({error}); install it with: pip install 'minidl[viz]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check() -> None:
    """Raise a ConfigError if pictures cannot be drawn here."""
    _figure(1, 1)


def _save(figure: Any, path: str | os.PathLike[str], colours: int | None = None) -> None:
    """Write the PNG, with at most so many colours: of a few lines on white, that is a third of the bytes."""
    if colours is None:
        figure.savefig(os.fspath(path), format="png", dpi=120)
        return
    import io

    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    Image.open(drawn).convert("RGB").quantize(colours).save(path, "PNG", optimize=True)


def bars(table: Table, path: str | os.PathLike[str]) -> None:
    """Bars of memory, parameters and operations per layer, side by side, as a PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    rows = [row for row in table.shown if row.kind != "parameter"] or table.rows
    figure = _figure(12, max(3.0, 0.9 + 0.24 * len(rows)))
    panels = figure.subplots(1, 3, sharey=True)
    columns = (
        ("memory, KB", [row.memory / 1024 for row in rows], "tab:blue"),
        ("parameters, thousands", [row.parameters / 1e3 for row in rows], "tab:orange"),
        ("multiply-accumulates, millions", [row.macs / 1e6 for row in rows], "tab:green"),
    )
    for panel, (title, values, colour) in zip(panels, columns, strict=True):
        panel.barh(range(len(rows)), values, color=colour)
        panel.set_title(f"{title} (sum {sum(values):,.0f})", fontsize=10)
        panel.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
        panel.locator_params(axis="x", nbins=5)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.suptitle(f"{table.model}, images of {'x'.join(map(str, table.input))}: {table.summary()}", fontsize=10)
    _save(figure, path)


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str], path: str | os.PathLike[str], title: str = "") -> None:
    """A confusion matrix as a PNG: true classes down, predicted ones across, each row as fractions of its class.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    n = len(names)
    side = min(20.0, 3.0 + 0.4 * n)
    figure = _figure(side + 1, side)
    panel = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, shrink=0.7, label="fraction of the true class")
    if n <= 60:
        panel.set_xticks(range(n), names, rotation=90, fontsize=8)
        panel.set_yticks(range(n), names, fontsize=8)
    if n <= 25:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    panel.text(j, i, f"{count:,}", ha="center", va="center", fontsize=7,
                               color="white" if shares[i][j] > 0.5 else "black")  # fmt: skip
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    panel.set_title(title, fontsize=10)
    _save(figure, path)


def attention(look: Look, image: Any, path: str | os.PathLike[str], block: int = -1, title: str = "") -> None:
    """Where a Vision Transformer looks, as a PNG: the image, every head of one block, their mean, and all blocks at once.

    Args:
        image: uint8 (C, H, W), as the net sees it but for normalisation.
        block: which one's heads; -1 is the last.

    Raises:
        ConfigError: no such block, or matplotlib is not installed.
    """
    count = look.blocks.shape[0]
    if not -count <= block < count:
        raise ConfigError(f"attention: there is no block {block}; this net has 0 to {count - 1}, -1 is the last")
    heads = look.blocks[block]
    panels = [("image", None), *((f"head {k}", heads[k]) for k in range(heads.shape[0])), ("mean", heads.mean(0))]
    panels.append((f"all {count} blocks", look.rollout))
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(2.4 * columns, 2.6 * rows + 0.4)
    shown = image.transpose(1, 2, 0) if image.shape[0] == 3 else image[0]
    height, width = shown.shape[:2]
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in grid:
        panel.axis("off")
    for panel, (name, values) in zip(grid, panels, strict=False):
        panel.imshow(shown, cmap="gray", extent=(0, width, height, 0))
        panel.set_title(name, fontsize=9)
        if values is not None:
            panel.imshow(
                values.numpy(), cmap="inferno", alpha=0.65, extent=(0, width, height, 0), interpolation="bilinear", vmin=0
            )
    which = block % count
    figure.suptitle(f"{title}\nattention of the class token in block {which}, each panel on its own scale".strip(), fontsize=10)
    _save(figure, path)


Points = Sequence[tuple[float, float]]


def curves(
    lines: Sequence[tuple[str, Points, Points]], path: str | os.PathLike[str], what: str = "error", top: float | None = None,
    title: str = "",
) -> None:  # fmt: skip
    """Courses of training runs as a PNG, as He et al. 2015 draw them: training thin, tests bold, a colour for each run.

    Args:
        lines: (name, points of the training, points of the tests) of each run, a point being (epoch, value).
        what: the axis's name; "error" is in percent.
        top: the largest value that is drawn; None: all.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = _figure(6.4, 4.2)
    panel = figure.subplots()
    for k, (name, train, test) in enumerate(lines):
        for points, width, label in ((train, 0.8, None if test else name), (test, 2.2, name)):
            if points:
                lone = "." if len(points) == 1 else None
                panel.plot(*zip(*points, strict=True), color=f"C{k % 10}", linewidth=width, marker=lone, label=label)
    panel.set_xlabel("epoch")
    panel.set_ylabel("error, %" if what == "error" else what)
    panel.set_ylim(0, top)
    panel.set_xlim(left=0)
    panel.grid(linewidth=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, title="training thin, test bold", title_fontsize=8)
    panel.set_title(title, fontsize=10)
    _save(figure, path, colours=64)
