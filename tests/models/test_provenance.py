"""Where a number comes from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from ultraflash.models import provenance


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def commit_told_by(copy: Path) -> str:
    code = f"import runpy; print(runpy.run_path({str(copy)!r})['commit']())"
    return subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_result_names_commit_machine_and_versions() -> None:
    origin = provenance.provenance()
    assert origin["commit"]
    assert origin["machine"]["cpu"] and origin["machine"]["cores"] >= 1
    assert origin["versions"]["torch"] == torch.__version__


def test_the_commit_is_that_of_our_own_tree_and_not_of_a_repository_around_an_installed_package(
    tmp_path: Path,
) -> None:
    copy = tmp_path / "models" / "provenance.py"
    copy.parent.mkdir()
    shutil.copy(provenance.__file__, copy)
    git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("somebody's own")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-qm", "one")
    assert commit_told_by(copy) == "unknown"
    git(tmp_path, "add", "models")
    git(tmp_path, "commit", "-qm", "two")
    told = commit_told_by(copy)
    assert len(told) == 40
    (tmp_path / "other.txt").write_text("changed")
    assert commit_told_by(copy) == f"{told}+changes"
