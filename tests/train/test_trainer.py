"""The loop, on nets and data small enough to know what must happen."""

import errno
import math
import os
import signal
import threading

import numpy as np
import pytest

import minidl
from minidl import data, nn, optim
from minidl.errors import CheckpointError, ConfigError, NumericsError
from minidl.io import checkpoint, safetensors
from minidl.train.log import read_metrics
from minidl.train.progress import Quiet
from minidl.train.record import RunFolder
from minidl.train.trainer import Trainer


def dataset(n=48, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.normal(size=(n, 1, 4, 4)).astype("float32")
    images[np.arange(n), 0, labels, labels] += 4.0  # where the bright pixel is tells the class
    return data.ArrayDataset(images, labels, ["a", "b", "c"])


def net(dropout=0.2):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    )


def trainer(folder=None, *, train=None, model=None, lr=0.05, seed=0, test=True, ema=False, schedule=True, **options):
    minidl.manual_seed(seed)
    model = net() if model is None else model
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loader = data.DataLoader(dataset() if train is None else train, 8, shuffle=True, seed=seed)
    return Trainer(
        model, optimizer, loader, data.DataLoader(dataset(24, 1), 16) if test else None,
        schedule=optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=18) if schedule else None,
        ema=optim.EMA(model, 0.9) if ema else None, folder=folder, **{"epochs": 3, **options},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    yield folder
    folder.close()


