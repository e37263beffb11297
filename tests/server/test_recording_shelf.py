"""Recordings go when they are old or too many, the oldest first, and never while they are written."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ultraflash.server.recording_shelf import SILENT_S, RecordingShelf

NOW = 2_000_000_000.0


def recording(root: Path, name: str, *, age_s: float, size: int = 1000, state: str = "stopped") -> Path:
    """A recording whose files have ``size`` bytes together."""
    folder = root / f"session_{name}"
    folder.mkdir(parents=True)
    note = json.dumps({"state": state})
    (folder / "session.json").write_text(note)
    (folder / "part-000.mp4").write_bytes(bytes(size - len(note)))
    for file in folder.iterdir():
        os.utime(file, (NOW - age_s, NOW - age_s))
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Callable[..., RecordingShelf]:
    def of(quota_bytes: int = 10_000, *in_use: str) -> RecordingShelf:
        return RecordingShelf(
            tmp_path,
            quota_bytes=quota_bytes,
            expire_after_s=3600,
            in_use=lambda session_id: session_id in in_use,
            clock=lambda: NOW,
        )

    return of


def names(root: Path) -> list[str]:
    return sorted(folder.name.removeprefix("session_") for folder in root.iterdir())


def test_what_is_older_than_it_may_be_goes(tmp_path: Path, shelf: Callable[..., RecordingShelf]) -> None:
    recording(tmp_path, "a", age_s=3700)
    recording(tmp_path, "b", age_s=3500)
    assert shelf().tidy() == 0
    assert names(tmp_path) == ["b"]


def test_one_that_another_server_has_removed_meanwhile_is_none(
    tmp_path: Path, shelf: Callable[..., RecordingShelf]
) -> None:
    recording(tmp_path, "a", age_s=3700)
    # Listed, and not there when it is looked into.
    (tmp_path / "session_0").symlink_to(tmp_path / "nothing")
    assert shelf().tidy() == 0
    assert names(tmp_path) == ["0"]


def test_the_oldest_go_until_the_rest_fits(tmp_path: Path, shelf: Callable[..., RecordingShelf]) -> None:
    for name, age_s in (("a", 10), ("b", 40), ("c", 20), ("d", 30)):
        recording(tmp_path, name, age_s=age_s)
    assert shelf(2500).tidy() == 0
    assert names(tmp_path) == ["a", "c"]
    assert shelf(2500).tidy() == 0
    assert names(tmp_path) == ["a", "c"]


def test_what_is_in_use_stays_and_the_excess_is_told(
    tmp_path: Path, shelf: Callable[..., RecordingShelf]
) -> None:
    recording(tmp_path, "a", age_s=5000, size=3000)
    recording(tmp_path, "b", age_s=10)
    assert shelf(1000, "session_a").tidy() == 2000
    assert names(tmp_path) == ["a"]


def test_another_server_s_recording_stays_until_it_has_been_silent_for_long(
    tmp_path: Path, shelf: Callable[..., RecordingShelf]
) -> None:
    recording(tmp_path, "a", age_s=SILENT_S - 10, state="recording")
    recording(tmp_path, "b", age_s=SILENT_S + 10, state="recording")
    assert shelf(0).tidy() == 1000
    assert names(tmp_path) == ["a"]


def test_other_folders_are_left_alone(tmp_path: Path, shelf: Callable[..., RecordingShelf]) -> None:
    (tmp_path / "notes").mkdir()
    shelf(0).tidy()
    assert names(tmp_path) == ["notes"]


async def test_a_server_removes_old_recordings_and_ends_one_that_takes_all_the_room(
    start_server: Any,
) -> None:
    server = start_server(data__recordings_quota_bytes=1000)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start("noise", record=True, max_frames=40)
        done = await client.until("session.done")
    folder = server.data / "sessions" / started["session_id"]
    assert len(done["recording"]) == 1 and folder.exists()
    await asyncio.to_thread(server.stop)
    # It is tidied at the start, and every half minute.
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.wait_for, lambda: not folder.exists(), "tidying")
    status, body = server.get(done["recording"][0])
    assert (status, body["error"]["code"]) == (404, "unknown_session")
    await asyncio.to_thread(server.wait_until_ready)
    async with server.client() as client:
        started = await client.start("noise", record=True)
        await client.step_until(lambda: "no more room" in server.output(), "line of the log")
        # The stream goes on without being recorded.
        await client.until_frame(client.media[-1][0].seq + 40)
        await client.send("session.stop")
        done = await client.until("session.done")
    log = json.loads((server.data / "sessions" / started["session_id"] / "session.json").read_text())
    assert 0 < sum(part["frames"] for part in log["parts"]) < done["frames"]
