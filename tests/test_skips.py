"""In CI a test that lacks a program fails, and one that lacks a GPU does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import shutil
import pytest

@pytest.mark.skipif(True, reason="needs a GPU that PyTorch can use")
def test_hardware(): ...

@pytest.mark.skipif(shutil.which("no-such-program") is None, reason="needs the command no-such-program")
def test_mark(): ...

@pytest.fixture
def program():
    pytest.skip("no no-such-program here")

def test_fixture(program): ...

def test_body():
    pytest.importorskip("no_such_package")

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [({}, "4 skipped, 1 xfailed"), ({"CI": "true"}, "1 failed, 1 skipped, 1 xfailed, 2 errors")],
    ids=["at home", "in CI"],
)
def test_what_is_not_installed_is_a_failure_in_ci_alone(
    tmp_path: Path, environment: dict[str, str], outcome: str
) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:playwright",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert f"= {outcome} in" in done.stdout, done.stdout + done.stderr
    assert ("which is a failure in CI" in done.stdout) == bool(environment)
