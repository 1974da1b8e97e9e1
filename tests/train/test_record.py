import os
import subprocess
import sys

import pytest

from minidl.errors import CheckpointError, ConfigError
from minidl.io import checkpoint
from minidl.train.record import RunFolder, next_folder, read_config


def test_create_write_open_read(tmp_path):
    path = tmp_path / "deep" / "run"
    folder = RunFolder.create(path)
    folder.write_config({"options": {"lr": 0.1}})
    folder.close()
    folder = RunFolder.open(path)
    assert folder.read_config() == {"options": {"lr": 0.1}} == read_config(path)
    folder.close()


def test_a_used_folder_is_not_overwritten(tmp_path):
    folder = RunFolder.create(tmp_path)
    folder.write_config({})
    folder.close()
    with pytest.raises(ConfigError, match="already holds a run; continue it with `minidl train --resume"):
        RunFolder.create(tmp_path)


def test_open_what_is_not_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run folder \(it has no config.json\); `minidl train` prints"):
        RunFolder.open(tmp_path / "nowhere")
    folder = RunFolder.create(tmp_path / "a")
    folder.write_config({})
    folder.close()
    with pytest.raises(ConfigError, match="did you mean .*a"):
        RunFolder.open(tmp_path)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot create the run folder"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(CheckpointError, match="a part of this path is a file"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_damaged_config(tmp_path):
    for text in ("{", "[]", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="config.json is damaged"):
            read_config(tmp_path)


def test_checkpoints_two_kept_and_damaged_ones_set_aside(tmp_path):
    folder = RunFolder.create(tmp_path)
    assert folder.load_checkpoint() is None
    for step in (1, 2, 3):
        folder.save_checkpoint(step, {"step": step})
    assert [path.name for path in checkpoint.find(tmp_path)] == ["step-00000003.checkpoint", "step-00000002.checkpoint"]
    newest = tmp_path / checkpoint.filename(3)
    newest.write_bytes(newest.read_bytes()[:50])
    path, tree = folder.load_checkpoint()
    assert tree == {"step": 2} and path.name == "step-00000002.checkpoint"
    assert (tmp_path / "step-00000003.checkpoint.damaged").exists() and not newest.exists()
    folder.close()


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".step-00000001.checkpoint.1234abcd.minidl-tmp").write_bytes(b"half")
    RunFolder.create(tmp_path).close()
    assert os.listdir(tmp_path) == []


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    folder = RunFolder.create(tmp_path)
    code = "import sys; from minidl.train.record import RunFolder; RunFolder(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "another process is training in" in other.stderr
    folder.close()
    assert subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True).returncode == 0


def test_names_of_new_folders(tmp_path):
    assert next_folder(tmp_path / "runs", "a") == tmp_path / "runs" / "a-001"
    for name in ("a-001", "a-009", "a-b-123", "a-x", "b-400"):
        (tmp_path / name).mkdir()
    assert next_folder(tmp_path, "a") == tmp_path / "a-010"
