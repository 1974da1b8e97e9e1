"""Does Winograd's rounding cost accuracy? ResNet-20 on CIFAR-10 for three epochs, with convolutions "fast" and "direct".

Winograd's transforms enlarge float32's rounding a few times (config.conv_precision).  A net is trained from the same seeds
with both; if the difference of the means is within the spread of the seeds, the rounding does not show.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.bench import ROOT
from benchmarks.experiments import common
from minidl import config

PRECISIONS = ("fast", "direct")
RECIPE: dict[str, Any] = {
    "data": "cifar10", "model": "resnet20", "epochs": 3, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4,
    "schedule": "onecycle", "augment": "standard",
}  # fmt: skip


def run(precision: str, seed: int, threads: int) -> dict[str, Any]:
    """Train and test one net."""
    with config.conv_precision(precision):
        _, test, seconds = common.train(**RECIPE, seed=seed, threads=threads)
    return {
        "conv_precision": precision, "seed": seed, "test_accuracy": common.percent(test.top1), "test_loss": round(test.loss, 4),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def compare(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads of the accuracies, and the difference of the means in standard errors of a difference."""
    found = {kind: [run["test_accuracy"] for run in runs if run["conv_precision"] == kind] for kind in PRECISIONS}
    means = {kind: statistics.mean(values) for kind, values in found.items()}
    spreads = {kind: statistics.stdev(values) for kind, values in found.items()}
    error = (sum(spread**2 for spread in spreads.values()) / len(found["fast"])) ** 0.5
    return {
        "mean_test_accuracy": {kind: round(mean, 2) for kind, mean in means.items()},
        "standard_deviation": {kind: round(spread, 2) for kind, spread in spreads.items()},
        "difference": round(means["fast"] - means["direct"], 2), "standard_error_of_the_difference": round(error, 2),
    }  # fmt: skip


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "precision")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind, two or more; default: 3")
    parser.set_defaults(out=ROOT / "benchmarks" / "results" / "precision.json")
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            runs.append(run(precision, seed, options.threads))
            print(", ".join(f"{key} {value}" for key, value in runs[-1].items()), flush=True)
    recipe = {**RECIPE, "threads": options.threads}
    common.keep(options.out, "Does Winograd's rounding cost accuracy?", recipe, runs, **compare(runs))


if __name__ == "__main__":
    main()
