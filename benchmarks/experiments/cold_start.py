"""From the start of a process to the end of its first ResNet-20 step: kernels still to compile, and kernels on disk.

Each measurement is a process of its own: import, build the net, one training step at batch 128. Seconds are the parent's clock,
so they hold the interpreter's own start. Cold processes get an empty kernel cache, warm ones a full one; they take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import ROOT, clean_environment, machine

STEP = """
import minidl
from minidl import models, optim
from minidl.nn import functional as F

net = models.create("resnet20")
optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
F.cross_entropy(net(minidl.randn(128, 3, 32, 32)), minidl.randint(0, 10, (128,))).backward()
optimizer.step()
"""


def first_step(cache: str, threads: int) -> float:
    """Seconds of one process with this kernel cache."""
    environment = {**os.environ, **clean_environment(threads), "MINIDL_KERNEL_CACHE": cache, "MINIDL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", STEP], cwd=ROOT, env=environment, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.cold_start")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "cold-start.json", metavar="FILE")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as full:
        first_step(full, options.threads)            # not counted: it fills the cache, and the system's of our files
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as empty:
                seconds["cold"].append(round(first_step(empty, options.threads), 3))
            seconds["warm"].append(round(first_step(full, options.threads), 3))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    found = {"net": "resnet20", "batch": 128, "threads": options.threads, "median": medians, "seconds": seconds}
    options.out.write_text(json.dumps({**found, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    print(f"median seconds to the first step: {medians}; written to {options.out}")


if __name__ == "__main__":
    main()
