"""The command line: what it prints, what it writes, and that every error is one line and exit code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from minidl.cli import cli
from minidl.io import checkpoint
from minidl.train.log import read_metrics

TINY = ("--limit", "64", "--batch-size", "16", "--epochs", "2", "--threads", "1")


def invoke(*arguments, **options):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], **options)


def fails(*arguments, code=2):
    """Run a command that must fail: its error, which must be one line."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert lines, result.output
    error = lines[-1]
    assert error.startswith("Error: "), result.stderr
    if not lines[0].startswith("Usage:"):  # click's own usage hint has three lines
        assert len(lines) == 1, result.stderr
    return error


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished tiny run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = invoke("train", *TINY, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


# ---- help and mistakes in the command itself


@pytest.mark.parametrize("command", [(), ("train",), ("eval",), ("predict",), ("table",), ("data",),
                                     ("data", "list"), ("data", "check"), ("data", "download"), ("gradcheck",),
                                     ("doctor",)])  # fmt: skip
def test_every_command_explains_itself(command):
    for flag in ("--help", "-h"):
        result = invoke(*command, flag)
        assert result.exit_code == 0 and "Usage:" in result.output


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['minidl', '--help']; import atexit\n"
        "atexit.register(lambda: print(sorted({'rich', 'numba', 'PIL', 'safetensors', 'scipy', 'cupy'} & set(sys.modules))))\n"
        "from minidl.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.rstrip().endswith("[]"), result.stdout


def test_python_m_minidl():
    result = subprocess.run([sys.executable, "-m", "minidl", "--version"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and re.fullmatch(r"minidl, version \d+\.\d+.*\n", result.stdout)


def test_unknown_options_commands_and_choices():
    assert "'--epoch'" in fails("train", "--epoch", "3") and "--epochs" in fails("train", "--epoch", "3")
    assert "trian" in fails("trian")
    assert "'cosin' is not one of 'constant', 'cosine'" in fails("train", "--schedule", "cosin")
    assert "'three' is not a valid int" in fails("train", "--epochs", "three")
    assert "Missing argument" in fails("eval")


@pytest.mark.parametrize("arguments, message", [
    (("--epochs", "0"), "epochs: expected a whole number of at least 1, got 0"),
    (("--lr", "nan"), "lr: expected a number above 0, got nan"),
    (("--model", "resnet21"), "resnet21"),
    (("--data", "cifar11"), "no data set is called 'cifar11'"),
    (("--data", "folder:/nowhere"), "/nowhere is not a folder"),
    (("--model-option", "depth"), "expected KEY=VALUE"),
    (("--model-option", "colour=3", "--limit", "64"), "colour"),
    (("--device", "tpu"), "device 'tpu'"),
    (("--resume", "nowhere"), "nowhere is not a run folder"),
    (("--resume", ".", "--lr", "0.1"), "--lr cannot be given with --resume"),
    (("--resume", ".", "--out", "x"), "--out cannot be given with --resume"),
    (("--image-size", "16"), "image_size: only folder:PATH is resized"),
    (("--data", "shapes10", "--data-file", "x.tar.gz"), "there is nothing to download"),
])  # fmt: skip
def test_train_says_what_is_wrong(arguments, message):
    assert message in fails("train", *arguments)
    assert not list(Path().glob("runs/*/*")), "a run that never began leaves nothing behind"


def test_missing_data_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "none"))
    assert "minidl data download cifar10" in fails("train", "--data", "cifar10")


# ---- train, eval, predict


def test_train_writes_the_record_and_says_what_next(trained):
    folder, output = trained
    assert sorted(os.listdir(folder))[:4] == ["best.safetensors", "config.json", "metrics.jsonl", "model.safetensors"]
    assert len(checkpoint.find(folder)) == 2
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["limit"] == 64 and config["options"]["seed"] == 0
    assert {"python", "minidl", "numpy"} <= set(config["machine"]["versions"])
    epochs = [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2]
    lines = output.splitlines()
    assert "train loss" in output and sum(line.split()[0] in ("1/2", "2/2") for line in lines) == 2
    last = lines[-1]
    assert "test accuracy" in last and f"{folder}/model.safetensors" in last and f"{folder}/metrics.jsonl" in last
    assert "minidl eval" in last
    assert "\x1b" not in output and "\r" not in output


def test_train_into_a_used_folder(trained):
    assert "already holds a run" in fails("train", *TINY, "--out", trained[0])


def test_resume_of_a_finished_run_changes_nothing(trained):
    folder, _ = trained
    before = (folder / "model.safetensors").read_bytes()
    result = invoke("train", "--resume", folder)
    assert result.exit_code == 0 and "finished" in result.output
    assert (folder / "model.safetensors").read_bytes() == before


def test_eval_agrees_with_the_record(trained):
    folder, _ = trained
    last = read_metrics(folder / "metrics.jsonl")[-1]
    for model in (folder, folder / "model.safetensors"):
        result = invoke("eval", model, "--limit", 64)
        assert result.exit_code == 0, result.output
        total = result.output.splitlines()[-1]
        assert (
            f"top-1 {last['test_accuracy']:.2%}" in total
            and f"loss {last['test_loss']:.4f}" in total
            and "top-5" in total
        )
    assert "circle" in result.output
    assert invoke("eval", folder, "--limit", 64, "-q").output.count("\n") == 1


def test_eval_on_data_that_do_not_fit(trained):
    assert "give --data a set that fits" in fails("eval", trained[0], "--data", "shapes20")


def test_predict(trained, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    Image.new("L", (8, 8), 100).save(tmp_path / "grey.png")
    result = invoke("predict", trained[0], tmp_path / "red.png", tmp_path / "grey.png", "--top", 4)
    assert result.exit_code == 0, result.output
    assert result.output.count("%") == 8 and "red.png" in result.output and "grey.png" in result.output
    shares = [float(text) for text in re.findall(r"([\d.]+)%", result.output)]
    assert shares[:4] == sorted(shares[:4], reverse=True)


def test_predict_on_what_is_no_picture(trained, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    assert "a.png" in fails("predict", trained[0], tmp_path / "a.png")
    assert "b.png" in fails("predict", trained[0], tmp_path / "b.png")


def test_damaged_model_files(trained, tmp_path):
    good = (trained[0] / "model.safetensors").read_bytes()
    path = tmp_path / "m.safetensors"
    path.write_bytes(good[:-10])
    assert "truncated, corrupt" in fails("eval", path)
    path.write_bytes(good[:-10] + bytes([good[-10] ^ 1]) + good[-9:])
    assert "does not match the checksum" in fails("eval", path)
    assert "there is no file" in fails("eval", tmp_path / "none.safetensors")
    assert "does not say of which net" in fails("eval", _plain_weights(tmp_path))
    assert "has no finished model" in fails("eval", tmp_path)


def _plain_weights(folder):
    import numpy as np

    from minidl.io.safetensors import save_file

    save_file({"w": np.zeros(3, "float32")}, folder / "plain.safetensors")
    return folder / "plain.safetensors"


def test_a_model_file_with_other_weights(trained, tmp_path):
    from minidl.io import safetensors

    arrays, metadata = safetensors.load_file(trained[0] / "model.safetensors")
    arrays.pop(sorted(arrays)[0])
    safetensors.save_file(arrays, tmp_path / "m.safetensors", metadata)
    assert "missing" in fails("eval", tmp_path / "m.safetensors")


def test_a_file_where_the_run_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot create the run folder" in fails("train", *TINY, "--out", tmp_path / "file" / "run")


def test_a_disk_that_is_full_from_the_start(tmp_path):
    """The system refuses files beyond 1 KiB: the run stops with one line, and what it wrote before is whole."""
    resource = pytest.importorskip("resource")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    result = subprocess.run(
        [sys.executable, "-B", "-m", "minidl", "train", *TINY, "--out", "run"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr and result.stderr.count("\n") == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["limit"] == 64
    assert not list((tmp_path / "run").glob(".*tmp")) and not checkpoint.find(tmp_path / "run")


def test_quiet_prints_nothing(tmp_path):
    result = invoke("train", *TINY, "--epochs", 1, "--out", tmp_path / "r", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-m", "minidl", "train", "--limit", "256", "--batch-size", "4", "--epochs", "3000",
                 "--threads", "1", "--out", "run"]  # fmt: skip
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not Path("run/metrics.jsonl").exists() or not Path("run/metrics.jsonl").stat().st_size:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert re.search(r"stopped after [\d,]+ steps .*minidl train --resume run\n", errors) and errors.count("\n") == 1
    assert checkpoint.latest("run") is not None


# ---- errors that nobody foresaw


def test_unforeseen_errors_are_one_line_and_debug_shows_them(monkeypatch):
    from minidl.train import recipes

    def broken(**options):
        raise ValueError("a mistake in minidl")

    monkeypatch.setattr(recipes, "resolve", broken)
    assert "internal error, ValueError: a mistake in minidl; run it again with --debug" in fails("train", code=1)
    for arguments in (("train", "--debug"), ("--debug", "train")):
        assert "Traceback" in invoke(*arguments).output


@pytest.mark.parametrize("error, code, message", [
    (PermissionError(13, "Permission denied", "/x"), 2, "the system refused /x: Permission denied"),
    (OSError(28, "No space left on device"), 2, "No space left on device"),
    (MemoryError("Unable to allocate 9 GiB"), 2, "out of memory .*smaller --batch-size"),
    (KeyboardInterrupt(), 130, "stopped"),
])  # fmt: skip
def test_errors_of_the_system(monkeypatch, error, code, message):
    from minidl.train import recipes

    def broken(**options):
        raise error

    monkeypatch.setattr(recipes, "resolve", broken)
    assert re.search(message, fails("train", code=code))


# ---- data, doctor


def test_data_list(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    result = invoke("data", "list")
    assert result.exit_code == 0
    assert re.search(r"shapes10 +yes +8,000 \+ 2,000", result.output)
    assert re.search(r"cifar10 +no .*minidl data download cifar10", result.output)


def test_data_check(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert invoke("data", "check").exit_code == 0
    assert "cifar10 is not here; get it with `minidl data download cifar10`" in fails("data", "check", "cifar10")
    assert "no data set is called 'cifar'" in fails("data", "check", "cifar")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    assert "cifar-10-python.tar.gz" in fails("data", "check")


def test_data_download_from_a_wrong_file(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"something else")
    error = fails("data", "download", "cifar10", "--data-file", tmp_path / "x.tar.gz", "--data-root", tmp_path / "root")
    assert "checksum" in error and not (tmp_path / "root").exists()
    assert "there is nothing to download" in fails("data", "download", "shapes10")


def test_doctor():
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for word in ("python", "numpy", "BLAS", "threads", "GPU", "kernels", "data shapes10", "run folders"):
        assert word in result.output


def test_what_the_last_tests_found_is_told(tmp_path):
    result = invoke("train", *TINY, "--epochs", 1, "--tta", "flip", "--train-error", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    last = result.output.splitlines()[-1]
    assert re.match(r"test accuracy [\d.]+% \([\d.]+% averaged over views: flip\), training error [\d.]+% after", last)
    assert [record["kind"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")][-2:] == ["epoch", "final"]
