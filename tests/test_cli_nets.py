"""``minidl table``, ``eval`` and ``predict`` with nets of the zoo, ensembles and views."""

import json
import re
import sys

import pytest

import minidl
from minidl import models
from minidl.cli.nets import confusion_lines
from minidl.io.safetensors import save_file
from minidl.train.weights import ModelCard, save_model
from tests.test_cli import fails, invoke

NAMES = ("circle", "square", "triangle", "cross", "ring", "stripes", "star", "bars", "dots", "wave")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A folder with a.safetensors and b.safetensors, w.safetensors without a card, and red.png."""
    Image = pytest.importorskip("PIL.Image")
    from minidl import data

    folder = tmp_path_factory.mktemp("nets")
    info = data.dataset_info("shapes10")
    names = tuple(data.load("shapes10", split="test", size=10).class_names)
    steps = [{"name": "ToFloat"}, {"name": "Normalize", "mean": list(info.mean), "std": list(info.std)}]
    for seed, name in enumerate("ab"):
        minidl.manual_seed(seed)
        net = models.create("smallconv")
        save_model(folder / f"{name}.safetensors", net, ModelCard("smallconv", {}, (3, 32, 32), names, steps, "shapes10"))
    save_file({k: v.numpy() for k, v in net.state_dict().items()}, folder / "w.safetensors", {})
    Image.new("RGB", (50, 40), "red").save(folder / "red.png")
    return folder


def output(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


# ---- table


def test_the_table_of_the_lectures():
    lines = output("table", "alexnet", "--input", 227).splitlines()
    assert lines[4].split() == "conv1 3 227 64 11 4 2 64 56 11 11 4 2 784 23 73".split()
    assert "145[1]" in output("table", "alexnet", "--input", 227, "--as-printed")
    assert "alexnet for 227" in fails("table", "alexnet", "--as-printed")
    assert "60,965,224" in output("table", "alexnet_original")


def test_formats(tmp_path):
    assert output("table", "lenet5", "--format", "markdown").count("\n| conv") == 2
    told = json.loads(output("table", "lenet5", "--format", "json"))
    assert told["totals"]["parameters"] == 61_706
    assert "written" in output("table", "lenet5", "--format", "json", "--out", tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == told
    assert "act1" in output("table", "lenet5", "--all") and "act1" not in output("table", "lenet5")


def test_a_picture_of_a_table(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    assert "lenet5.png: written" in output("table", "lenet5", "--format", "png")
    assert (tmp_path / "lenet5.png").read_bytes().startswith(b"\x89PNG")
    assert "ends in .png" in fails("table", "lenet5", "--format", "png", "--out", "x.jpg")
    assert "no folder" in fails("table", "lenet5", "--format", "png", "--out", "no/x.png")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'minidl[viz]'" in fails("table", "lenet5", "--format", "png")


def test_sizes_options_and_files(nets):
    assert "images of 1x28x28" in output("table", "lenet5", "--input", "1x28x28")
    assert "images of 3x224x320" in output("table", "resnet18", "--input", "224x320")
    assert "1,794.8 million" in " ".join(output("table", "resnet18", "--option", "stride=v1", "--option", "shortcut=A").split())
    assert "smallconv, images of 3x32x32" in output("table", nets / "a.safetensors")
    assert "did you mean" in fails("table", "alexnett")
    assert "--input" in fails("table", "alexnet", "--input", "big")
    assert "--input" in fails("table", "alexnet", "--input", "0")
    assert "no option 'depth'" in fails("table", "alexnet", "--option", "depth=3")


# ---- eval and predict


def test_eval_of_an_ensemble_with_a_matrix(nets):
    text = output("eval", f"{nets}/a.safetensors,{nets}/b.safetensors", "--limit", 40, "--views", 2)
    lines = text.splitlines()
    assert lines[0].startswith("true \\ predicted") and lines[0].split()[-2:] == ["images", "accuracy"]
    assert sum(int(line.split()[-2]) for line in lines[1:11]) == 40
    assert lines[-1].startswith("smallconv+smallconv, 2 views on shapes10 (test, 40 images): loss")
    assert output("eval", nets / "a.safetensors", nets / "b.safetensors", "--limit", 40, "-q").count("\n") == 1


def totals(text):
    return re.search(r"loss ([\d.]+), top-1 ([\d.]+)%, top-5 ([\d.]+)%", text).groups()


def test_an_ensemble_of_one_net_twice_is_the_net(nets):
    alone = totals(output("eval", nets / "a.safetensors", "--limit", 40))
    assert totals(output("eval", nets / "a.safetensors", nets / "a.safetensors", "--limit", 40)) == alone


def test_a_net_by_name_with_weights_is_the_net(nets):
    by_name = ("smallconv", "--weights", nets / "w.safetensors", "--preprocess", "shapes10", "--data", "shapes10", "--limit", 40)
    assert totals(output("eval", *by_name)) == totals(output("eval", nets / "b.safetensors", "--limit", 40))
    assert "class 0" in output("eval", *by_name)
    assert "no weights" in fails("eval", "smallconv").replace("without weights", "no weights")
    assert "--data" in fails("eval", *by_name[:5])


def test_a_drawn_confusion_matrix(nets, tmp_path):
    pytest.importorskip("matplotlib")
    output("eval", nets / "a.safetensors", "--limit", 40, "--confusion", tmp_path / "c.png", "-q")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "ends in .png" in fails("eval", nets / "a.safetensors", "--confusion", "c.pdf")


def test_predict_with_everything(nets, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps([f"thing {k}" for k in range(10)]))
    ensemble = (nets / "a.safetensors", nets / "b.safetensors", nets / "red.png")
    text = output("predict", *ensemble, "--views", 10, "--classes", "names.json")
    assert text.count("thing") == 5 and "red.png" in text  # the five most probable
    assert output("predict", f"{nets}/a.safetensors,{nets}/b.safetensors", nets / "red.png", "--views", 10,
                  "--classes", "names.json") == text  # fmt: skip
    assert output("predict", nets / "a.safetensors", nets / "red.png", "--top", 2).count("%") == 2
    assert "no picture is given" in fails("predict", nets / "a.safetensors", nets / "b.safetensors")
    assert "does not say of which net" in fails("predict", nets / "w.pth", nets / "red.png")
    assert "--preprocess" in fails("predict", "smallconv", nets / "red.png", "--weights", nets / "w.safetensors")
    assert "names.txt" in fails("predict", nets / "a.safetensors", nets / "red.png", "--classes", "names.txt")


def test_confusion_lines():
    lines = confusion_lines(["cat", "a rather long name"], [[1234, 0], [1, 2]], ["100.00%", "66.67%"])
    assert lines == [
        "true \\ predicted       cat  a rath  images  accuracy",
        "cat                  1,234       .   1,234   100.00%",
        "a rather long name       1       2       3    66.67%",
    ]
