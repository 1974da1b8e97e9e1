"""Nets written as a pattern, the lectures' ``[(CONV-RELU)^N-POOL?]^M-(FC-RELU)^K``: ``[(CONV-RELU)^2-POOL?]^3-(FC-RELU)^1``."""
from __future__ import annotations

import difflib
import re
from typing import Any

from minidl import nn
from minidl.errors import ConfigError
from minidl.models.registry import register

EXAMPLE = "[(CONV-RELU)*2-POOL]*3-(FC-RELU)*1"
LAYERS = ("CONV", "BN", "RELU", "POOL", "DROPOUT", "FC")


def parse(pattern: str, optional: bool = True) -> list[str]:
    """The layers that a pattern stands for, in order.

    sequence = item - item - ...;  item = a layer, (sequence) or [sequence], with *N or ^N for N times; layers are CONV, BN,
    RELU, POOL, DROPOUT and FC, in any case.  An item with ``?`` (``POOL?``, ``(BN-RELU)?``) is left out when not ``optional``.

    >>> parse("[(CONV-RELU)*2-POOL]*2")
    ['CONV', 'RELU', 'CONV', 'RELU', 'POOL', 'CONV', 'RELU', 'CONV', 'RELU', 'POOL']
    >>> parse("[CONV-POOL?]^2", optional=False)
    ['CONV', 'CONV']

    Raises:
        ConfigError: with the place that cannot be read.
    """
    tokens = [(m.group(), m.start()) for m in re.finditer(r"[A-Za-z]+|\d+|\S", pattern)]
    at = 0

    def fail(problem: str) -> ConfigError:
        place = tokens[at][1] if at < len(tokens) else len(pattern)
        return ConfigError(f"stack: {problem} at {pattern[:place]}>>>{pattern[place:]}; example: {EXAMPLE}")

    def peek() -> str:
        return tokens[at][0] if at < len(tokens) else ""

    def sequence() -> list[str]:
        nonlocal at
        layers = item()
        while peek() == "-":
            at += 1
            layers += item()
        return layers

    def item() -> list[str]:
        nonlocal at
        token = peek()
        if token in ("(", "["):
            at += 1
            layers = sequence()
            if peek() != {"(": ")", "[": "]"}[token]:
                raise fail(f"{token!r} is not closed")
        elif token.upper() in LAYERS:
            layers = [token.upper()]
        else:
            close = difflib.get_close_matches(token.upper(), LAYERS, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise fail(f"expected a layer ({', '.join(LAYERS)}) or a bracket, found {token or 'the end'}{hint}")
        at += 1
        while peek() in ("*", "^", "?"):
            if peek() == "?":
                layers = layers if optional else []
            else:
                at += 1
                if not peek().isdigit():
                    raise fail("expected a number of times")
                layers = layers * int(peek())
            at += 1
        return layers

    layers = sequence()
    if at < len(tokens):
        raise fail(f"did not expect {peek()!r}")
    return layers


@register("stack")
def stack(
    num_classes: int = 10, in_channels: int = 3, image_size: int | tuple[int, int] = 32,
    pattern: str = EXAMPLE, width: int = 16, fc_width: int = 128, dropout: float = 0.5, optional: bool = True,
) -> nn.Sequential:
    """A net from a pattern such as [(CONV-RELU)*2-POOL]*3-(FC-RELU)*1; the classifier's last layer is added.

    Args:
        pattern: see ``parse``.  CONV is 3x3 and keeps the size, POOL halves it, FC comes after all CONV and POOL.
        width: filters of the first CONV; doubled after each POOL.
        fc_width: size of each FC.
        dropout: the probability of DROPOUT.
        optional: with the items that have a ``?``.
    """
    layers: list[nn.Module] = []
    height, width_px = (image_size, image_size) if isinstance(image_size, int) else image_size
    channels, features = in_channels, 0  # features: 0 while there are maps

    def flatten() -> int:
        layers.append(nn.Flatten())
        return channels * height * width_px

    for kind in parse(pattern, optional):
        if kind in ("CONV", "POOL") and features:
            raise ConfigError(f"stack: {kind} after FC in {pattern!r}; put all FC at the end")
        if kind == "CONV":
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            channels = width
        elif kind == "POOL":
            if min(height, width_px) < 2:
                raise ConfigError(f"stack: too many POOL in {pattern!r} for images of {image_size}: nothing is left to halve")
            layers.append(nn.MaxPool2d(2))
            height, width_px, width = height // 2, width_px // 2, 2 * width
        elif kind == "FC":
            layers.append(nn.Linear(features or flatten(), fc_width))
            features = fc_width
        else:
            layers.append(_simple(kind, features, channels, dropout))
    layers.append(nn.Linear(features or flatten(), num_classes))
    return nn.Sequential(*layers)


def _simple(kind: str, features: int, channels: int, dropout: float) -> Any:
    if kind == "BN":
        return nn.BatchNorm1d(features) if features else nn.BatchNorm2d(channels)
    return nn.ReLU() if kind == "RELU" else nn.Dropout(dropout)
