"""The examples in docstrings and in README.md, run as they stand."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest

import minidl
from tests.sources import ROOT, sources

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [source.module for source in sources() if ">>> " in source.text]


def run(examples: doctest.DocTest) -> None:
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=OPTIONS).run(examples, out=report.append)
    if results.failed:
        pytest.fail("".join(report), pytrace=False)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write a file
    module = importlib.import_module(name)
    for examples in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__):
        if examples.examples:
            minidl.manual_seed(0)
            run(examples)


def test_there_are_examples() -> None:
    """The finder finds: were the list above empty, nothing would be tested and nothing would say so."""
    assert len(WITH_EXAMPLES) > 5


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="README.md is not beside the tests")
def test_readme_examples(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(ROOT / "README.md"), 0)
    assert examples.examples
    minidl.manual_seed(0)
    run(examples)


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="README.md is not beside the tests")
def test_readme_has_the_two_commands() -> None:
    """One line each, complete on a machine that has only Python: the main job first, the tests last."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("python3 -m venv .venv && ")] == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/minidl train",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ]


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="README.md is not beside the tests")
def test_links_in_the_documentation_lead_somewhere() -> None:
    # build/ is what an installation leaves behind: copies of some pages, without what they link to.
    skipped = lambda part: part.startswith(".") or part == "build"
    pages = [path for path in ROOT.rglob("*.md") if not any(map(skipped, path.relative_to(ROOT).parts))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}, which does not exist"
