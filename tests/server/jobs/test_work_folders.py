"""Folders of attempts: what a dead server left is found again, what nobody wants goes."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ultraflash.server.jobs.tails import Tails
from ultraflash.server.jobs.work_folders import WorkFolders
from ultraflash.server.worker.job_checkpoint import CHECKPOINT, JOURNAL

ME = f"{socket.gethostname()}:{os.getpid()}:me"
GONE = f"{socket.gethostname()}:{os.getpid()}:before"


def attempt(folder: Path, *, checkpoint: str | None = None) -> None:
    folder.mkdir(parents=True)
    if checkpoint is not None:
        (folder / CHECKPOINT).write_text(checkpoint)


def test_an_attempt_begins_in_an_empty_folder_with_the_one_before_beside_it(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work", ME, Tails(tmp_path / "tails"))
    folder, before = folders.prepare("video_1", None)
    assert (list(folder.iterdir()), before) == ([], None)
    (folder / CHECKPOINT).write_text("first")
    again, before = folders.prepare("video_1", None)
    assert (again, list(again.iterdir())) == (folder, [])
    assert before is not None
    assert (before / CHECKPOINT).read_text() == "first"


def test_an_attempt_without_a_checkpoint_does_not_replace_one_with(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work", ME, Tails(tmp_path / "tails"))
    folder, _ = folders.prepare("video_1", None)
    (folder / CHECKPOINT).write_text("first")
    folders.prepare("video_1", None)
    _, before = folders.prepare("video_1", None)
    assert before is not None
    assert (before / CHECKPOINT).read_text() == "first"
    folders.remove("video_1")
    assert list((tmp_path / "work" / ME).iterdir()) == []


def test_attempts_of_a_server_that_is_gone_are_taken_over(tmp_path: Path) -> None:
    folders = WorkFolders(tmp_path / "work", ME, Tails(tmp_path / "tails"))
    alive = f"{socket.gethostname()}:{os.getppid()}:alive"
    for owner in (GONE, alive, "elsewhere:1:aa"):
        attempt(tmp_path / "work" / owner / "video_1", checkpoint=owner)
        attempt(tmp_path / "work" / owner / "video_over", checkpoint=owner)
    folders.tidy(lambda job_id: job_id == "video_1")
    assert {folder.name for folder in (tmp_path / "work").iterdir()} == {ME, alive, "elsewhere:1:aa"}
    assert [folder.name for folder in (tmp_path / "work" / ME).iterdir()] == ["video_1"]
    _, before = folders.prepare("video_1", None)
    assert before is not None
    assert (before / CHECKPOINT).read_text() == GONE


def test_two_servers_that_are_left_share_the_attempts_of_a_third(tmp_path: Path) -> None:
    root, jobs = tmp_path / "work", [f"video_{number}" for number in range(300)]
    for job in jobs:
        attempt(root / GONE / job)
    # Names of this process would take each other for gone.
    left = [f"elsewhere:{number}:aa" for number in range(2)]
    with ThreadPoolExecutor() as pool:
        tidied = [
            pool.submit(WorkFolders(root, me, Tails(tmp_path / "tails")).tidy, jobs.__contains__)
            for me in left
        ]
    for one in tidied:
        one.result()
    taken = [folder.name for me in left for folder in (root / me).iterdir()]
    assert sorted(taken) == sorted(jobs)


def test_an_extension_goes_on_from_the_tail_of_its_source_even_when_that_is_deleted(tmp_path: Path) -> None:
    tails = Tails(tmp_path / "tails")
    folders = WorkFolders(tmp_path / "work", ME, tails)
    source, _ = folders.prepare("video_1", None)
    assert tails.coming_bytes(source) == 0
    tails.keep(source, "video_1")
    (source / JOURNAL).write_text("frames")
    (source / CHECKPOINT).write_text("stream")
    assert tails.coming_bytes(source) == len("frames" + "stream")
    tails.keep(source, "video_1")
    _, before = folders.prepare("video_2", "video_1")
    tails.remove("video_1")
    assert before is not None
    assert {file.name: file.read_text() for file in before.iterdir()} == {
        JOURNAL: "frames",
        CHECKPOINT: "stream",
    }
    assert folders.prepare("video_3", "video_1")[1] is None
