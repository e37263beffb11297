"""Folders of attempts: what a dead server left is found again, what nobody wants goes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ultraflash.server.jobs.work_folders import WorkFolders
from ultraflash.server.worker.job_checkpoint import CHECKPOINT

ME = f"{socket.gethostname()}:{os.getpid()}:me"
GONE = f"{socket.gethostname()}:{os.getpid()}:before"


def attempt(folder: Path, *, checkpoint: str | None = None) -> None:
    folder.mkdir(parents=True)
    if checkpoint is not None:
        (folder / CHECKPOINT).write_text(checkpoint)


def test_an_attempt_begins_in_an_empty_folder_with_the_one_before_beside_it(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path, ME)
    folder, before = folders.prepare("video_1")
    assert (list(folder.iterdir()), before) == ([], None)
    (folder / CHECKPOINT).write_text("first")
    again, before = folders.prepare("video_1")
    assert (again, list(again.iterdir())) == (folder, [])
    assert before is not None
    assert (before / CHECKPOINT).read_text() == "first"


def test_an_attempt_without_a_checkpoint_does_not_replace_one_with(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path, ME)
    folder, _ = folders.prepare("video_1")
    (folder / CHECKPOINT).write_text("first")
    folders.prepare("video_1")
    _, before = folders.prepare("video_1")
    assert before is not None
    assert (before / CHECKPOINT).read_text() == "first"
    folders.remove("video_1")
    assert list((tmp_path / ME).iterdir()) == []


def test_attempts_of_a_server_that_is_gone_are_taken_over(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path, ME)
    alive = f"{socket.gethostname()}:{os.getppid()}:alive"
    for owner in (GONE, alive, "elsewhere:1:aa"):
        attempt(tmp_path / owner / "video_1", checkpoint=owner)
        attempt(tmp_path / owner / "video_over", checkpoint=owner)
    folders.tidy(lambda job_id: job_id == "video_1")
    assert {folder.name for folder in tmp_path.iterdir()} == {ME, alive, "elsewhere:1:aa"}
    assert [folder.name for folder in (tmp_path / ME).iterdir()] == ["video_1"]
    _, before = folders.prepare("video_1")
    assert before is not None
    assert (before / CHECKPOINT).read_text() == GONE
