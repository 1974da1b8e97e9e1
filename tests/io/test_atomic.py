import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from minidl.errors import CheckpointError
from minidl.io.atomic import remove_leftovers, write_atomic
from tests.privileges import run_obeying


def run(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, [b"one", b"", memoryview(b"two")])
    assert path.read_bytes() == b"onetwo"
    write_atomic(path, [b"three"])
    assert path.read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:2]))
    write_atomic(tmp_path / "a", [b"abcdefg"])
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"abcdefg"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    write_atomic(path, [b"old"])

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError, match=r"write .*a: No space left on device; free some space.*nothing already"):
        write_atomic(path, [b"new"])
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_real_size_limit_leaves_the_old_file(tmp_path):
    """The system itself refuses the write here (RLIMIT_FSIZE), no monkeypatching."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    result = run(
        """
        import sys
        from minidl.errors import CheckpointError
        from minidl.io.atomic import write_atomic
        try:
            write_atomic(sys.argv[1], [b"x" * 1000] * 100)
        except CheckpointError as error:
            print(error)
        """,
        path,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        ),
    )
    assert "File too large" in result.stdout and "ulimit" in result.stdout, result.stderr
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_read_only_folder(tmp_path):
    code = "import sys; from minidl.io.atomic import write_atomic; write_atomic(sys.argv[1], [b'x'])"
    tmp_path.chmod(0o555)
    result = run_obeying("-c", code, str(tmp_path / "a"))
    tmp_path.chmod(0o755)
    assert "Permission denied; choose a folder that you may write to" in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="No such file or directory; create the folder first"):
        write_atomic(tmp_path / "missing" / "a", [b"x"])


def test_an_error_while_producing_the_bytes(tmp_path):
    def chunks():
        yield b"x"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomic(tmp_path / "a", chunks())
    assert os.listdir(tmp_path) == []


def test_kill_while_writing_leaves_a_whole_file(tmp_path):
    """A process that does nothing but save is killed: the file is always one that was saved whole."""
    path = tmp_path / "a"
    code = textwrap.dedent("""
        import sys
        from minidl.io.atomic import write_atomic
        k = 0
        while True:
            k += 1
            write_atomic(sys.argv[1], [bytes([k % 256]) * 65536] * 32)
            print(k, flush=True)
        """)
    leftovers = 0
    for delay in (0.0, 0.001, 0.004, 0.007, 0.011):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
        content = path.read_bytes()
        assert len(content) == 65536 * 32 and len(set(content)) == 1
        leftovers += len(os.listdir(tmp_path)) - 1
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a"], f"{leftovers} temporary files were left"
