"""``minidl doctor``: of the machine, and of a net."""

import pytest
from click.testing import CliRunner

from minidl import models
from minidl.cli import cli
from minidl.io import safetensors
from minidl.train import environment
from minidl.train.weights import ModelCard, save_model
from tests.privileges import run_obeying


def doctor(*arguments):
    result = CliRunner().invoke(cli, ["doctor", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run long enough for the running statistics to be those of the images: 40 updates."""
    folder = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "--model", "smallconv", "--limit", "160", "--batch-size", "8", "--epochs", "2", "--threads", "1", "-q"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def test_a_net_that_is_well(run):
    assert doctor(run) == ["All is well."]


def test_a_net_whose_statistics_are_not_its_own(run, tmp_path):
    arrays, metadata = safetensors.load_file(run / "model.safetensors")
    for name in [name for name in arrays if name.endswith("running_var")]:
        arrays[name] = arrays[name] * 100
    safetensors.save_file(arrays, tmp_path / "m.safetensors", metadata)
    lines = doctor(tmp_path / "m.safetensors")
    assert lines[0].startswith("! the running statistics of ") and "(BatchNorm2d)" in lines[0]
    assert lines[1:] == ["Something needs attention."]


def test_a_net_that_was_never_trained(tmp_path):
    options = {"num_classes": 10, "in_channels": 3, "image_size": [32, 32]}
    steps = [{"name": "ToFloat"}, {"name": "Normalize", "mean": [0.5] * 3, "std": [0.3] * 3}]
    names = tuple(map(str, range(10)))
    save_model(tmp_path / "m.safetensors", models.create("smallconv", **options),
               ModelCard("smallconv", options, (3, 32, 32), names, steps, "shapes10"))  # fmt: skip
    assert "never saw a training batch" in doctor(tmp_path / "m.safetensors")[0]


def test_the_kernel_cache_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_KERNEL_CACHE", str(tmp_path / "kernels"))
    (line,) = [line for line in doctor() if line.startswith("kernel cache")]
    assert line.endswith(f"{tmp_path / 'kernels'}, 0 objects, 0.0 MiB")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.object").write_bytes(bytes(3 << 19))
    assert environment.kernel_cache() == f"{tmp_path / 'kernels'}, 1 objects, 1.5 MiB"


def test_folders_that_may_not_be_written_need_attention(tmp_path):
    assert environment.advice([tmp_path]) == environment.advice()
    tmp_path.chmod(0o555)
    result = run_obeying("-m", "minidl", "doctor", cwd=tmp_path)
    tmp_path.chmod(0o755)
    assert f"! {tmp_path / 'runs'} may not be written" in result.stdout and "Something needs attention." in result.stdout
