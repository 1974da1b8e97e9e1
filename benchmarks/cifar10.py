"""The tables of docs/cifar10.md, from what is kept in benchmarks/results: `python -m benchmarks.cifar10 runs` prints one."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT
from benchmarks.record import ELSEWHERE
from minidl.errors import ConfigError
from minidl.train import recipes
from minidl.train.config import TrainConfig
from minidl.train.progress import duration

RESULTS = ROOT / "benchmarks" / "results"
FOLDER = RESULTS / "cifar10"
EXPERIMENTS = FOLDER / "experiments"
HE = "He et al. 2015"
#: recipe, model -> whose result stands beside ours, and its test accuracy.
PUBLISHED = {
    ("resnet20-he", "resnet20"): (HE, "91.25 %"),
    ("resnet20", "resnet20"): (HE, "91.25 %"),
    ("resnet20-he", "resnet56"): (HE, "93.03 %"),
    ("convnetjs", "convnetjs"): ("Karpathy 2014", "about 80 %, averaged"),
    ("convnetjs-long", "convnetjs"): ("Karpathy 2014", "about 80 %, averaged"),
    ("convnetjs-fast", "convnetjs"): ("Karpathy 2014", "about 80 %, averaged"),
    ("speedrun", "speednet"): ("Jordan 2024", "94.01 %, on a GPU"),
}
REDUCED = ("he-reduced", ("plain20", "plain56", "resnet20", "resnet56"))
SHARED = "\\*: other programs may have had a part of the machine; on a quiet one it takes less."
Record = dict[str, Any]


def records(folder: Path = FOLDER) -> list[Record]:
    """All runs that are kept in a folder, by file name; other measurements there have no curve."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [record for record in found if "curve" in record]


# ------------------------------------------------------------------------------------------------------------- commands


def command(record: Record) -> str:
    """The command that makes the run of a record, but for its seed.

    Options in which the run differs from its recipe as that is today are given; those that a command line cannot say are not.
    """
    from minidl.cli.train import train

    sayable = {parameter.name: (*parameter.opts[:1], *parameter.secondary_opts) for parameter in train.params}
    try:
        recipe = recipes.resolve(record["recipe"]).to_json()
    except ConfigError:
        return f"a recipe of one's own, {record['recipe']}"
    ran = {**TrainConfig().to_json(), **record["options"], "model": record["model"], "data": record["data"]}
    words = ["minidl", "train", "--recipe", record["recipe"]]
    for name, value in ran.items():
        # Tests between epochs change no weight, and threads only the time.
        if name in (ELSEWHERE - {"model", "data"}) | {"val_every", "threads"} or name not in sayable or recipe[name] == value:
            continue
        if name == "model_options":
            words += [word for key, option in value.items() for word in ("--model-option", f"{key}={json.dumps(option)}")]
        elif isinstance(value, bool):
            words += sayable[name][0 if value else -1 :][:1]
        elif value is not None:
            words += [sayable[name][0], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    if record["options"]["threads"] != record["machine"]["cores"]:
        words += ["--threads", str(record["options"]["threads"])]
    return " ".join(words)


# --------------------------------------------------------------------------------------------------------------- tables


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; the first ``left`` columns and commands are words, the others figures."""
    lines = [columns, [":--" if k < left or name == "command" else "--:" for k, name in enumerate(columns)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mean(values: Sequence[float]) -> str:
    """``91.50 %``, or of several ``91.50 ± 0.12 %``: mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.2f} %"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


def groups(found: Iterable[Record]) -> list[list[Record]]:
    """Runs that differ in nothing but the seed and the machine, together."""
    by_command: dict[str, list[Record]] = {}
    for record in found:
        by_command.setdefault(command(record), []).append(record)
    return list(by_command.values())


def accuracy(group: Sequence[Record]) -> str:
    text = mean([record["test_accuracy"] for record in group])
    averaged = [record["tta_accuracy"] for record in group if "tta_accuracy" in record]
    if len(averaged) == len(group):
        text += f"; averaged ({group[0]['tta']}) {mean(averaged)}"
    return text


