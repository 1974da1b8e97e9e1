"""Whether weights fit a net, and if not, what is wrong and which net they would fit."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: A counter that files older than it lack; it says nothing about which net the weights are of.
_COUNTER = "num_batches_tracked"
_MOST = 6


@dataclass(frozen=True)
class Misfit:
    """The differences between a state dict and a net; false when there are none.

    Args:
        missing: names that the net has and the state lacks.
        extra: names that the state has and the net lacks.
        misshapen: (name, shape in the state, shape in the net).
        share: the part of the names, of whichever has more, that agree in name and shape.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    share: float

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)

    def __str__(self) -> str:
        shapes = [f"{name} is {found} in the file, {wanted} in the net" for name, found, wanted in self.misshapen]
        kinds = (("missing", self.missing), ("extra", self.extra), ("of the wrong shape", shapes))
        return "\n".join(f"  {len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)


def compare(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> Misfit:
    """What keeps ``state`` from fitting ``wanted``, a net's state dict; batch counters do not matter."""
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items() if not name.endswith(_COUNTER)}
    given = {name: tuple(getattr(value, "shape", ())) for name, value in state.items() if not name.endswith(_COUNTER)}
    missing = tuple(name for name in shapes if name not in given)
    extra = tuple(name for name in given if name not in shapes)
    misshapen = tuple((name, given[name], shapes[name]) for name in shapes if name in given and given[name] != shapes[name])
    agreeing = len(shapes) - len(missing) - len(misshapen)
    return Misfit(missing, extra, misshapen, agreeing / max(len(shapes), len(given), 1))


def advice(own: float, others: Iterable[tuple[str, float]]) -> str:
    """A sentence about the nets that fit better than this one, of which a share ``own`` agrees; "" where none does.

    ``others``: (name, share that agrees), the best first.
    """
    better = [(name, share) for name, share in others if share > own and share >= 0.5]
    exact = [name for name, share in better if share == 1]
    if exact:
        return f"these weights fit {', '.join(exact)}"
    if better:
        name, share = better[0]
        return f"{name} fits better: {share:.0%} of the names and shapes agree with it, {own:.0%} with this net"
    return ""


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    rest = len(shown) - _MOST
    return ", ".join(shown[:_MOST]) + (f" and {rest} more" if rest > 0 else "")
