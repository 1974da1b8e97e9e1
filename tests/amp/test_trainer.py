"""Training runs in 16 bits: the trainer, its options, the command line, and going on from a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import minidl
from minidl import nn
from minidl.cli import cli
from minidl.errors import ConfigError, DTypeError, NumericsError
from minidl.io import checkpoint
from minidl.train.build import build
from minidl.train.config import TrainConfig
from minidl.train.record import RunFolder
from tests.amp.test_training import BFLOAT16
from tests.train.test_trainer import same, trainer, weights

both = pytest.mark.parametrize("precision", ["float16", BFLOAT16])


@both
def test_it_learns(precision):
    run = trainer(precision=precision)
    assert run.fit().test.top1 > 0.9
    for p in run.model.parameters():
        assert p.dtype == np.float32, "weights stay float32"
    assert not same(weights(run), weights(_finished("float32"))), "or nothing was rounded"


def _finished(precision):
    run = trainer(precision=precision)
    run.fit()
    return run


@both
def test_resume_is_bit_identical(tmp_path, precision):
    def one(folder):
        run = trainer(folder, precision=precision)
        if run.scaler is not None:
            run.scaler.growth_interval = 2
        return run

    whole = one(None)
    whole.fit()
    with_folder = RunFolder.create(tmp_path / "run")
    first = one(with_folder)
    advance = first.reporter.advance

    def stop(*args):
        advance(*args)
        if first.step == 7:
            first._signal = 15

    first.reporter.advance = stop
    assert first.fit().signal == 15
    second = one(with_folder)
    path = second.resume()
    assert path is not None and second.step == 7
    saved = checkpoint.load(path)["parts"].get("scaler")
    second.fit()
    with_folder.close()
    assert same(weights(whole), weights(second))
    if precision == "float16":
        assert saved["scale"] != 2.0**16, "as at the beginning: then nothing is tested"
        assert whole.scaler.state_dict() == second.scaler.state_dict()


def test_an_overflow_leaves_the_weights_alone():
    run = trainer(precision="float16", max_steps=1, test=False)
    run.scaler.update(2.0**60)
    before = [p.detach().numpy().copy() for p in run.model.parameters()]
    run.fit()
    assert run.step == 1 and run.scaler.get_scale() == 2.0**59
    for a, p in zip(before, run.model.parameters(), strict=True):
        np.testing.assert_array_equal(a, p.detach().numpy())


def test_gradients_are_clipped_as_they_are_without_a_scale():
    run = trainer(precision="float16", max_steps=1, test=False, clip_norm=1e-3)
    before = [p.detach().numpy().copy() for p in run.model.parameters()]
    run.fit()
    moved = sum(((a - p.detach().numpy()) ** 2).sum() for a, p in zip(before, run.model.parameters(), strict=True)) ** 0.5
    assert moved == pytest.approx(0.05 * 1e-3, rel=0.02)  # lr * clip_norm; weights of order 1 are rounded by 6e-8 each


def test_gradients_that_are_infinite_at_any_scale_stop_the_run():
    class Infinite(minidl.autograd.Function):
        def forward(self, F, x):
            return x

        def backward(self, F, gy):
            return (F.div(gy, F.zeros_like(gy)),)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(16, 3)

        def forward(self, x):
            return Infinite.apply(self.inner(x.flatten(1)))

    run = trainer(precision="float16", model=Net(), epochs=20)
    with pytest.raises(NumericsError, match=r"infinite or NaN at every scale of the loss down to .*train in bfloat16 or float32"):
        run.fit()


def test_a_loss_that_overflows_names_the_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    with minidl.no_grad():
        model[3].weight.fill_(60000.0)
    run = trainer(precision="float16", model=model)
    with pytest.raises(NumericsError, match="the first layer whose output is not finite is 3 "):
        run.fit()


def test_bad_options():
    with pytest.raises(ConfigError, match="precision 'float8' is not known.*known: float32, bfloat16, float16"):
        TrainConfig(precision="float8")
    with pytest.raises(ConfigError, match="Trainer: precision 'half'"):
        trainer(precision="half")


def test_without_ml_dtypes_it_is_said_before_anything_is_read(monkeypatch):
    from minidl.backend import dtypes

    monkeypatch.setattr(dtypes, "_bfloat16", [])
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(DTypeError, match="bfloat16: .*pip install ml_dtypes"):
        build(TrainConfig(precision="bfloat16"))


@both
def test_the_command_line(tmp_path, precision):
    arguments = ["train", "--limit", "64", "--max-steps", "2", "--precision", precision, "--out", str(tmp_path / "run"), "-q"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["precision"] == precision
    result = CliRunner().invoke(cli, ["train", "--precision", precision, "--show"], catch_exceptions=False)
    assert f'precision = "{precision}"' in result.output
