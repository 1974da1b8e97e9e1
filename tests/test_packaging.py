"""The package as it is built and installed: what a checkout hides and a wheel shows."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minidl
from tests.sources import KERNELS, MINIDL, ROOT

PYPROJECT = ROOT / "pyproject.toml"
IN_CHECKOUT = (ROOT / "minidl").is_dir()

pytestmark = pytest.mark.skipif(not PYPROJECT.is_file(), reason="pyproject.toml is not beside the tests")


def project() -> dict:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))


def folders_with_code(folder: Path, package: str) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        found.add(".".join([package, *path.parent.relative_to(folder).parts]))
    return found


def test_the_package_list_equals_the_folders() -> None:
    """A sub-package that is missing from the list works in a checkout and is silently absent from the wheel."""
    listed = project()["tool"]["setuptools"]["packages"]
    on_disk = folders_with_code(MINIDL, "minidl") | folders_with_code(KERNELS, "minidl.kernels")
    assert listed == sorted(listed), "keep [tool.setuptools] packages sorted"
    assert set(listed) == on_disk, "put every folder that holds Python files in [tool.setuptools] packages"


def test_every_package_is_a_package() -> None:
    """A folder without __init__.py imports in a checkout as a namespace and not everywhere else."""
    for name in project()["tool"]["setuptools"]["packages"]:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, f"{name} has no __init__.py"


def test_the_console_script_exists() -> None:
    target = project()["project"]["scripts"]["minidl"]
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_files_that_are_no_code_are_installed_too() -> None:
    """Recipes and the like are read at run time; a pattern of package-data must name each of them."""
    data = project()["tool"]["setuptools"]["package-data"]
    for package, folder, inside in (("minidl", MINIDL, KERNELS), ("minidl.kernels", KERNELS, None)):  # where it is installed
        named = {path for pattern in data[package] for path in folder.glob(pattern)}
        files = {path for path in folder.rglob("*.*") if inside not in path.parents and path.parent.name != "__pycache__"}
        assert {path for path in files if path.is_file() and path.suffix != ".py"} == named


def test_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", minidl.__version__)
    assert project()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "minidl.__version__"}


@pytest.mark.skipif(not IN_CHECKOUT, reason="only a checkout has kernels/ beside minidl/")
def test_a_checkout_works_without_being_installed(tmp_path) -> None:
    shutil.copytree(MINIDL, tmp_path / "minidl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(KERNELS, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import minidl.kernels, sys; print(minidl.kernels.__file__); sys.exit('kernels' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()) == tmp_path / "kernels" / "__init__.py"


@pytest.mark.skipif(not IN_CHECKOUT, reason="an installed package has no top-level kernels folder")
def test_kernels_under_another_name_refuse_to_be_imported() -> None:
    """A second copy under the name `kernels` would be a second registry."""
    run = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode != 0 and "ImportError" in run.stderr and "minidl.kernels" in run.stderr, run.stderr


@pytest.mark.skipif(not IN_CHECKOUT, reason="the project's own files are not beside the tests")
def test_no_file_chooses_a_package_index() -> None:
    """Which index pip uses is the user's setting; a lock file would name one too."""
    for pattern in ("requirements*.txt", "pyproject.toml", "README.md", "CONTRIBUTING.md", ".ci/*"):
        for path in ROOT.glob(pattern):
            assert "index-url" not in path.read_text(encoding="utf-8"), path
    assert not list(ROOT.glob("*.lock"))
