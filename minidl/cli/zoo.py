"""``minidl models``: the registry as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from minidl.cli.app import cli, debug_option, print_table
from minidl.errors import ConfigError

_COLUMNS = (
    "model", "parameters", "input", "classes", "paper", "top-1", "top-5", "weights", "licence", "preprocessing", "paper reports",
)  # fmt: skip


@cli.command("models")
@click.argument("pattern", default="*")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text")
@debug_option
def models_(pattern: str, form: str) -> None:
    """List the nets that minidl knows, or those that match PATTERN, such as "resnet*".

    top-1 and top-5: accuracy on ImageNet's validation images in percent, one crop, as the weights' publisher reports.  Weights
    are not downloaded: get the file and give it with --weights.
    """
    from minidl import models

    names = models.list_models(pattern)
    if not names:
        known = f"there are {len(models.list_models())}; `minidl models` lists them all"
        raise ConfigError(f'no model matches {pattern!r}; {known}, "resnet*" those that begin so')
    found = [facts(models.model_info(name)) for name in names]
    if form == "json":
        click.echo(json.dumps(found, indent=1))
    elif form == "markdown":
        click.echo(markdown(found))
    else:
        print_table(list(_COLUMNS), rows(found))


def facts(info: Any) -> dict[str, Any]:
    """What is known of a net, JSON-able; ``parameters`` are counted where no number was stated."""
    return {
        "model": info.name, "summary": info.summary, "parameters": info.parameters or _count(info),
        "input": list(info.input_shape), "classes": info.num_classes, "paper": info.paper, "reported": info.reported,
        "options": [option for option in info.options if option not in ("num_classes", "in_channels")],
        "weights": [
            {
                "url": w.url, "sha256_prefix": w.sha256_prefix, "top1": w.top1, "top5": w.top5, "source": w.source,
                "licence": w.licence, "preprocessing": w.preprocessing,
            }
            for w in info.weights
        ],
    }  # fmt: skip


def _count(info: Any) -> int:
    from minidl.nn import init

    with init.shape_only():
        return sum(p.numel() for p in info.build().parameters())


def rows(found: Sequence[dict[str, Any]], link: bool = False) -> list[list[str]]:
    """The table's cells: a line for each net, and one more for each further set of weights."""
    lines = []
    for net in found:
        size = "x".join(map(str, net["input"]))
        own = [net["model"], f"{net['parameters']:,}", size, str(net["classes"]), _paper(net["paper"], link)]
        for weights in net["weights"] or [None]:
            lines.append([*own, *_weights(weights, link), net["reported"] if own[0] else ""])
            own = [""] * len(own)
    return lines


def _weights(weights: dict[str, Any] | None, link: bool) -> list[str]:
    if weights is None:
        return [""] * 5
    resize, crop = (step["size"] for step in weights["preprocessing"][:2])
    file = weights["url"].rpartition("/")[2]
    where = f"[{file}]({weights['url']})" if link else weights["url"]
    steps = f"resize {resize}, crop {crop}, ImageNet mean and std"
    return [f"{weights['top1']:.2f}", f"{weights['top5']:.2f}", where, weights["licence"], steps]


def _paper(paper: str, link: bool) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if link and number != paper else paper


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    right = ("parameters", "input", "classes", "top-1", "top-5")
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "|".join("--:" if column in right else ":--" for column in _COLUMNS) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(found, link=True))])
