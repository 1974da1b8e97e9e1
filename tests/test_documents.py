"""The pages of docs/: what they say that commands print is what these print, and their examples run."""

from __future__ import annotations

import doctest

import pytest

import minidl
from tests.documents import BLOCK, DOCS, pages, renewed
from tests.sources import ROOT
from tests.test_doctests import run

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not beside the tests")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_print_what_the_page_says(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert renewed(text) == text, "write it anew with: python -m tests.documents"


def test_there_is_something_to_compare() -> None:
    blocks = [match["command"] for page in pages() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert "table alexnet --input 227" in blocks and "models --format markdown" in blocks
    assert renewed("a\n<!-- minidl models lenet5 -->\nold\n<!-- end -->\nb\n").count("61,706") == 1


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_examples(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(page.read_text(encoding="utf-8"), {}, page.name, str(page), 0)
    minidl.manual_seed(0)
    run(examples)


def test_the_readme_leads_here() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/{page.name}" in text for page in pages())
