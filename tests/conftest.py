"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, at any speed: a run that failed must fail again, and a slow machine is no failure.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parents[1]
# What a machine of CI may lack; programs are installed there, so that no test is left out unseen.
MAY_LACK = re.compile(
    r"'ray'|SQLite file|\bGPU\b|tensor cores|VNNI|AVX2|golden tensors|one file system|needs root|kept apart"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true in the environment a test that is skipped for want of a program has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        *_, reason = report.longrepr if isinstance(report.longrepr, tuple) else (str(report.longrepr),)
        if not MAY_LACK.search(reason):
            report.outcome = "failed"
            report.longrepr = f"{reason}, which is a failure in CI"
    return report


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of golden tensors; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("ULTRAFLASH_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not (folder / "golden.json").is_file():
        pytest.skip("no golden tensors here; point ULTRAFLASH_GOLDEN at them")
    return folder
