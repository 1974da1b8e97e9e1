"""What the device suite starts besides: the kernels' tests, whose outcomes are kept whatever happens, and sanitizers."""

import json
import textwrap

import pytest

from benchmarks.bench import ROOT
from benchmarks.device_suite import reporter, sanitizer, testing
from benchmarks.device_suite.store import Store
from benchmarks.device_suite.work import Deadline, Missing, Suite, Unfinished
from tests.benchmarks.test_device_suite import Nothing


@pytest.fixture
def suite(tmp_path):
    return Suite(Nothing(), Store(tmp_path, "cuda", False), False)


@pytest.fixture
def test_file(monkeypatch, suite, tmp_path):
    """``write(text)`` makes a file of tests, and gives what runs it."""
    monkeypatch.setattr(testing, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--device')\n", encoding="utf-8")

    def write(text):
        (tmp_path / "test_it.py").write_text(textwrap.dedent(text), encoding="utf-8")
        return testing.tests_of(suite, "test_it.py")

    return write


def counts(entry):
    return [entry[name] for name in ("passed", "failed", "skipped", "crashed")]


def test_outcomes_are_kept_whatever_happens(test_file):
    """Tests that pass, fail, are skipped, end the process and break the GPU."""
    found = test_file("""
        import os, pytest
        broken = []
        def test_a(): pass
        def test_b(): assert 1 + 1 == 3, "sums are off"
        def test_c(): pytest.skip("not today")
        def test_d(): os._exit(11)
        def test_e():
            broken.append(1)
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        def test_f(): assert not broken, "in the process whose GPU is broken"
    """)(Deadline(120))
    assert counts(found) == [2, 2, 1, 1]
    said = {bad["id"]: (bad["outcome"], "\n".join(bad["lines"])) for bad in found["bad"]}
    assert "sums are off" in said["test_it.py::test_b"][1] and said["test_it.py::test_d"] == ("crashed", "")


def test_a_file_that_is_out_of_time_goes_on_later(test_file):
    with pytest.raises(Unfinished) as caught:
        test_file("import time\ndef test_a(): time.sleep(60)\ndef test_b(): pass")(Deadline(0))
    assert counts(caught.value.entry) == [0, 0, 0, 0]
    assert counts(test_file("def test_a(): pass\ndef test_b(): pass")(Deadline(120))) == [2, 0, 0, 0]


def test_a_file_that_cannot_be_read_has_failed(test_file):
    with pytest.raises(RuntimeError, match="(?s)pytest ended with status 2: .*No module named 'nothing'"):
        test_file("import nothing")(Deadline(120))


def test_a_test_that_hangs_is_not_tried_for_ever(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(json.dumps({"id": name, "outcome": "crashed", "began": began}) + "\n"
                            for name, began in (("hung", 0.0), ("short", 4e9))) + '{"id": "cut', encoding="utf-8")  # fmt: skip
    reporter.interrupted(path)
    assert list(reporter.read(path)) == ["hung"]


def test_a_sanitizers_report(monkeypatch, suite):
    said = """exercised 12 launches, 1 raised, 0 left for lack of time
relu cuda float32 even: ValueError: no
========= Invalid __global__ write of size 4 bytes
=========     at conv+0x1c0 in conv.cu:120
========= ERROR SUMMARY: 3 errors
"""
    found = sanitizer.report(said, 0)
    assert found["errors"] == 3 and found["raised"] == ["relu cuda float32 even: ValueError: no"]
    assert "conv.cu:120" in found["report"][1]
    races = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert sanitizer.report("exercised 12 launches, 0 raised, 0 left\n" + races, 0)["errors"] == 0
    with pytest.raises(RuntimeError, match="ended with status 255 and no summary: Device not supported"):
        sanitizer.report("Device not supported", 255)
    monkeypatch.setattr(sanitizer, "find", lambda: None)
    with pytest.raises(Missing, match="compute-sanitizer is not found"):
        sanitizer.run_of(suite, "memcheck")(Deadline(9))
