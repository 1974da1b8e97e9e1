"""A run that is killed (SIGKILL) again and again, and resumed, ends with the very bytes of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from minidl.io import checkpoint
from minidl.train.log import read_metrics

OPTIONS = (
    "--limit 192 --batch-size 8 --epochs 2 --checkpoint-steps 4 --threads 1 --seed 3 --ema 0.9 --augment strong "
    "--flip alternating --lookahead 0.5 --tta flip --train-error"
).split()


def command(*arguments):
    return [sys.executable, "-m", "minidl", "train", *map(str, arguments)]


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_killed_at_random_moments(tmp_path, environment):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(*OPTIONS, "--out", whole), check=True, env=environment, capture_output=True, timeout=120)
    seconds = sum(record["seconds"] for record in read_metrics(whole / "metrics.jsonl") if record["kind"] == "epoch")

    moments = random.Random(os.environ.get("PYTEST_RANDOM_SEED", 0))
    kills, arguments = 0, (*OPTIONS, "--out", parts)
    for _ in range(40):
        process = subprocess.Popen(
            command(*arguments), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if kills < 3:
            # Wait for a checkpoint or two, of twelve, then for a random part of the time to the next: moments counted in the
            # run's own progress come before its end however fast or slow the machine is just then.
            wait_for(parts / "config.json", process)
            for _ in range(moments.randint(1, 2)):
                wait_for_change(parts, process)
            time.sleep(moments.uniform(0, seconds / 12))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors
        kills += process.returncode == -signal.SIGKILL
        arguments = ("--resume", parts)
        if process.returncode == 0:
            break
    assert kills >= 2, "the run was over before it could be killed twice"
    for name in ("model.safetensors", "best.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert timeless(parts) == timeless(whole)
    assert not list(parts.glob("*.damaged")) and checkpoint.latest(parts) is not None


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def wait_for_change(folder, process):
    before = [path.name for path in checkpoint.find(folder)]
    while [path.name for path in checkpoint.find(folder)] == before and process.poll() is None:
        time.sleep(0.005)


def timeless(folder):
    """The record without what the clock wrote into it."""
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "images_per_second", "load", "tta_seconds")}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_that_is_closed(tmp_path, environment):
    """The window is closed during a run with a live bar: it saves a checkpoint, and goes on from there."""
    import pty
    import select

    run = tmp_path / "run"
    child, terminal = pty.fork()
    if not child:  # with the pseudo-terminal as its own: closing it sends SIGHUP
        os.environ.update(environment, TERM="xterm")
        options = "--limit 192 --batch-size 8 --epochs 500 --checkpoint-steps 8 --threads 1".split()
        os.execv(sys.executable, command(*options, "--out", run))
    deadline = time.monotonic() + 120
    while not checkpoint.find(run) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    state = checkpoint.load(checkpoint.latest(run))
    assert state["step"] >= 8 and len(read_metrics(run / "metrics.jsonl")) >= state["records"]
    assert not list(run.glob(".*.tmp*"))
