"""Videos in a folder and in another place that fsspec knows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest

from ultraflash.server.errors import DataUnusable, VideoGone
from ultraflash.server.jobs.artifacts import CHUNK_BYTES, ArtifactStore

if TYPE_CHECKING:
    from s3_server import Bucket

CONTENT = bytes(range(256)) * 4096


@pytest.fixture(params=["folder", "memory", "s3"])
def artifacts(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ArtifactStore:
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        return ArtifactStore(f"{bucket.url}/{tmp_path.name}")
    return ArtifactStore(str(tmp_path / "videos") if request.param == "folder" else "memory://videos")


def put(artifacts: ArtifactStore, tmp_path: Path, name: str = "video_1") -> int:
    file = tmp_path / "made.mp4"
    file.write_bytes(CONTENT)
    size = artifacts.put(file, name)
    assert not file.exists()
    return size


def test_a_video_is_moved_in_and_read_in_parts(artifacts: ArtifactStore, tmp_path: Path) -> None:
    assert put(artifacts, tmp_path) == artifacts.size("video_1") == len(CONTENT)
    assert b"".join(artifacts.read("video_1", 0, len(CONTENT))) == CONTENT
    pieces = list(artifacts.read("video_1", 100, CHUNK_BYTES + 50))
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, 50]
    assert b"".join(pieces) == CONTENT[100 : CHUNK_BYTES + 150]


def test_a_video_is_removed_once_or_twice(artifacts: ArtifactStore, tmp_path: Path) -> None:
    put(artifacts, tmp_path)
    artifacts.remove("video_1")
    artifacts.remove("video_1")
    with pytest.raises(VideoGone):
        artifacts.size("video_1")


def test_what_videos_start_from_is_kept_under_its_digest(artifacts: ArtifactStore, tmp_path: Path) -> None:
    frames, copy = tmp_path / "frames.npy", tmp_path / "copy.npy"
    for _ in range(2):
        frames.write_bytes(CONTENT)
        assert artifacts.put_reference(frames, "ab") == len(CONTENT)
    ((digest, changed_at),) = artifacts.references()
    assert (digest, changed_at > time.time() - 600) == ("ab", True)
    artifacts.fetch_reference("ab", copy)
    assert copy.read_bytes() == CONTENT
    for _ in range(2):
        artifacts.remove_reference("ab")
    assert artifacts.references() == []
    with pytest.raises(VideoGone):
        artifacts.fetch_reference("ab", copy)


def test_a_folder_on_another_file_system_is_filled_by_copy_and_rename(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system here")
    folder = other / f"ultraflash-{tmp_path.name}"
    artifacts = ArtifactStore(str(folder))
    try:
        put(artifacts, tmp_path)
        assert [file.name for file in folder.iterdir()] == ["video_1.mp4"]
    finally:
        fsspec.filesystem("file").rm(str(folder), recursive=True)


@pytest.mark.parametrize("url", ["nowhere://bucket/videos", "/proc/nothing/videos"])
def test_a_place_that_cannot_be_used_is_said_at_once(url: str) -> None:
    with pytest.raises(DataUnusable, match=r"data\.artifacts"):
        ArtifactStore(url)


def test_a_place_in_s3_without_credentials_is_said_at_once(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.environment["AWS_ENDPOINT_URL"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(DataUnusable, match="AWS_ACCESS_KEY_ID"):
        ArtifactStore(f"{bucket.url}/nobody")
