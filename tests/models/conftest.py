"""Fixtures of the tests of models."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "rig"))

from small_cascade import small_cascade, small_preset
from tiny_official import Official, write_official

from ultraflash.models.cascade import Cascade
from ultraflash.models.preset import Preset
from ultraflash.models.sources import HOME_VARIABLE
from ultraflash.models.text import MiniLMEncoder


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    """A tiny cascade in official files."""
    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture
def official_home(official: Official, monkeypatch: pytest.MonkeyPatch) -> Official:
    """`official`, with its files where sources are looked for."""
    monkeypatch.setenv(HOME_VARIABLE, str(official.home))
    return official


@pytest.fixture(scope="session")
def preset() -> Preset:
    """That of small networks over small grids."""
    return small_preset()


@pytest.fixture(scope="session")
def build() -> Callable[..., Cascade]:
    """Makes a fresh cascade of a preset; see `small_cascade`."""
    return functools.partial(small_cascade, text=MiniLMEncoder())


@pytest.fixture(scope="session")
def cascade(build: Callable[..., Cascade], preset: Preset) -> Cascade:
    """A cascade of `preset` that tests share: it holds weights only."""
    return build(preset)
