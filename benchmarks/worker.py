"""Runs one module's cases at one number of threads, in a process of its own, and prints one JSON object per line.

A process of its own, because BLAS libraries read their number of threads once, when they are loaded.
"""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.bench import Case, measure


def main(module: str, threads: int, rounds: int, seconds: float, against: str, only: str) -> None:
    with_torch = against == "torch"
    if with_torch:
        import torch

        torch.set_num_threads(threads)
    cases: list[Case] = importlib.import_module(module).cases()
    for case in cases:
        if only in case.name:
            result = measure(case, case.contenders(with_torch), rounds, threads, seconds)
            print(json.dumps(result.to_json()), flush=True)


if __name__ == "__main__":
    module, threads, rounds, seconds, against, only = sys.argv[1:]
    main(module, int(threads), int(rounds), float(seconds), against, only)
