"""The folder of the states of live streams belongs to one life of a server."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ultraflash.server import snapshot_folder
from ultraflash.server.settings import DataSettings
from ultraflash.server.snapshot_folder import SnapshotFolder, snapshot_root

ME = f"{socket.gethostname()}:{os.getpid()}:aa"
GONE = f"{socket.gethostname()}:{2**22 + 1}:bb"
ALIVE = f"{socket.gethostname()}:{os.getppid()}:cc"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_keeps_what_belongs_to_live_sessions_and_goes_with_its_server(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "root", ME)
    folder.open()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    for name in ("session_a.0", "session_a.1", "session_b.0"):
        (folder.path / name).write_bytes(b"")
    folder.keep_only({"session_b"})
    assert files(folder.path) == ["session_b.0"]
    folder.close()
    assert not (tmp_path / "root").exists()
    folder.keep_only(set())


def test_what_a_killed_server_has_left_is_adopted_or_removed_and_no_other(tmp_path: Path) -> None:
    for life in (GONE, ALIVE):
        left = SnapshotFolder(tmp_path, life)
        left.open()
        for name in ("session_a.0", "session_a.1", "session_b.0"):
            (left.path / name).write_text(life)
    folder = SnapshotFolder(tmp_path, ME)
    folder.open()
    folder.adopt("session_a", GONE)
    folder.adopt("session_z", GONE)
    assert folder.left_by_the_gone() == {"session_b"}
    folder.forget_the_gone({"session_b"})
    assert files(folder.path) == ["session_a.0", "session_a.1"]
    assert files(tmp_path) == sorted([ME, ALIVE])
    assert len(files(tmp_path / ALIVE)) == 3


def test_what_a_server_leaves_that_dies_meanwhile_or_another_one_is_fetching_is_not_removed(
    tmp_path: Path,
) -> None:
    left = SnapshotFolder(tmp_path, GONE)
    left.open()
    for name in ("session_a.0", "session_a.start", "session_b.0"):
        (left.path / name).touch()
    folder = SnapshotFolder(tmp_path, ME)
    folder.open()
    folder.forget_the_gone({"session_b"})
    assert files(left.path) == ["session_a.0", "session_a.start"]
    other = SnapshotFolder(tmp_path, ALIVE)
    other.open()
    other.adopt("session_a", GONE)
    other.forget_the_gone(())
    assert files(other.path) == ["session_a.0", "session_a.start"]
    assert GONE not in files(tmp_path)


def test_what_is_on_its_way_here_stays_though_its_session_is_not_among_the_live_ones_yet(
    tmp_path: Path,
) -> None:
    folder = SnapshotFolder(tmp_path, ME)
    folder.open()
    (folder.path / "session_a.0").touch()
    with folder.expecting("session_a"):
        folder.keep_only(())
        assert files(folder.path) == ["session_a.0"]
    folder.keep_only(())
    assert files(folder.path) == []


def test_by_default_it_is_in_memory_one_root_a_database_and_this_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_folder, "IN_MEMORY", tmp_path)
    mine = tmp_path / f"ultraflash-{os.geteuid()}"
    one, other = (snapshot_root(DataSettings(folder=tmp_path / name)) for name in ("one", "other"))
    assert one.parent == other.parent == mine
    assert one != other
    assert mine.stat().st_mode & 0o777 == 0o700
    mine.chmod(0o755)
    assert snapshot_root(DataSettings(folder=tmp_path / "one")).parent == tmp_path / "one" / "streams"
    mine.rmdir()
    mine.symlink_to(tmp_path / "elsewhere")
    assert snapshot_root(DataSettings(folder=tmp_path / "one")).parent == tmp_path / "one" / "streams"
    chosen = DataSettings(folder=tmp_path, snapshots=tmp_path / "chosen")
    assert snapshot_root(chosen) == tmp_path / "chosen"
