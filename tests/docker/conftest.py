"""Paths to what the tests of this folder read and drive."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The parser of Dockerfiles, a server with a quick engine, and the proxies in front of it.
sys.path += [str(ROOT / "docker"), str(ROOT / "tests" / "server" / "rig"), str(Path(__file__).parent / "rig")]


@pytest.fixture(scope="session")
def docker_dir() -> Path:
    """The folder of the images and their surroundings."""
    return ROOT / "docker"
