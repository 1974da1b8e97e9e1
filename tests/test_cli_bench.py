"""``minidl bench``: the table of a net's speed by kind of kernel."""

import json

import pytest
from click.testing import CliRunner

import minidl
from minidl import kernels
from minidl.cli import cli
from minidl.errors import ConfigError, DeviceError
from minidl.inspect import speed


def bench(*arguments, status=0):
    result = CliRunner().invoke(cli, ["bench", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output.splitlines()


def test_the_table_and_the_file(tmp_path):
    before = minidl.get_num_threads()
    file = tmp_path / "speed.json"
    lines = bench("--model", "lenet5", "--batch", 3, "--threads", 1, "--budget", 60, "--device", "cpu", "--json", file)
    minidl.set_num_threads(before)
    assert lines[0] == "lenet5, 3 images of 1x32x32, float32" and ", 1 of " in lines[1] and lines[2] == "GPU: not asked for"
    (head,) = [i for i, line in enumerate(lines) if line.startswith("layer ")]
    assert lines[head].split() == "layer input NumPy ms Numba ms x vector ms x difference".split()
    layers = [line.split()[0] for line in lines[head + 1 : head + 12]]
    assert layers == "conv1 act1 pool1 conv2 act2 pool2 fc3 act3 fc4 act4 fc5".split()
    assert [" ".join(line.split()[:2]) for line in lines[head + 12 : head + 14]] == ["whole forward", "training step"]
    assert any(line.startswith("NumPy: first calls, which compile, on two images and not counted: ") for line in lines)
    assert lines[-1].startswith("took ") and lines[-1].endswith("times are medians of up to 7 rounds")

    found = json.loads(file.read_text())
    assert found["conditions"]["batch"] == 3 and found["conditions"]["threads"] == 1 and found["conditions"]["device"] is None
    assert {row["name"] for row in found["rows"]} == {*layers, speed.FORWARD, speed.STEP}
    for row in found["rows"]:
        assert set(row["cells"]) == {"numpy", "numba", "vector"} and not row["left_out"]
        for cell in row["cells"].values():
            assert cell["first"] > 0 and cell["seconds"] > 0 and cell["rounds"] >= 1
            assert cell["ratio"] == pytest.approx(row["cells"]["numpy"]["seconds"] / cell["seconds"])
        # Sums of some hundred float32 products of normal numbers; one update at a rate of 1e-4 before the last row.
        assert row["difference"] < 1e-4 and row["cells"]["numpy"]["difference"] == 0


def test_each_column_is_computed_by_its_kernels(monkeypatch):
    seen = set()
    times = speed._seconds

    def seconds(call, backend, repeats=1):
        chosen = {verb: kernels.lookup(verb) for verb in ("conv2d", "relu")}
        seen.add(tuple(next(n for n, k in kernels.variants(v).items() if k is f) for v, f in chosen.items()))
        return times(call, backend, repeats)

    monkeypatch.setattr(speed, "_seconds", seconds)
    monkeypatch.setattr(speed, "ROUNDS", 2)
    rows = list(speed.Bench("lenet5", 2).rows())
    assert seen == {("numpy", "numpy"), ("numba", "numpy"), ("vector", "vector")}, "Numba's column has no vector kernels"
    assert len(rows) == 13


def test_a_wrong_kernel_shows_in_the_last_column(monkeypatch):
    right = kernels.variants("avg_pool2d")["vector"]
    table = kernels.registry._table["avg_pool2d", "cpu"]
    monkeypatch.setitem(table, "vector", lambda x, *a, **k: right(x, *a, **k) + 0.5)
    monkeypatch.setattr(speed, "ROUNDS", 1)
    rows = {row.name: row for row in speed.Bench("lenet5", 2).rows()}
    assert rows["pool1"].cells["vector"].difference == pytest.approx(0.5, rel=1e-5)
    assert rows["pool1"].cells["numba"].difference < 1e-5 and rows["conv1"].difference < 1e-4


def test_equal_layers_are_timed_once():
    net = speed.Bench("resnet20", 1)._net("cpu")
    layers = speed._layers(net, (3, 32, 32))
    assert len({(layer.kind, layer.shape, layer.like, layer.path) for layer in layers}) == len(layers)
    convolutions = [layer for layer in layers if layer.kind == "conv"]
    assert sum(layer.like + 1 for layer in convolutions) == 19 and len(convolutions) <= 8


def test_what_does_not_fit_the_budget_is_said():
    lines = bench("--model", "smallconv", "--batch", 2, "--budget", 1, "--device", "cpu", "--threads", minidl.get_num_threads())
    if any("left out" in line for line in lines):  # a quick machine may be done by then
        assert any(line.startswith("left out, the budget of 1 s is spent (--budget): ") for line in lines)
    rows = list(speed.Bench("lenet5", 2, budget=1e-9).rows())
    assert all(not row.cells and set(row.left_out) == {"numpy", "numba", "vector"} for row in rows) and len(rows) == 13


def test_a_call_that_takes_too_long_is_not_made(monkeypatch):
    times, made = speed._seconds, []

    def seconds(call, backend, repeats=1):
        made.append(backend)
        return 1.1 if kernels.lookup("conv2d") is kernels.variants("conv2d")["numba"] else times(call, backend, repeats)

    monkeypatch.setattr(speed, "_seconds", seconds)
    monkeypatch.setattr(speed, "ROUNDS", 1)
    rows = list(speed.Bench("lenet5", 16, budget=32).rows())  # 1.1 s for two images, 8.8 for sixteen
    for row in rows:
        assert set(row.cells) == {"numpy", "vector"}
        assert row.left_out == {"numba": "a call would take more than 25% of 32 s (--budget)"}


def test_float64_has_no_vector_column():
    assert [c.name for c in speed.Bench("lenet5", 2, dtype="float64").contenders] == ["numpy", "numba"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--batch", "0"], "0 is not in the range x>=1"),
        (["--model", "alexnett"], "models: no model 'alexnett'; did you mean 'alexnet'"),
        (["--budget", "0"], "0.0 is not in the range x>=1"),
        (["--dtype", "float16"], "'float16' is not one of 'float32', 'float64'"),
        (["--device", "gpu"], "--device 'gpu': expected cuda, cuda:1, or cpu for the CPU's columns alone"),
        (["--json", "/nowhere/at/all.json"], None),
    ],
)
def test_nonsense(arguments, words):
    text = "\n".join(bench(*arguments, status=2))
    assert (words or "may not be written; choose another folder") in text


def test_nonsense_in_python():
    for options, words in (
        ({"batch": 0}, "batch must be a positive whole number, got 0"),
        ({"batch": 2.5}, "batch must be a positive whole number, got 2.5"),
        ({"batch": 1, "dtype": "int8"}, "dtype must be float32 or float64, got 'int8'"),
        ({"batch": 1, "budget": 0}, "the budget must be above 0 seconds, got 0"),
    ):
        with pytest.raises(ConfigError, match=f"bench: {words}"):
            speed.Bench("lenet5", **options)
    with pytest.raises(DeviceError):
        speed.Bench("lenet5", 1, "cuda:77")
