"""A table as text, Markdown or JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from typing import Any

from minidl.errors import ConfigError
from minidl.inspect.notes import errata, notes
from minidl.inspect.table import Row, Table

COLUMNS = (
    "layer", "in C", "in H/W", "filters", "kernel", "stride", "pad", "out C", "out H/W", "sees", "field", "eff. stride",
    "eff. pad", "memory KB", "params k", "MFLOP",
)  # fmt: skip
LEGEND = (
    "sees: what a unit sees of its layer's input; field: of the image, with effective stride and padding; memory: output in "
    "float32; params: weights{biases}; MFLOP: million multiply-accumulates of convolutions and matrix products."
)
_KIND_WORDS = {"norm": "normalisation", "activation": "activation", "dropout": "dropout", "same": "no change"}


def cells(row: Row, biases: bool = False) -> dict[str, str]:
    """The printed cells of a row, by column."""
    grid_in, grid_out = len(row.input) == 3, len(row.output) == 3 and row.kind != "parameter"
    field = row.field
    parameters = row.parameters if biases else row.weights
    return {
        "layer": row.name,
        "in C": _features(row.input),
        "in H/W": _pair(row.input[1:]) if grid_in else "",
        "filters": "" if row.filters is None else str(row.filters),
        "kernel": _pair(row.kernel) + (f" d{_pair(row.dilation)}" if row.dilation != (1, 1) else ""),
        "stride": _pair(row.stride),
        "pad": _pair(row.padding),
        "out C": _features(row.output) if row.kind != "parameter" else "x".join(map(str, row.output)),
        "out H/W": _pair(row.output[1:]) if grid_out else "",
        "sees": _pair(row.seen),
        "field": _pair(field and field.size),
        "eff. stride": _pair(field and field.stride),
        "eff. pad": _pair(field and field.padding),
        "memory KB": "" if row.kind == "parameter" else _rounded(row.memory / 1024),
        "params k": _rounded(parameters / 1000),
        "MFLOP": _rounded(row.macs / 1e6),
    }


def _features(shape: tuple[int, ...]) -> str:
    """Channels of maps, length of a vector, (tokens x length) of a sequence."""
    return str(shape[0]) if len(shape) == 3 else "x".join(map(str, shape))


def _pair(values: Any) -> str:
    """Height and width, once if they are equal."""
    if values is None or not len(values):
        return ""
    texts = [f"{value:.4g}" if isinstance(value, float) and value < 1000 else f"{value:.0f}" for value in values]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _rounded(value: float) -> str:
    """Whole numbers, halves up, as the lectures round; two digits of what is less than one."""
    if value == 0 or value >= 0.995:
        return f"{math.floor(value + 0.5):,}"
    return f"{value:.2g}" if value >= 0.0001 else f"{value:.0e}"


def _body(table: Table, every: bool, biases: bool, as_printed: bool) -> tuple[list[list[str]], list[str]]:
    """The printed rows, and the footnotes of their marks."""
    rows = [cells(row, biases) for row in (table.rows if every else table.shown)]
    footnotes = []
    if as_printed:
        wrong = errata(table)
        if not wrong:
            raise ConfigError(
                f"--as-printed: the lectures print no wrong table of {table.model} for {_size(table)}; they do of alexnet "
                "for 227"
            )
        for number, erratum in enumerate(wrong, 1):
            for row in rows:
                if row["layer"] in erratum.printed:
                    row[erratum.column] = f"{erratum.printed[row['layer']]}[{number}]"
            footnotes.append(f"[{number}] erratum, {erratum.column} of {', '.join(erratum.printed)}: {erratum.why}.")
    return [[row[column] for column in COLUMNS] for row in rows], footnotes


def _size(table: Table) -> str:
    return "x".join(map(str, table.input[1:] if len(table.input) == 3 and len(set(table.input[1:])) > 1 else table.input[1:2]))


def totals(table: Table) -> list[str]:
    """The lines under a table."""
    lines = [
        f"{table.hidden_layers} hidden layers, {table.units:,} units, {table.parameters:,} parameters "
        f"({table.weights:,} without biases), {_millions(table.macs)} multiply-accumulates, "
        f"{_rounded(table.memory / 1024)} KB of outputs."
    ]
    shares = []
    for of, word in (("memory", "memory"), ("parameters", "parameters"), ("macs", "operations")):
        kinds = dict.fromkeys(row.kind for row in table.rows)
        parts = [(table.share(kind, of), kind) for kind in kinds]
        told = [f"{kind} {share:.2%}" for share, kind in sorted(parts, reverse=True) if share >= 0.00005]
        if told:
            shares.append(f"{word}: {', '.join(told)}")
    if shares:
        lines.append("Shares: " + "; ".join(shares) + ".")
    hidden = [row for row in table.rows if row.quiet]
    if hidden:
        counts = []
        for kind in dict.fromkeys(row.kind for row in hidden):
            rows = [row for row in hidden if row.kind == kind]
            own = sum(row.parameters for row in rows)
            counts.append(f"{len(rows)} x {_KIND_WORDS[kind]}" + (f" ({own:,} parameters)" if own else ""))
        lines.append(f"Not shown: {', '.join(counts)}; --all shows them.")
    return lines


def _millions(macs: int) -> str:
    return f"{macs / 1e9:,.3f} billion" if macs >= 1e10 else f"{macs / 1e6:,.1f} million"


def _title(table: Table) -> str:
    return f"{table.model}, images of {'x'.join(map(str, table.input))}"


def text(table: Table, *, every: bool = False, biases: bool = False, as_printed: bool = False) -> str:
    """The table in aligned columns.

    Args:
        every: with activations, dropout and normalisation.
        biases: count them in the column of parameters.
        as_printed: with the values that the lectures print where they are wrong, marked and explained.

    Raises:
        ConfigError: ``as_printed`` for a net of which no wrong table was printed.
    """
    rows, footnotes = _body(table, every, biases, as_printed)
    # A mark such as [1] hangs to the right of the numbers, so that these stay in line.
    marks = [[cell[cell.find("[") :] if "[" in cell else "" for cell in row] for row in rows]
    bare = [[cell.removesuffix(mark) for cell, mark in zip(row, m, strict=True)] for row, m in zip(rows, marks, strict=True)]
    heads = [column.split() if column != "in C" else ["in", "C"] for column in COLUMNS]
    heads = [[" ".join(head[:-1]), head[-1]] for head in heads]
    columns = range(len(COLUMNS))
    hang = [max((len(m[i]) for m in marks), default=0) for i in columns]
    widths = [max(len(part) for part in [*heads[i], *(row[i] for row in bare)]) for i in columns]
    lines = [_title(table)]
    for k in range(2):
        lines.append(_line([head[k] for head in heads], [""] * len(heads), widths, hang))
    lines.append("-" * (sum(widths) + sum(hang) + 2 * (len(widths) - 1)))
    lines += [_line(row, mark, widths, hang) for row, mark in zip(bare, marks, strict=True)]
    legend = LEGEND.format(biases=" and biases" if biases else " without biases")
    width = max(100, len(lines[3]))
    for line in [*footnotes, *totals(table), *notes(table), legend]:
        lines += textwrap.wrap(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _line(row: list[str], marks: list[str], widths: list[int], hang: list[int]) -> str:
    parts = [row[0].ljust(widths[0] + hang[0])]
    parts += [row[i].rjust(widths[i]) + marks[i].ljust(hang[i]) for i in range(1, len(row))]
    return "  ".join(parts).rstrip()


def markdown(table: Table, *, every: bool = False, biases: bool = False, as_printed: bool = False) -> str:
    """The table in Markdown; the arguments are those of ``text``."""
    rows, footnotes = _body(table, every, biases, as_printed)
    lines = [f"**{_title(table)}**", "", f"| {' | '.join(COLUMNS)} |", "|:--|" + "--:|" * (len(COLUMNS) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    legend = LEGEND.format(biases=" and biases" if biases else " without biases")
    return "\n".join([*lines, "", *(f"- {line}" for line in [*footnotes, *totals(table), *notes(table), legend])])


def to_json(table: Table, *, every: bool = True, as_printed: bool = False) -> str:
    """The table as a JSON object: ``rows`` with exact numbers, and ``totals``; ``every`` leaves no row out."""
    kept = table.rows if every else table.shown
    result: dict[str, Any] = {"model": table.model, "input": list(table.input), "rows": [_plain(row) for row in kept]}
    result["totals"] = {
        "depth": table.depth, "hidden_layers": table.hidden_layers, "units": table.units, "parameters": table.parameters,
        "weights": table.weights, "macs": table.macs, "memory_bytes": table.memory,
        "shares": {
            of: {kind: table.share(kind, of) for kind in dict.fromkeys(row.kind for row in table.rows)}
            for of in ("memory", "parameters", "macs")
        },
    }  # fmt: skip
    if as_printed:
        _body(table, True, False, True)  # refuse a net without a printed table
        result["errata"] = [dataclasses.asdict(erratum) for erratum in errata(table)]
    result["notes"] = notes(table)
    return json.dumps(result, indent=1)


def _plain(row: Row) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    field = row.field
    values["field"] = field and {
        "size": list(field.size), "effective_stride": list(field.stride), "effective_padding": list(field.padding)
    }  # fmt: skip
    return values | {"parameters": row.parameters, "memory_bytes": row.memory}
