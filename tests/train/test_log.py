import errno
import os

import pytest

from minidl.errors import CheckpointError
from minidl.train.log import MetricsLog, read_metrics


def test_appends_and_reads_back(tmp_path):
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    log.append({"step": 1, "loss": 0.5})
    log.append({"step": 2, "loss": float("nan"), "more": [float("inf"), 1]})
    log.sync()
    assert log.count == 2
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "more": [None, 1]}]
    log.close()
    again = MetricsLog(path)
    again.append({"step": 3})
    again.close()
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "lo', b'{"step": 3}', b"\x00\x00\x00\x00", b'[3]\n{"step": 4}\n', b"\n"]
)
def test_a_torn_tail_is_dropped(tmp_path, tail):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail)
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    log = MetricsLog(path)
    log.append({"step": 3})
    log.close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step":3}\n'


@pytest.mark.parametrize("keep, left", [(0, []), (1, [1]), (2, [1, 2]), (7, [1, 2])])
def test_cut_back_to_a_checkpoint(tmp_path, keep, left):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    log = MetricsLog(path, keep)
    log.close()
    assert [record["step"] for record in read_metrics(path)] == left and log.count == len(left)


def test_a_full_disk_is_a_clear_error_and_keeps_what_is_there(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "m.jsonl")
    log.append({"step": 1})

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    real, log._file = log._file, Full()
    with pytest.raises(CheckpointError, match="cannot write .*m.jsonl: No space left on device; free some space"):
        log.append({"step": 2})
    real.close()
    assert read_metrics(log.path) == [{"step": 1}] and log.count == 1


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="create the folder first"):
        MetricsLog(tmp_path / "missing" / "m.jsonl")
