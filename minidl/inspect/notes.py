"""What the lectures and papers print, where it differs from what is true, and where their round figures come from."""

from __future__ import annotations

import dataclasses

from minidl.inspect.table import Table


@dataclasses.dataclass(frozen=True)
class Erratum:
    """Cells of a printed table that are wrong: what is ``printed``, by the rows' names, and ``why``."""

    column: str
    printed: dict[str, str]
    why: str


#: The table of AlexNet in one column for images of 227x227.
ALEXNET_ERRATA = (
    Erratum(
        "MFLOP", {"conv4": "145"},
        "printed 145; 13*13*256 outputs times 3*3*384 products are 149.5 million. No convention gives 145",
    ),
    Erratum(
        "eff. pad", {"pool2": "34", "conv3": "50", "conv4": "66"},
        "printed one row too high: pool2 does not pad, so the 34, 50 and 66 belong to conv3, conv4 and conv5",
    ),
    Erratum(
        "field", dict.fromkeys(("flatten", "fc6", "fc7", "fc8"), "259"),
        "printed 259 = 195 + (3 - 1) * 32, pool5's kernel of 3 counted again; fc6 reads all 6x6 units: 195 + 5 * 32 = 355",
    ),
)  # fmt: skip

_RESNET_PAPER = {"resnet18": 1.8, "resnet34": 3.6, "resnet50": 3.8, "resnet101": 7.6, "resnet152": 11.3}
_VGG_PAPER = {"vgg11": 133, "vgg11_lrn": 133, "vgg13": 133, "vgg16c": 134, "vgg16": 138, "vgg19": 144}
_SHORTCUT = {"resnet18": "A", "resnet34": "A"}


def errata(table: Table) -> tuple[Erratum, ...]:
    """The wrong cells of the printed table of this net, if it was printed and has any."""
    is_printed = table.model == "alexnet" and table.input == (3, 227, 227) and table["conv1"].filters == 64
    return ALEXNET_ERRATA if is_printed else ()


def notes(table: Table) -> list[str]:
    """How the net's totals relate to published round figures."""
    if table.model == "alexnet_original":
        return [
            f'{table.parameters:,} parameters are the "60M", {table.hidden_layers} hidden layers and {table.units:,} units '
            'the "7 hidden layers, 650K units". The paper lists 253,440 units for conv1; 55*55*96 is 290,400.',
            f'"832M" operations are the layers\' millions, each cut to a whole number, with conv4 not in groups; '
            f"the net as published has {table.macs / 1e6:,.1f} million.",
        ]
    if table.model in _RESNET_PAPER:
        return [
            f"He et al. 2015 print {_RESNET_PAPER[table.model]}e9 multiply-accumulates: convolutions and fc, bottlenecks' stride "
            "on their first 1x1 convolution "
            f"(--option stride=v1 --option shortcut={_SHORTCUT.get(table.model, 'B')}); it agrees within 0.06e9. "
            "The default, as torchvision, strides on the 3x3 convolution."
        ]
    if table.model in _VGG_PAPER:
        return [f"Simonyan and Zisserman 2014 print {_VGG_PAPER[table.model]} million parameters (table 2, with biases)."]
    return []
