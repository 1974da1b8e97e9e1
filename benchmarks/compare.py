"""Two result files side by side: which ratios got worse?

Ratios to PyTorch are compared, not seconds: they survive a change of machine. A ratio is called worse when it grew by more
than 5 % and the two ranges between quartiles do not even touch; where one of these holds the line says "unsure".
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench import Result

TOLERANCE = 0.05


def load(path: Path) -> dict[tuple[str, int], Result]:
    data = json.loads(path.read_text(encoding="utf-8"))
    results = [Result.from_json(entry) for entry in data["results"]]
    return {(result.case, result.threads): result for result in results}


def verdict(old: Result, new: Result) -> str:
    """One of "worse", "better", "same", "unsure" (a change as large as the noise) and "" (nothing to compare with)."""
    if old.ratio is None or new.ratio is None:
        return ""
    change = new.ratio.median / old.ratio.median - 1
    if abs(change) <= TOLERANCE:
        return "same"
    apart = new.ratio.low > old.ratio.high or new.ratio.high < old.ratio.low
    if not apart:
        return "unsure"
    return "worse" if change > 0 else "better"


def compare(old_path: Path, new_path: Path) -> tuple[list[str], int]:
    """The table's lines, and how many cases got worse or disappeared."""
    old, new = load(old_path), load(new_path)
    lines, bad = [f"{'case':<34} {'threads':>7} {'old':>7} {'new':>7}"], 0
    for key, before in old.items():
        name, threads = key
        after = new.get(key)
        said = verdict(before, after) if after else "missing"
        bad += said in ("worse", "missing")
        lines.append(f"{name:<34} {threads:>7} {ratio(before)} {ratio(after)}  {said}")
    lines += [f"{name:<34} {threads:>7} {'':>7} {ratio(new[name, threads])}  new" for name, threads in new.keys() - old]
    return lines, bad


def ratio(result: Result | None) -> str:
    return f"{result.ratio.median:7.2f}" if result and result.ratio else f"{'-':>7}"
