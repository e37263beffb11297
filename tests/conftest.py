"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, at any speed: a run that failed must fail again, and a slow machine is no failure.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of golden tensors; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("ULTRAFLASH_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not (folder / "golden.json").is_file():
        pytest.skip("no golden tensors here; point ULTRAFLASH_GOLDEN at them")
    return folder
