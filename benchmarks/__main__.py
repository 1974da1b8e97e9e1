"""The command: `python -m benchmarks` runs, `compare old.json new.json` compares, `record RUN...` keeps trainings.

`--models` are the nets of benchmarks/nets, each contender in a process of its own, and what lies in benchmarks/models.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, Result, Timing, clean_environment, machine
from benchmarks.compare import compare
from benchmarks.nets.contenders import COMPILED, EAGER, NUMPY, VECTOR
from benchmarks.nets.race import race
from benchmarks.nets.table import MEMORY_TARGET, NETS
from benchmarks.record import record

RESULTS = ROOT / "benchmarks" / "results"


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time minidl, against PyTorch if it is there."
    )
    main.add_argument("--ops", action="store_true", help="only the cases in benchmarks/ops")
    main.add_argument("--models", action="store_true", help="only the nets, and the cases in benchmarks/models")
    main.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    main.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    main.add_argument("--rounds", type=int, default=31, help="at most so many rounds of A B; default: 31")
    main.add_argument(
        "--seconds", type=float, default=20, help="a case ends after so long, if it has had 5 rounds; default: 20"
    )
    main.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall",
        help="what times the nets; cpu, the processor's time, is for one thread on a machine that has other work",
    )  # fmt: skip
    main.add_argument("--numpy", action="store_true", help="nets: time the NumPy kernels too, for 3 rounds")
    main.add_argument("--compile", action="store_true", help="nets: time torch.compile too (needs a C++ compiler)")
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
    recording.add_argument(
        "--shared", action=argparse.BooleanOptionalAction,
        help="other programs had a part of the machine, so the times are too long; default: what the recorded load says",
    )  # fmt: skip
    recording.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    return main


def modules(families: list[str]) -> list[str]:
    found = []
    for family in families:
        folder = ROOT / "benchmarks" / family
        found += [f"benchmarks.{family}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]
    return found


def run(module: str, threads: int, options: argparse.Namespace) -> Iterator[Result]:
    """The results of a module's cases, timed in a process of its own."""
    limits = [str(threads), str(options.rounds), str(options.seconds)]
    command = [sys.executable, "-m", "benchmarks.worker", module, *limits, options.against, options.only]
    worker = subprocess.Popen(command, cwd=ROOT, env=clean_environment(threads), stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    for line in worker.stdout:
        yield Result.from_json(json.loads(line))
    if worker.wait():
        raise SystemExit(f"{module} with {threads} threads failed (exit status {worker.returncode})")


def run_nets(threads: int, options: argparse.Namespace) -> Iterator[Result]:
    """The results of all nets."""
    contenders = [VECTOR]
    if options.against == "torch":
        contenders += [*EAGER, *[COMPILED] * options.compile]
    contenders += [NUMPY] * options.numpy
    for net in NETS:
        yield from race(net, threads, contenders, options.rounds, options.seconds, options.clock, options.only)


def milliseconds(timing: Timing) -> str:
    return f"{timing.median * 1e3:8.3f} ({timing.low * 1e3:.3f}-{timing.high * 1e3:.3f})"


def line(result: Result, peak: float | None = None) -> str:
    """A result in words; ``peak`` is the machine's GFLOP/s."""
    text = f"{result.case:<18} {result.threads}t"
    for name, timing in result.timings.items():
        text += f"  {name} {milliseconds(timing)} ms"
    if result.gflop:
        speed = result.gflop / next(iter(result.timings.values())).median
        text += f"  {speed:.1f} GFLOP/s" + (f" = {speed / peak:.0%} of peak" if peak else "")
    if result.ratio:
        text += f"  ratio {result.ratio.median:.2f} ({result.ratio.low:.2f}-{result.ratio.high:.2f})"
        if result.target is not None:
            text += f"  target {result.target:g} {verdict(result.ratio, result.target)}"
    if memory := memory_ratio(result):
        text += f"  peak {next(iter(result.memory.values()))['peak'] / 1e6:.0f} MB, ratio {memory:.2f}"
        text += f"  target {MEMORY_TARGET:g} {'met' if memory <= MEMORY_TARGET else 'MISSED'}"
    return text + "".join(f"  {name}: missing, {why}" for name, why in result.missing.items())


def memory_ratio(result: Result) -> float | None:
    """Our process's peak of memory over the smaller of PyTorch's eager forms."""
    theirs = [result.memory[name]["peak"] for name in EAGER if name in result.memory]
    return result.memory[VECTOR]["peak"] / min(theirs) if theirs and all(theirs) else None


def verdict(ratio: Timing, target: float) -> str:
    """Half of all rounds lie between the quartiles; a target among them is neither met nor missed."""
    return "met" if ratio.high <= target else "MISSED" if ratio.low > target else "unsure: too noisy"


def roofs(threads: list[int]) -> dict[str, dict[str, float]]:
    """The machine's peak of multiply-adds in GFLOP/s and its GB/s of copying, by number of threads."""
    code = "import sys; from minidl.kernels.cpu.roofs import *; n = int(sys.argv[1]); print(fma_peak(n), copy_bandwidth(n))"
    found = {}
    for count in threads:
        done = subprocess.run(
            [sys.executable, "-c", code, str(count)], cwd=ROOT, env=clean_environment(count), capture_output=True, text=True
        )
        if done.returncode == 0:  # without compiled kernels there is no roof to measure
            fma, copy = map(float, done.stdout.split())
            found[str(count)] = {"gflop_per_s": round(fma, 1), "copy_gb_per_s": round(copy, 1)}
    return found


def describe(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    text = f"{facts['processor']}, {facts['cores']} cores; {versions}, {facts['blas']}"
    if facts["unset"]:
        text += f"\nunset for the run, since they slow OpenBLAS down: {', '.join(facts['unset'])}"
    if facts["load_before"] and facts["load_before"] > facts["cores"] / 4:
        text += (
            f"\nother programs keep this machine busy (load {facts['load_before']:.1f}): the figures below are rough"
        )
    for threads, roof in facts["roofs"].items():
        text += f"\n{threads} thread(s): at most {roof['gflop_per_s']} GFLOP/s, copies {roof['copy_gb_per_s']} GB/s"
    if facts["clock"] == "cpu":
        text += "\nnets are timed by the processor's time, not the wall's"
    return text + "\nmedian (quartiles) for one call; the ratio is the median of the ratios within each round\n"


def main() -> int:
    options = parser().parse_args()
    if options.command == "compare":
        lines, bad = compare(options.old, options.new)
        print("\n".join(lines))
        return 1 if bad else 0
    if options.command == "record":
        for run_folder in options.runs:
            print(f"written to {record(run_folder, options.out, options.shared)}")
        return 0
    options.against = options.against or ("torch" if importlib.util.find_spec("torch") else "nothing")
    families = [name for name in ("ops", "models") if getattr(options, name)] or ["ops", "models"]
    facts = {**machine(), "roofs": roofs(options.threads), "clock": options.clock}
    print(describe(facts))
    results = []
    sources: list[Callable[[int, argparse.Namespace], Iterator[Result]]]
    sources = [functools.partial(run, module) for module in modules(families)]
    if "models" in families:
        sources.append(run_nets)
    for source in sources:
        for threads in options.threads:
            for result in source(threads, options):
                results.append(result)
                print(line(result, facts["roofs"].get(str(threads), {}).get("gflop_per_s")), flush=True)
    path = options.json or RESULTS / "local" / time.strftime("%Y-%m-%d_%H-%M-%S.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": facts, "results": [result.to_json() for result in results]}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