def ratio(record: Record, folder: Path = RESULTS) -> str:
    """Our time for a training step of the model over PyTorch's, as last measured with as many threads."""
    found: dict[str, float] = {}
    step = _experiment("speed-run-step", folder / "cifar10")
    if step and (step["recipe"]["name"], step["recipe"]["threads"]) == (record["recipe"], record["options"]["threads"]):
        found[""] = step["ratio"]["median"]
    for path in folder.glob("*.json"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        for result in kept.get("results", ()):
            same = result["case"] == f"{record['model']} step" and result["threads"] == record["options"]["threads"]
            if same and result.get("ratio"):
                found[kept["machine"].get("date", "")] = result["ratio"]["median"]
    return f"{found[max(found)]:.2f}" if found else "-"


def runs(folder: Path = FOLDER) -> str:
    """Paper, published, ours, how long, how fast, and with which command."""
    kept = [record for record in records(folder) if record["recipe"] != REDUCED[0]]
    rows = []
    for group in groups(kept):
        first = group[0]
        paper, published = PUBLISHED.get((first["recipe"], first["model"]), ("-", "-"))
        seeds = [record["seed"] for record in group]
        said = "" if seeds == [0] else f", `--seed` {', '.join(map(str, seeds))}"
        slow = "" if all(record.get("shared") is False for record in group) else "\\*"
        speed = statistics.mean(record["images_per_second"] for record in group)
        rows.append([
            first["model"], paper, published, accuracy(group), str(first["epochs"]),
            duration(statistics.mean(record["seconds"] for record in group)) + slow, f"{speed:,.0f}{slow}", ratio(first),
            f"`{command(first)}`{said}",
        ])  # fmt: skip
    columns = ["net", "paper", "published", "ours", "epochs", "time", "images/s", "step / PyTorch's", "command"]
    return markdown(columns, rows, 4) + (f"\n{SHARED}\n" if any("\\*" in row[5] for row in rows) else "")


def errors(folder: Path = FOLDER) -> str:
    """The four nets of the reduced comparison: training and test error."""
    recipe, nets = REDUCED
    kept = [record for record in records(folder) if record["recipe"] == recipe]
    if not kept:
        return f"Not measured yet: `minidl train --recipe {recipe} --model {nets[0]}`, and the same for {', '.join(nets[1:])}.\n"
    rows = []
    for group in sorted(groups(kept), key=lambda group: nets.index(group[0]["model"])):
        trained, tested = mean([r["train_error"] for r in group]), mean([100 - r["test_accuracy"] for r in group])
        slow = "" if all(record.get("shared") is False for record in group) else "\\*"
        time = duration(statistics.mean(record["seconds"] for record in group)) + slow
        rows.append([group[0]["model"], trained, tested, str(group[0]["epochs"]), time, f"`{command(group[0])}`"])
    text = markdown(["net", "training error", "test error", "epochs", "time", "command"], rows)
    text += f"\n{SHARED}\n" if any("\\*" in row[4] for row in rows) else ""
    return text + picture(folder / "he-reduced.png", "Their courses: training thin, tests bold")


def picture(path: Path, title: str) -> str:
    """A picture among the results, as a page in docs/ shows it; nothing where there is none."""
    return f"\n![{title}](../{path.relative_to(ROOT).as_posix()})\n" if path.is_file() else ""


def _experiment(name: str, folder: Path) -> Record | None:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def speed(folder: Path = FOLDER) -> str:
    """A step of the speed run, ours and PyTorch's, and what a whole run computes."""
    found = _experiment("speed-run-step", folder)
    if found is None:
        return "Not measured yet: `python -m benchmarks.experiments.speed_run`.\n"
    recipe = found["recipe"]
    rows = [
        [run["library"], f"{1e3 * run['seconds']:,.0f} ms", f"{run['images_per_second']:,.0f}", f"{run['gflop_per_second']:,.0f}"]
        for run in found["runs"]
    ]
    text = markdown([f"batches of {recipe['batch']}, threads: {recipe['threads']}", "a step", "images/s", "GFLOP/s"], rows)
    config = recipes.resolve(recipe["name"])
    steps = config.epochs * (50_000 // config.batch_size)
    ratio = found["ratio"]
    return (
        f"{text}\nOurs / the faster of PyTorch's: {ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}). A run is "
        f"{steps:,} steps of {recipe['gflop']:,.0f} GFLOP, {steps * recipe['gflop'] / 1e6:.2f} PFLOP.\n"
    )


def relu_tanh(folder: Path = EXPERIMENTS) -> str:
    """Epochs to 25 % training error, for each activation and learning rate."""
    found = _experiment("relu-tanh", folder)
    if found is None:
        return "Not measured yet: `python -m benchmarks.experiments.relu_tanh`.\n"
    rates = sorted({run["lr"] for run in found["runs"]})
    by = {(run["activation"], run["lr"]): run for run in found["runs"]}

    def cell(activation: str, lr: float) -> str:
        run = by.get((activation, lr))
        if run is None:
            return "-"
        if run["epochs_to_goal"] is None:
            return "diverges" if run["diverged"] else f"> {len(run['train_error'])}"
        best = run["epochs_to_goal"] == found["epochs"][activation]
        return f"**{run['epochs_to_goal']:.2f}**" if best else f"{run['epochs_to_goal']:.2f}"

    rows = [[activation, *(cell(activation, lr) for lr in rates)] for activation in ("relu", "tanh")]
    table = markdown(["learning rate", *(f"{lr:g}" for lr in rates)], rows)
    ratio = found["ratio"]
    told = "one of them does not get there" if ratio is None else f"tanh / ReLU, each at its best rate: {ratio:.2f}"
    return f"{table}\n{told}; the paper: about {found['paper']:g}.\n" + picture(folder / "relu-tanh.png", "Training errors")


def augmentation(folder: Path = EXPERIMENTS) -> str:
    """Test accuracy by augmentation, views and number of nets."""
    found = _experiment("augmentation", folder)
    if found is None:
        return "Not measured yet: `python -m benchmarks.experiments.augmentation`.\n"
    runs = found["runs"]
    single = [run for run in runs if run.get("augment") == found["recipe"]["augment"]]
    kinds = {
        "one net, not augmented": [run for run in runs if run.get("augment") == "none"],
        f"one net, mean of {len(single)}": single,
        f"{len(single)} nets together": [run for run in runs if "augment" not in run],
    }
    rows = []
    for name, chosen in kinds.items():
        trained = mean([run["train_error"] for run in chosen]) if "train_error" in chosen[0] else "-"
        rows.append([name, trained, *(mean([run["top1"][views] for run in chosen]) for views in ("none", "flip", "ten-crop"))])
    best = f"the best net alone {found['best_alone']:.2f} %, all together {found['together']:.2f} %"
    return markdown(["", "training error", "test", "and mirrored", "ten crops"], rows) + f"\nWithout views: {best}.\n"


TABLES = {"runs": runs, "speed": speed, "errors": errors, "relu-tanh": relu_tanh, "augmentation": augmentation}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in TABLES:
        raise SystemExit(f"usage: python -m benchmarks.cifar10 {'|'.join(TABLES)}")
    print(TABLES[name](), end="")


if __name__ == "__main__":
    main()
