"""The command: `python -m benchmarks` runs, `compare old.json new.json` compares, `record RUN...` keeps trainings."""

from __future__ import annotations

import argparse
import importlib.util
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, Result, Timing, clean_environment, machine
from benchmarks.compare import compare
from benchmarks.record import record

RESULTS = ROOT / "benchmarks" / "results"


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time minidl, against PyTorch if it is there."
    )
    main.add_argument("--ops", action="store_true", help="only the cases in benchmarks/ops")
    main.add_argument("--models", action="store_true", help="only the cases in benchmarks/models")
    main.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    main.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    main.add_argument("--rounds", type=int, default=31, help="rounds of A B; default: 31")
    main.add_argument("--against", choices=["torch", "nothing"], help="default: torch, where it is installed")
    main.add_argument(
        "--json", type=Path, metavar="PATH", help="default: benchmarks/results/local/DATE.json (not in git)"
    )
    commands = main.add_subparsers(dest="command")
    comparison = commands.add_parser("compare", help="say which ratios got worse; exit status 1 if one did")
    comparison.add_argument("old", type=Path)
    comparison.add_argument("new", type=Path)
    recording = commands.add_parser("record", help="keep the figures of finished training runs")
    recording.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders that `minidl train` wrote")
    recording.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    return main


def modules(families: list[str]) -> list[str]:
    found = []
    for family in families:
        folder = ROOT / "benchmarks" / family
        found += [f"benchmarks.{family}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]
    return found


def run(module: str, threads: int, rounds: int, against: str, only: str) -> Iterator[Result]:
    command = [sys.executable, "-m", "benchmarks.worker", module, str(threads), str(rounds), against, only]
    worker = subprocess.Popen(command, cwd=ROOT, env=clean_environment(threads), stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    for line in worker.stdout:
        yield Result.from_json(json.loads(line))
    if worker.wait():
        raise SystemExit(f"{module} with {threads} threads failed (exit status {worker.returncode})")


def milliseconds(timing: Timing) -> str:
    return f"{timing.median * 1e3:8.3f} ({timing.low * 1e3:.3f}-{timing.high * 1e3:.3f})"


def line(result: Result) -> str:
    text = f"{result.case:<26} {result.threads:>3}t"
    for name, timing in result.timings.items():
        text += f"  {name} {milliseconds(timing)} ms"
    if result.ratio:
        text += f"  ratio {result.ratio.median:.2f} ({result.ratio.low:.2f}-{result.ratio.high:.2f})"
        if result.target is not None:
            text += f"  target {result.target:g} {verdict(result.ratio, result.target)}"
    return text


def verdict(ratio: Timing, target: float) -> str:
    """Half of all rounds lie between the quartiles; a target among them is neither met nor missed."""
    return "met" if ratio.high <= target else "MISSED" if ratio.low > target else "unsure: too noisy"


def describe(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    text = f"{facts['processor']}, {facts['cores']} cores; {versions}, {facts['blas']}"
    if facts["unset"]:
        text += f"\nunset for the run, since they slow OpenBLAS down: {', '.join(facts['unset'])}"
    if facts["load_before"] and facts["load_before"] > facts["cores"] / 4:
        text += (
            f"\nother programs keep this machine busy (load {facts['load_before']:.1f}): the figures below are rough"
        )
    return text + "\nmedian (quartiles) for one call; the ratio is the median of the ratios within each round\n"


def main() -> int:
    options = parser().parse_args()
    if options.command == "compare":
        lines, bad = compare(options.old, options.new)
        print("\n".join(lines))
        return 1 if bad else 0
    if options.command == "record":
        for run_folder in options.runs:
            print(f"written to {record(run_folder, options.out)}")
        return 0
    against = options.against or ("torch" if importlib.util.find_spec("torch") else "nothing")
    families = [name for name in ("ops", "models") if getattr(options, name)] or ["ops", "models"]
    facts = machine()
    print(describe(facts))
    results = []
    for module in modules(families):
        for threads in options.threads:
            for result in run(module, threads, options.rounds, against, options.only):
                results.append(result)
                print(line(result), flush=True)
    path = options.json or RESULTS / "local" / time.strftime("%Y-%m-%d_%H-%M-%S.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": facts, "results": [result.to_json() for result in results]}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
