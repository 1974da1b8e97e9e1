"""Recipes as files: what a good one gives, and what is said about a bad one."""

import tomllib

import pytest

from minidl.errors import ConfigError
from minidl.train import recipes
from minidl.train.config import TrainConfig
from tests.test_cli import fails, invoke


@pytest.mark.parametrize("name", recipes.list_recipes())
def test_each_says_where_it_comes_from_and_is_short(name):
    path = recipes.find(name)
    source = recipes.comment(path)
    assert len(source) >= 2 and all(len(line) <= 128 for line in source)
    assert len(source[0]) <= 92 and source[0].endswith(".")  # what `minidl recipes` prints
    assert len(path.read_text().splitlines()) < 45


@pytest.mark.parametrize("name", recipes.list_recipes())
def test_what_is_shown_is_a_recipe_of_the_same_options(name, tmp_path):
    shown = invoke("train", "--recipe", name, "--show")
    assert shown.exit_code == 0, shown.output
    copy = tmp_path / f"{name}.toml"
    copy.write_text(shown.stdout)
    assert recipes.resolve(copy) == recipes.resolve(name)
    assert recipes.comment(copy) == recipes.comment(recipes.find(name))


def test_options_are_shown_as_they_would_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = "--model resnet20 --data cifar10 --lr 1e-5 --milestones 30,40 --model-option width=8 --decoupled --show".split()
    text = invoke("train", *given, "--model-option", 'tags=["a", {"b c": 1.5}]').stdout
    found = tomllib.loads(text)
    assert (found["lr"], found["milestones"], found["epochs"], found["decoupled"]) == (1e-5, [30, 40], 72, True)
    assert found["model_options"] == {"width": 8, "tags": ["a", {"b c": 1.5}]}
    assert "# ema: not set" in text and not list(tmp_path.iterdir())


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('# mine\nmodel = "lenet5"\nepochs = 3\n[model_options]\nactivation = "tanh"\n')
    config = recipes.resolve(path, lr=0.5)
    assert (config.recipe, config.model, config.epochs, config.lr) == ("mine", "lenet5", 3, 0.5)
    assert config.model_options == {"activation": "tanh"} and config.seed == TrainConfig().seed


@pytest.mark.parametrize("text, message", [
    ("epochs = ten", r"mine.toml: Invalid value \(at line 1, column 10\); expected lines such as epochs = 10"),
    ("epochs = 0", "mine.toml: epochs: expected a whole number of at least 1, got 0"),
    ("epoch = 3", r"mine.toml: option 'epoch' is not known; did you mean epochs\?"),
    ("lr = \"fast\"", "mine.toml: lr: expected a number above 0, got 'fast'"),
    ("schedule = \"steps\"", r"mine.toml: schedule 'steps' is not known; did you mean step\?"),
    ("milestones = [3, 2]", r"mine.toml: milestones: expected numbers of updates, each larger .*, got \[3, 2\]"),
    ("tta = \"flop\"", "mine.toml: tta: expected 1, 2 .* got 'flop'"),
    ("drop_last = 1", "mine.toml: drop_last: expected true or false, got 1"),
    ("recipe = \"x\"", "mine.toml: recipe: the file's own name is the recipe's"),
])  # fmt: skip
def test_bad_files_name_the_file_the_key_and_what_is_expected(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text("# mine\n"[: 0 if "ten" in text else 7] + text)
    with pytest.raises(ConfigError, match=message):
        recipes.read(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: there is no such file \(the package has: convnetjs"):
        recipes.resolve(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="latin.toml: cannot read the recipe"):
        recipes.resolve(tmp_path / "latin.toml")
    assert "resnet20.tml' is not known; did you mean resnet20" in fails("train", "--recipe", "resnet20.tml", "--show")
    assert "--show prints what a new run would use" in fails("train", "--show", "--resume", tmp_path)
    assert "--milestones: expected whole numbers" in fails("train", "--milestones", "3,x", "--show")


def test_the_list(monkeypatch):
    lines = invoke("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == recipes.list_recipes()
    (he,) = [line for line in lines if line.startswith("resnet20-he")]
    assert he.split()[1:4] == ["resnet20", "cifar10", "164"] and he.endswith("as published")
