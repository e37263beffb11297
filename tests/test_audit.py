"""The audit of dependencies; the database of holes itself is asked by ``make audit`` alone."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_audit_covers_what_the_package_installs(audit: ModuleType) -> None:
    pinned = audit.pinned()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    declared = {canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate()}
    assert declared <= set(pinned)
    # What those need in their turn, and extras of theirs.
    assert {"starlette", "httptools", "click", "numpy"} <= set(pinned)
    assert "ultraflash" not in pinned


def test_builds_of_ones_own_are_looked_up_as_the_version_that_they_are_of(audit: ModuleType) -> None:
    assert all("+" not in version for version in audit.pinned().values())


def test_a_database_that_cannot_be_reached_is_not_taken_for_a_clean_one(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = partial(audit.reachable, "http://127.0.0.1:9/")
    monkeypatch.setattr(audit, "reachable", closed)
    assert audit.main() == audit.UNAVAILABLE
    assert "not audited" in capsys.readouterr().err


def dependency(name: str, *holes: str) -> dict[str, object]:
    vulns = [{"id": hole, "fix_versions": ["2.0"]} for hole in holes]
    return {"name": name, "version": "1.0", "vulns": vulns}


UNKNOWN = {"name": "private", "skip_reason": "Dependency not found on PyPI"}


def test_holes_fail_and_are_named(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    report = {"dependencies": [dependency("good"), dependency("bad", "CVE-1"), UNKNOWN]}
    assert audit.verdict(report) == 1
    told = capsys.readouterr()
    assert "bad 1.0: CVE-1, fixed in 2.0" in told.out
    assert "2 of 3 packages" in told.out
    assert "private" in told.err


def test_packages_that_nobody_has_looked_up_are_not_taken_for_good_ones(audit: ModuleType) -> None:
    assert audit.verdict({"dependencies": [dependency("good")]}) == 0
    assert audit.verdict({"dependencies": [UNKNOWN]}) == audit.UNAVAILABLE
