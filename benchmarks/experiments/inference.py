"""From a cold start to the scores of one picture: how long, and how much memory, with minidl and with PyTorch.

Each measurement is a process of its own that imports the library, reads a .pth file into the net, and runs one image of 224x224
twice. Seconds are the process's own clock; memory is what Linux says it held at most, less what it held before. For PyTorch,
NumPy and the net's source are imported before the clock starts. The two take turns; medians are printed.
`python -m benchmarks --models --only alexnet` times the same steps when warm.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, clean_environment
from benchmarks.experiments import common
from benchmarks.models.zoo import NETS, write_weights

CHILD = """
import json, sys, time
start, (library, name, path, threads) = time.perf_counter(), sys.argv[1:]
steps = {}

def held():  # megabytes; the peak of this program alone, where the system tells
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

def step(what):
    global start
    steps[what], start = round(time.perf_counter() - start, 4), time.perf_counter()

if library == "torch":
    import tests.models.twins  # our source of the net, and with it NumPy: not counted
    before, start = held(), time.perf_counter()
    import torch
    torch.set_num_threads(int(threads))
    step("import")
    from benchmarks.models.zoo import load_torch, twins
    twins()
    start = time.perf_counter()
    net, image, quiet = load_torch(name, path), torch.zeros(1, 3, 224, 224), torch.inference_mode
else:
    before = held()
    import minidl
    from minidl import models
    step("import")
    net, image, quiet = models.create(name, weights=path).eval(), minidl.zeros(1, 3, 224, 224), minidl.no_grad
step("load")
for what in ("first run", "second run"):
    with quiet():
        net(image)
    step(what)
print(json.dumps({"seconds": steps, "megabytes": round(held() - before, 1)}))
"""


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "inference")
    parser.set_defaults(out=ROOT / "benchmarks" / "results" / "inference.json")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NETS:
            path = write_weights(name, Path(folder) / f"{name}.pth")
            for turn in range(options.rounds):
                for library in ("minidl", "torch") if turn % 2 == 0 else ("torch", "minidl"):
                    done = subprocess.run(
                        [sys.executable, "-c", CHILD, library, name, str(path), str(options.threads)], cwd=ROOT, check=True,
                        env=clean_environment(options.threads), capture_output=True, text=True,
                    )  # fmt: skip
                    runs.append({"net": name, "library": library, "turn": turn, **json.loads(done.stdout)})
    medians = {}
    for name in NETS:
        for library in ("minidl", "torch"):
            chosen = [run for run in runs if (run["net"], run["library"]) == (name, library)]
            figures = {what: round(statistics.median(run["seconds"][what] for run in chosen), 4) for what in chosen[0]["seconds"]}
            figures["megabytes"] = statistics.median(run["megabytes"] for run in chosen)
            medians[f"{name} {library}"] = figures
            print(f"{name:<9} {library:<7} " + ", ".join(f"{what} {value}" for what, value in figures.items()), flush=True)
    question = "How long does it take, and how much memory, to load a net and run one image?"
    common.keep(options.out, question, {"threads": options.threads, "rounds": options.rounds}, runs, medians=medians)


if __name__ == "__main__":
    main()
