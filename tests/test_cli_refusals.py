"""What cannot be read or written: folders, files, pictures.  One line says so, and nothing saved is lost."""

import pytest
from click.testing import CliRunner

from minidl.cli import cli
from minidl.io import checkpoint
from tests.privileges import run_obeying

TINY = ("--limit", "32", "--batch-size", "16", "--epochs", "1", "--threads", "1")


def refused(*arguments, cwd):
    """Run minidl as one who obeys permissions; it must fail with one line, which is returned."""
    result = run_obeying("-m", "minidl", *map(str, arguments), cwd=cwd)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]


@pytest.fixture
def run(tmp_path):
    """A finished run."""
    result = CliRunner().invoke(cli, ["train", *TINY, "--out", str(tmp_path / "run"), "-q"])
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    for arguments in ((), ("--out", "run")):
        assert "Permission denied; choose a folder that you may write to" in refused("train", *TINY, *arguments, cwd=folder)
    assert not list(folder.iterdir())


def test_a_run_folder_that_may_not_be_written(run):
    before = content(run)
    run.chmod(0o555)
    assert "Permission denied; choose a folder that you may write to" in refused("train", "--resume", run, cwd=run.parent)
    run.chmod(0o755)
    assert content(run) == before


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(run):
    """Going on from an older one, or from the beginning, would write over what the unreadable one continues."""
    before = content(run)
    newest = checkpoint.find(run)[0]
    newest.chmod(0o000)
    error = refused("train", "--resume", run, cwd=run.parent)
    assert f"cannot read {newest}: Permission denied; ask its owner" in error
    newest.chmod(0o644)
    assert content(run) == before


@pytest.mark.parametrize("name, command", [("model.safetensors", ("eval",)), ("config.json", ("train", "--resume"))])
def test_files_that_may_not_be_read(run, name, command):
    (run / name).chmod(0o000)
    assert f"cannot read {run / name}: Permission denied; ask its owner" in refused(*command, run, cwd=run.parent)


@pytest.fixture
def pictures(tmp_path):
    """Two classes of six pictures; one file is cut off, one is no picture."""
    from PIL import Image

    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(6):
            Image.new("RGB", (40, 40), (60 * label, 40 * k, 99)).save(tmp_path / "pets" / name / f"{k}.png")
    whole = (tmp_path / "pets" / "cats" / "3.png").read_bytes()
    (tmp_path / "pets" / "cats" / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "pets" / "dogs" / "none.jpg").write_bytes(b"no picture")
    return tmp_path / "pets"


def test_unreadable_pictures_stop_the_run_or_are_left_out_by_name(pictures, tmp_path):
    arguments = ["train", *TINY, "--data", f"folder:{pictures}", "--image-size", "16", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2 and "none.jpg: is not a readable image" in result.stderr
    assert "Repair or remove them" in result.stderr and result.stderr.count("\n") == 1
    result = CliRunner().invoke(cli, [*arguments, "--skip-unreadable"])
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("folder: left out 2 of 14 images") and "cut.png" in line and "none.jpg" in line
    assert "(10 training and 2 test images)" in result.stdout
    again = CliRunner().invoke(cli, ["train", "--resume", str(tmp_path / "run")])
    assert again.exit_code == 0 and "left out 2 of 14" in again.stderr
    tested = CliRunner().invoke(cli, ["eval", str(tmp_path / "run"), "--split", "train"])
    assert tested.exit_code == 2 and "none.jpg: is not a readable image" in tested.stderr
    tested = CliRunner().invoke(cli, ["eval", str(tmp_path / "run"), "--split", "train", "--skip-unreadable"])
    assert tested.exit_code == 0 and "left out 2 of 14" in tested.stderr and "(train, 10 images)" in tested.stdout


def test_leaving_out_is_for_folders(tmp_path):
    result = CliRunner().invoke(cli, ["train", *TINY, "--skip-unreadable", "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and "skip_unreadable: is for folder:PATH" in result.stderr
