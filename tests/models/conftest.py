"""Fixtures of the tests of models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "rig"))

from tiny_official import Official, write_official

from ultraflash.models.sources import HOME_VARIABLE


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    """A tiny cascade in official files."""
    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture
def official_home(official: Official, monkeypatch: pytest.MonkeyPatch) -> Official:
    """`official`, with its files where sources are looked for."""
    monkeypatch.setenv(HOME_VARIABLE, str(official.home))
    return official