def weights(thing):
    return {name: tensor.numpy().copy() for name, tensor in thing.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_it_learns_and_writes_everything(folder):
    outcome = trainer(folder, epochs=6).fit()
    assert outcome.signal is None and (outcome.step, outcome.epoch) == (36, 6)
    assert outcome.test.top1 > 0.9 and outcome.test.images == 24 and outcome.test.top5 == 1.0
    records = read_metrics(folder.path / "metrics.jsonl")
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert [record["step"] for record in records if record["kind"] == "step"] == [10, 20, 30]
    assert epochs[-1]["test_accuracy"] == outcome.test.top1 and epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert len(checkpoint.find(folder.path)) == 2
    assert (folder.path / "model.safetensors").exists() and (folder.path / "best.safetensors").exists()


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trainer().fit().step == 18
    assert os.listdir(tmp_path) == []


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    runs = []
    for seed in (0, 0, 1):
        run = trainer(seed=seed)
        run.fit()
        runs.append(weights(run))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_training_does_not_depend_on_being_tested():
    tested = trainer()
    tested.fit()
    untested = trainer(test=False)
    untested.fit()
    assert same(weights(tested), weights(untested))


@pytest.mark.parametrize("stop_at", [1, 5, 6, 7, 12, 17])
@pytest.mark.parametrize("ema", [False, True])
def test_resume_from_any_step_is_bit_identical(tmp_path, stop_at, ema):
    """Steps 6 and 12 are the last of their epochs; 1, 5, 7 and 17 lie inside one."""
    whole_folder = RunFolder.create(tmp_path / "whole")
    whole = trainer(whole_folder, ema=ema)
    whole.fit()
    folder = RunFolder.create(tmp_path / "parts")
    first = trainer(folder, ema=ema, reporter=Interrupt(at=stop_at))
    outcome = first.fit()
    assert outcome.signal == signal.SIGINT and outcome.step == stop_at and outcome.checkpoint.exists()
    folder.close()
    folder = RunFolder(tmp_path / "parts")
    second = trainer(folder, seed=5, ema=ema)  # another seed: everything must come from the checkpoint
    second.train_loader.seed = 0
    assert second.resume() == outcome.checkpoint
    assert second.fit().step == 18
    assert same(weights(second), weights(whole))
    for name in ("model.safetensors", "best.safetensors"):
        assert (folder.path / name).read_bytes() == (whole_folder.path / name).read_bytes()
    records = [read_metrics(path / "metrics.jsonl") for path in (whole_folder.path, folder.path)]
    for record in records[0] + records[1]:
        [record.pop(name, None) for name in ("seconds", "images_per_second", "load")]
    assert records[0] == records[1]
    folder.close()
    whole_folder.close()


class Interrupt(Quiet):
    """Sends this process a signal while step ``at`` is under way."""

    def __init__(self, at, number=signal.SIGINT):
        super().__init__()
        self.at, self.number, self.steps = at, number, 0
        self.testing = False

    def start_phase(self, name, total, done=0):
        self.testing = name == "test"

    def advance(self, images, loss, accuracy):
        if not self.testing:
            self.steps += 1
            if self.steps == self.at:
                os.kill(os.getpid(), self.number)


def test_sigterm_during_the_test_and_going_on_in_the_same_process(folder):
    class DuringTest(Quiet):
        def start_phase(self, name, total, done=0):
            if name == "test":
                os.kill(os.getpid(), signal.SIGTERM)

    whole = trainer()
    whole.fit()
    run = trainer(folder, reporter=DuringTest())
    outcome = run.fit()
    assert outcome.signal == signal.SIGTERM and (outcome.step, outcome.epoch) == (6, 0) and run.trained
    run.reporter = Quiet()
    assert run.fit().step == 18 and same(weights(run), weights(whole))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_terminal_that_hangs_up_twice(folder):
    class HangUp(Interrupt):
        gone = False

        def hang_up(self):
            self.gone = True

        def advance(self, images, loss, accuracy):
            super().advance(images, loss, accuracy)
            if self.steps == self.at:
                os.kill(os.getpid(), self.number)  # a shell passes it on as well

    run = trainer(folder, reporter=HangUp(at=5, number=signal.SIGHUP))
    outcome = run.fit()
    assert outcome.signal == signal.SIGHUP and outcome.step == 5 and outcome.checkpoint.exists() and run.reporter.gone


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert trainer(epochs=1, reporter=Interrupt(at=2, number=signal.SIGHUP)).fit().signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_the_last_tests_leaves_them_to_the_next_time(folder):
    class DuringLastTest(Quiet):
        def start_phase(self, name, total, done=0):
            if name == "train":
                os.kill(os.getpid(), signal.SIGTERM)

    plain = data.DataLoader(dataset(), 16)
    run = trainer(folder, reporter=DuringLastTest(), train_error_loader=plain)
    outcome = run.fit()
    assert outcome.signal == signal.SIGTERM and outcome.step == 18 and outcome.train_test is None
    again = trainer(folder, train_error_loader=plain)
    assert again.resume() is not None
    outcome = again.fit()
    assert outcome.signal is None and outcome.train_test.images == 48
    records = read_metrics(folder.path / "metrics.jsonl")
    assert [record["kind"] for record in records[-2:]] == ["epoch", "final"]
    assert records[-1]["train_accuracy"] == outcome.train_test.top1
    again.fit()
    assert len(read_metrics(folder.path / "metrics.jsonl")) == len(records)  # not done twice


def test_handlers_are_put_back_and_other_threads_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    trainer(epochs=1).fit()
    assert signal.getsignal(signal.SIGINT) is before
    done = []
    thread = threading.Thread(target=lambda: done.append(trainer(epochs=1).fit().step))
    thread.start()
    thread.join()
    assert done == [6]


def test_max_steps_stops_inside_an_epoch_and_tests(folder):
    run = trainer(folder, max_steps=8)
    outcome = run.fit()
    assert (outcome.step, outcome.epoch) == (8, 2) and outcome.test is not None and run.finished
    assert (folder.path / "model.safetensors").exists()


def test_val_every():
    rows = []

    class Rows(Quiet):
        def epoch(self, values):
            rows.append(values[4])

    trainer(epochs=5, val_every=2, reporter=Rows()).fit()
    assert [value is not None for value in rows] == [False, True, False, True, True]


def test_checkpoint_steps_and_seconds(folder):
    saved = []
    run = trainer(folder, checkpoint_steps=2, epochs=1)
    real = run.save_checkpoint
    run.save_checkpoint = lambda: saved.append(run.step) or real()
    run.fit()
    assert saved == [2, 4, 6, 6]
    run = trainer(folder, checkpoint_seconds=1e-9, epochs=1, max_steps=3)
    run.save_checkpoint = lambda: saved.append(run.step) or real()
    run.fit()
    assert saved[4:] == [1, 2, 3]


def test_clipping_bounds_the_update():
    run = trainer(clip_norm=1e-3, max_steps=1, schedule=False, lr=1.0)
    before = weights(run)
    run.fit()
    moved = sum(
        float(((after - before[name]) ** 2).sum())
        for name, after in weights(run).items()
        if "running" not in name and "num" not in name
    )
    assert (
        0 < math.sqrt(moved) <= 1e-3 * (1 + 1e-5)
    )  # one plain step of rate 1 moves by the clipped norm; float32 rounding


def test_plateau_gets_the_test_loss():
    losses = []

    class Plateau:
        step = losses.append

        def state_dict(self):
            return {}

    trainer(plateau=Plateau()).fit()
    assert len(losses) == 3 and all(isinstance(value, float) for value in losses)


# ---- numbers that are not


class Poison(nn.Module):
    """Turns its output into ``value`` from call number ``at`` on."""

    def __init__(self, at, value):
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, x):
        self.calls += 1
        return x * self.value if self.calls >= self.at else x


