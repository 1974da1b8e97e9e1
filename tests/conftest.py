"""Fixtures for every test: a fixed seed before it, and a failure if it leaves a switch changed or a thread running."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are shared out once: as many processes as cores, and then not as many threads again in each of them.
    # Set before NumPy is imported, since its BLAS reads them once.
    share = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MINIDL_NUM_THREADS"):
        os.environ.setdefault(variable, str(share))
if (ROOT / "minidl").is_dir():
    # Processes that tests start see the checkout, as the tests themselves do (pythonpath in pyproject.toml).
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

import minidl  # noqa: E402
from minidl import config  # noqa: E402
from minidl.kernels import registry  # noqa: E402

COMMON = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("local", max_examples=30, **COMMON)
# The same examples every time: a red CI is red again when it is looked into.
hypothesis.settings.register_profile("ci", max_examples=30, derandomize=True, database=None, print_blob=True, **COMMON)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

POOLS = ("minidl-pool", "pytest", "execnet")  # threads that live as long as the process, on purpose


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take a minute or more")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker per core for the whole suite; none, since they cost seconds to start, for a part of it."""
    if any(Path(arg).resolve() not in (ROOT, ROOT / "tests") for arg in config.args):
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="a minute or more; run with --slow"))


def switches() -> dict[str, object]:
    """Every switch a test could leave behind for the next one."""
    found = {name: switch.get() for name, switch in vars(config).items() if isinstance(switch, config.Switch)}
    environment = {name: value for name, value in os.environ.items() if name.startswith("MINIDL_")}
    return {**found, "kernel choice": registry._local.choice, "environment": environment, "NumPy errors": np.geterr()}


def stray_threads(before: set[threading.Thread]) -> list[str]:
    """Names of threads that were not there before and do not end within two seconds."""
    deadline = time.monotonic() + 2
    while True:
        stray = [t for t in threading.enumerate() if t not in before and not t.name.startswith(POOLS)]
        if not stray or time.monotonic() > deadline:
            return [thread.name for thread in stray]
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def leaves_no_trace():
    """Seeds every generator, then fails a test that leaves a switch changed, a thread running or the folder moved."""
    if hasattr(minidl, "manual_seed"):
        minidl.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before, threads, folder = switches(), set(threading.enumerate()), os.getcwd()
    yield
    after = switches()
    left = [f"{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]]
    if os.getcwd() != folder:
        left.append(f"working folder: {folder} before, {os.getcwd()} after")
        os.chdir(folder)
    left += [f"thread still running: {name}" for name in stray_threads(threads)]
    if left:
        pytest.fail("this test leaves state behind\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def torch():
    """PyTorch, single-threaded and deterministic; the test is skipped where it is not installed."""
    module = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[parity]')")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the original data sets: MINIDL_DATA, else ../shared/data; skipped where neither exists."""
    candidates = [os.environ.get("MINIDL_DATA"), ROOT.parent / "shared" / "data"]
    for candidate in candidates:
        if candidate and Path(candidate).is_dir():
            return Path(candidate).resolve()
    pytest.skip("no original data sets: set MINIDL_DATA to the folder that holds them")


@pytest.fixture(scope="session")
def real_data(data_root: Path):
    """`real_data("mnist")` is the path of one original data set; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        if not (data_root / name).exists():
            pytest.skip(f"{name} is not in {data_root}")
        return data_root / name

    return find
