"""The stand-in for CuPy, for the tests of this folder."""

import pytest

from tests.fake_cupy import installer


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Puts a stand-in (or an import error) in CuPy's place."""
    yield from installer(monkeypatch, tmp_path)