@pytest.mark.parametrize("value, kind", [(math.nan, "NaN"), (math.inf, "infinity|NaN")])
def test_a_nan_names_the_first_layer_and_the_step(folder, value, kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), Poison(5, value), nn.ReLU(), nn.Linear(8, 3))
    run = trainer(folder, model=model, checkpoint_steps=1)
    with pytest.raises(
        NumericsError, match=rf"step 5: the loss is .*first layer whose output is not finite is 2 \(Poison; ({kind})"
    ):
        run.fit()
    path, state = folder.load_checkpoint()
    assert state["step"] == 4 and all(np.isfinite(array).all() for array in state["model"].values())


def test_a_nan_in_the_data_is_told_from_one_in_the_net(folder):
    bad = dataset()
    bad.images[17, 0, 2, 3] = math.nan
    with pytest.raises(
        NumericsError, match=r"the batch itself has a NaN, first at index \(\d, 0, 2, 3\); check the data set"
    ):
        trainer(folder, train=bad).fit()


def test_a_learning_rate_that_is_far_too_high_keeps_the_last_good_checkpoint(folder):
    run = trainer(
        folder, model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), lr=1e45, checkpoint_steps=1, schedule=False
    )
    with pytest.raises(NumericsError, match="lower the learning rate"):
        run.fit()
    for path in checkpoint.find(folder.path):
        assert all(np.isfinite(array).all() for array in checkpoint.load(path)["model"].values())


def test_a_nan_in_the_test_is_an_error_too(folder):
    run = trainer(folder)
    run.test_loader.dataset.images[3, 0, 0, 0] = math.nan
    with pytest.raises(
        NumericsError, match="step 6: the test loss is nan; every weight is finite: check the test images"
    ):
        run.fit()


def test_a_loss_that_is_itself_at_fault(folder):
    from minidl.nn import functional as F

    with pytest.raises(NumericsError, match="every layer's output is finite but the loss is not"):
        trainer(folder, loss=lambda scores, labels: F.cross_entropy(scores, labels) * math.inf).fit()


# ---- disks


def test_a_disk_that_fills_up_keeps_what_was_saved(folder, monkeypatch):
    run = trainer(folder, checkpoint_steps=2, epochs=2)
    real = os.fsync
    calls = []

    def full_after_a_while(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_a_while)
    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        run.fit()
    monkeypatch.undo()
    path, state = folder.load_checkpoint()
    whole = trainer(epochs=2)
    whole.fit()
    again = trainer(folder, epochs=2)
    assert again.resume() == path and again.step == state["step"] > 0
    again.fit()
    assert same(weights(again), weights(whole))


def test_a_checkpoint_of_another_net_is_refused(folder):
    trainer(folder, epochs=1).fit()
    other = trainer(folder, model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(CheckpointError, match=r"step-00000006.checkpoint: the state dict does not fit"):
        other.resume()
    checkpoint.save(folder.path / checkpoint.filename(9), {"step": 9})
    with pytest.raises(CheckpointError, match="does not fit this run: KeyError"):
        trainer(folder).resume()


def test_resume_without_any_checkpoint_starts_anew(folder):
    log = folder.open_log()
    log.append({"kind": "step"})
    log.close()
    run = trainer(folder)
    assert run.resume() is None and folder.log.count == 0
    assert run.fit().step == 18


@pytest.mark.parametrize("options", [
    {"epochs": 0}, {"epochs": 1.5}, {"val_every": 0}, {"max_steps": 0}, {"checkpoint_steps": 0}, {"clip_norm": 0.0},
    {"checkpoint_seconds": -1.0},
])  # fmt: skip
def test_numbers_that_make_no_sense(options):
    with pytest.raises(ConfigError, match=f"Trainer: {next(iter(options))} must be .*, got {next(iter(options.values()))}"):
        trainer(**options)


def test_damaged_checkpoints_are_named_and_kept(folder, capsys):
    trainer(folder).fit()
    saved = checkpoint.find(folder.path)
    for path in saved:
        path.write_bytes(path.read_bytes()[:-1])
    assert trainer(folder).resume() is None
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [f"a damaged checkpoint was passed over, and is kept as {path}.damaged" for path in saved]
    assert all(path.with_name(path.name + ".damaged").is_file() for path in saved)


def test_saved_weights_are_the_averaged_ones(folder):
    run = trainer(folder, ema=True)
    run.fit()
    arrays, _ = safetensors.load_file(folder.path / "model.safetensors")
    with run.ema.average_parameters():
        assert same(arrays, weights(run))
    assert not same(arrays, weights(run))
