"""The tables of results: what stands in them follows from the files."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import cifar10
from benchmarks.record import kept
from minidl.cli import cli
from minidl.train.config import TrainConfig
from minidl.train.recipes import list_recipes, resolve


def record(recipe="resnet20", seed=0, accuracy=91.5, shared=False, **options):
    more = {name: options.pop(name) for name in ("tta_accuracy", "train_error") if name in options}
    config = resolve(recipe, threads=2, **options)
    return {
        "recipe": recipe, "data": config.data, "model": config.model, "seed": seed, "epochs": config.epochs,
        "test_accuracy": accuracy, "train_error": 1.0, "seconds": 3600.0, "images_per_second": 1000, "shared": shared,
        "machine": {"cores": 2}, "options": kept(config.to_json()), "curve": [], **({"tta": config.tta} if more else {}), **more,
    }  # fmt: skip


def write(folder, *found):
    for k, one in enumerate(found):
        (folder / f"{k}.json").write_text(json.dumps(one))


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_as_it_is_needs_no_options(recipe):
    assert cifar10.command(record(recipe)) == f"minidl train --recipe {recipe}"


@pytest.mark.parametrize("options", [
    {"epochs": 30, "lr": 0.05, "nesterov": False}, {"milestones": [100, 200], "schedule": "step"},
    {"drop_last": True}, {"tta": "shift:2"},
    {"model": "plain20", "model_options": {"width": 8}}, {"weight_decay": 1e-5, "seed": 3, "val_every": 7},
])  # fmt: skip
def test_the_command_makes_the_same_run(options):
    command = cifar10.command(record(**options))
    shown = CliRunner().invoke(cli, [*command.split()[1:], "--show"])
    assert shown.exit_code == 0, shown.output
    import tomllib

    made = TrainConfig.from_json({**tomllib.loads(shown.stdout), "recipe": "resnet20", "threads": 2})
    wanted = resolve("resnet20", threads=2, **{**options, "seed": None, "val_every": None})
    assert made == wanted


def test_runs(tmp_path):
    write(
        tmp_path, record(accuracy=91.0), record(seed=1, accuracy=92.0), record("convnetjs", accuracy=72.0, tta_accuracy=74.0),
        record("lenet-mnist", shared=None), record("he-reduced"),
    )  # fmt: skip
    rows = cifar10.runs(tmp_path).splitlines()
    assert len(rows) == 2 + 3 + 2 and "he-reduced" not in "".join(rows)
    assert "| He et al. 2015 | 91.25 % | 91.50 ± 0.71 % | 72 | 1 h 00 min | 1,000 |" in rows[2]
    assert rows[2].endswith("| `minidl train --recipe resnet20`, `--seed` 0, 1 |")
    assert "72.00 %; averaged (shift:2) 74.00 %" in rows[3]
    assert "1 h 00 min\\*" in rows[4] and rows[-1].startswith("\\*: other programs")


def test_ratios_are_the_last_measured_ones(tmp_path):
    for date, ratio in (("2026-01-02", 0.4), ("2026-01-01", 0.9)):
        case = {"case": "resnet20 step", "threads": 2, "ratio": {"median": ratio}}
        write_to = tmp_path / f"{date}.json"
        write_to.write_text(json.dumps({"machine": {"date": date}, "results": [case, {**case, "threads": 1, "ratio": None}]}))
    assert cifar10.ratio(record(), tmp_path) == "0.40"
    assert cifar10.ratio({**record(), "options": {"threads": 1}}, tmp_path) == "-"


def test_speed(tmp_path):
    assert "Not measured yet" in cifar10.speed(tmp_path)
    config = resolve("speedrun")
    run = {"library": "minidl", "seconds": 0.25, "images_per_second": 2048.0, "gflop_per_second": 100.0}
    found = {
        "recipe": {"name": "speedrun", "batch": config.batch_size, "gflop": 200.0, "threads": 2}, "runs": [run],
        "ratio": {"median": 0.5, "low": 0.4, "high": 0.6},
    }  # fmt: skip
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "speed-run-step.json").write_text(json.dumps(found))
    text = cifar10.speed(tmp_path / "cifar10")
    steps = config.epochs * (50_000 // config.batch_size)
    assert "| minidl | 250 ms | 2,048 | 100 |" in text and "0.50 (0.40-0.60)" in text
    assert f"{steps:,} steps of 200 GFLOP, {steps * 200 / 1e6:.2f} PFLOP" in text
    assert cifar10.records(tmp_path / "cifar10") == []
    assert cifar10.ratio(record("speedrun"), tmp_path) == "0.50" and cifar10.ratio(record(), tmp_path) == "-"


def test_errors(tmp_path):
    assert "Not measured yet: `minidl train --recipe he-reduced --model plain20`" in cifar10.errors(tmp_path)
    deep = record("he-reduced", model="resnet56", accuracy=85.0, train_error=11.0)
    write(tmp_path, deep, record("he-reduced", model="plain20"))
    rows = cifar10.errors(tmp_path).splitlines()
    assert [row.split()[1] for row in rows[2:]] == ["plain20", "resnet56"]
    assert "| resnet56 | 11.00 % | 15.00 % | 8 |" in rows[3] and "`minidl train --recipe he-reduced --model resnet56`" in rows[3]


def test_experiments(tmp_path):
    for table in (cifar10.relu_tanh, cifar10.augmentation):
        assert "Not measured yet: `python -m benchmarks.experiments." in table(tmp_path)
    runs = [
        {"activation": "relu", "lr": 0.02, "epochs_to_goal": 2.5, "diverged": False, "train_error": [50.0, 30.0, 20.0]},
        {"activation": "relu", "lr": 0.08, "epochs_to_goal": None, "diverged": True, "train_error": []},
        {"activation": "tanh", "lr": 0.02, "epochs_to_goal": None, "diverged": False, "train_error": [50.0] * 7},
        {"activation": "tanh", "lr": 0.08, "epochs_to_goal": 10.0, "diverged": False, "train_error": [50.0]},
    ]
    found = {"runs": runs, "epochs": {"relu": 2.5, "tanh": 10.0}, "ratio": 4.0, "paper": 6.0}
    (tmp_path / "relu-tanh.json").write_text(json.dumps(found))
    rows = cifar10.relu_tanh(tmp_path).splitlines()
    assert rows[2:4] == ["| relu | **2.50** | diverges |", "| tanh | > 7 | **10.00** |"]
    assert "tanh / ReLU, each at its best rate: 4.00; the paper: about 6." in rows[-1]

    def net(who, share, **facts):
        return {"who": who, "top1": {"none": share, "flip": share + 1, "ten-crop": share + 2}, **facts}

    runs = [
        net("seed 0, not augmented", 80.0, augment="none", train_error=0.5),
        net("seed 0", 88.0, augment="standard", train_error=6.0), net("seed 1", 89.0, augment="standard", train_error=7.0),
        net("all 2", 90.5),
    ]  # fmt: skip
    found = {"recipe": {"augment": "standard"}, "runs": runs, "best_alone": 89.0, "together": 90.5}
    (tmp_path / "augmentation.json").write_text(json.dumps(found))
    rows = cifar10.augmentation(tmp_path).splitlines()
    assert rows[2] == "| one net, not augmented | 0.50 % | 80.00 % | 81.00 % | 82.00 % |"
    assert rows[3].startswith("| one net, mean of 2 | 6.50 ± 0.71 % | 88.50 ± 0.71 % |")
    assert rows[4] == "| 2 nets together | - | 90.50 % | 91.50 % | 92.50 % |"


def test_every_kept_run_stands_in_a_table():
    shown = cifar10.runs() + cifar10.errors()
    assert all(f"--recipe {found['recipe']}" in shown for found in cifar10.records())


def test_pictures_are_shown_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "ROOT", tmp_path)
    write(tmp_path, record("he-reduced", model="plain20"))
    assert "![" not in cifar10.errors(tmp_path)
    (tmp_path / "he-reduced.png").touch()
    assert cifar10.errors(tmp_path).endswith("](../he-reduced.png)\n")
