"""``minidl bench`` with a GPU's column, on the stand-in for CuPy; and what it says without one."""

import json

import pytest
from click.testing import CliRunner

import minidl
from minidl.cli import cli
from minidl.inspect import speed
from tests.cuda_emulator.emulator import COMPILER
from tests.fake_cupy import fake_cupy

ARGUMENTS = ["bench", "--model", "lenet5", "--batch", "2", "--budget", "60"]


@pytest.fixture(autouse=True)
def threads():
    before = minidl.get_num_threads()
    yield
    minidl.set_num_threads(before)


@pytest.mark.skipif(COMPILER is None, reason="the CUDA emulator needs g++")
def test_the_column_of_a_gpu(install, tmp_path, monkeypatch):
    cupy = install(fake_cupy())
    monkeypatch.setattr(speed, "ROUNDS", 2)              # the CPU takes many steps more; its layers' weights must not show it
    file = tmp_path / "speed.json"
    result = CliRunner().invoke(cli, [*ARGUMENTS, "--device", "cuda:1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "GPU: Stand-in 1" in result.output and "GPU ms" in result.output
    found = json.loads(file.read_text())
    for row in found["rows"]:
        assert row["cells"]["gpu"]["seconds"] > 0 and row["difference"] < 1e-4
    # Every time ends with the device.
    assert sum(call[0] == "synchronize" for call in cupy.calls) >= 2 * len(found["rows"])


def test_without_a_gpu_it_says_so(install, monkeypatch):
    install(None)
    monkeypatch.setattr(speed, "ROUNDS", 1)
    for device in ([], ["--device", "cuda"]):
        result = CliRunner().invoke(cli, [*ARGUMENTS, *device])
        assert result.exit_code == 0 and "GPU ms" not in result.output
        assert "GPU: none, so there is no column for it: CuPy is not installed; pip install 'minidl[cuda13]'" in result.output


def test_a_gpu_with_too_little_memory(install, monkeypatch):
    install(fake_cupy(limit=300 << 10))
    monkeypatch.setattr(speed, "ROUNDS", 1)
    result = CliRunner().invoke(cli, [*ARGUMENTS])
    assert result.exit_code == 0, result.output
    assert "left out, out of memory on cuda:0: " in result.output
