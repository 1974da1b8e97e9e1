"""Fixtures of the vector kernels' tests."""
import pytest

from tests.kernels.cpu.guards import guard_bands


@pytest.fixture
def guarded(monkeypatch):
    """:func:`guard_bands` for one test."""
    return guard_bands(monkeypatch)
