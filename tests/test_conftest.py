"""The fixtures themselves: a test that leaves something behind must fail, and one that cleans up must not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sources import ROOT

TESTS = """
import os, threading
import minidl
from minidl import config

stop = threading.Event()


def test_turns_gradients_off(): config.grad_mode.set(False)
def test_starts_a_thread(): threading.Thread(target=stop.wait, daemon=True, name="forgotten").start()
def test_sets_the_environment(): os.environ["MINIDL_KERNELS"] = "conv2d=reference"
def test_leaves_the_folder(): os.chdir("..")


def test_cleans_up(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIDL_KERNELS", "conv2d=reference")
    with config.grad_mode(False):
        thread = threading.Thread(target=lambda: None)
        thread.start()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("leaky")
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (folder / "test_leaky.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MINIDL_"))}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("test_turns_gradients_off", "grad_mode: True before, False after"),
        ("test_starts_a_thread", "thread still running: forgotten"),
        ("test_sets_the_environment", "environment: {} before"),
        ("test_leaves_the_folder", "working folder: "),
    ],
)
def test_a_leak_fails_the_test_that_made_it(report: str, test: str, message: str) -> None:
    assert f"{test} ERROR" in report or f"ERROR test_leaky.py::{test}" in report, report
    assert message in report, report


def test_others_pass(report: str) -> None:
    assert "test_cleans_up ERROR" not in report and "test_cleans_up PASSED" in report, report
