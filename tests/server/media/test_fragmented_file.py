"""A growing MP4 can be played whenever its writer is killed, and is a plain one at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from ultraflash.server.media.boxes import VideoTrack
from ultraflash.server.media.fragmented_file import FragmentedFile, cut, frames_in
from ultraflash.server.media.h264 import AccessUnit, H264Config, H264Encoder

WIDTH, HEIGHT, FPS = 224, 128, 16


@pytest.fixture(scope="module")
def stream() -> tuple[VideoTrack, list[AccessUnit]]:
    encoder = H264Encoder(H264Config.live(width=WIDTH, height=HEIGHT, fps=FPS))
    noise = np.random.default_rng(1)
    units: list[AccessUnit] = []
    for index in range(12):
        frame = noise.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        units += encoder.encode(frame, index, key=index in (0, 6))
    track = VideoTrack(width=WIDTH, height=HEIGHT, fps=FPS, parameter_sets=encoder.parameter_sets)
    return track, units


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def samples(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_the_file_can_be_played_after_each_frame_and_is_indexed_at_the_end(
    tmp_path: Path, stream: tuple[VideoTrack, list[AccessUnit]]
) -> None:
    track, units = stream
    file = FragmentedFile(tmp_path / "part.mp4", track)
    for count, unit in enumerate(units, 1):
        assert file.path.exists() == (count > 1)
        file.write(unit.data, key=unit.key)
        assert times(file.path) == [index / FPS for index in range(count)]
    growing = samples(file.path)
    file.finish()
    assert samples(file.path) == growing
    assert [entry.name for entry in tmp_path.iterdir()] == ["part.mp4"]
    with av.open(str(file.path)) as container:
        assert container.streams.video[0].frames == 12
        assert container.duration == 12 * 1_000_000 // FPS
    assert b"moof" not in file.path.read_bytes()


def test_a_frame_whose_writing_was_cut_short_is_not_there(
    tmp_path: Path, stream: tuple[VideoTrack, list[AccessUnit]]
) -> None:
    track, units = stream
    file = FragmentedFile(tmp_path / "part.mp4", track)
    for unit in units[:5]:
        file.write(unit.data, key=unit.key)
    before = file.path.stat().st_size
    file.write(units[5].data, key=False)
    whole = file.path.read_bytes()
    for written in (1, 7, 60, 500, len(whole) - before - 8):
        torn = tmp_path / f"torn-{written}.mp4"
        torn.write_bytes(whole[:before] + bytes(8) + whole[before + 8 : before + 8 + written])
        assert times(torn) == [index / FPS for index in range(5)]


def test_a_file_without_a_frame_never_was(
    tmp_path: Path, stream: tuple[VideoTrack, list[AccessUnit]]
) -> None:
    FragmentedFile(tmp_path / "part.mp4", stream[0]).finish()
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_writer_was_killed_is_gone_on_with_from_any_of_its_frames(
    tmp_path: Path, stream: tuple[VideoTrack, list[AccessUnit]]
) -> None:
    track, units = stream
    left = FragmentedFile(tmp_path / "left.mp4", track)
    for unit in units[:8]:
        left.write(unit.data, key=unit.key)
    whole = tmp_path / "whole.mp4"
    other = FragmentedFile(whole, track)
    for unit in units:
        other.write(unit.data, key=unit.key)
    other.finish()
    written = left.path.read_bytes()
    # A frame of which only the rest is there, as when the writer dies in the middle.
    torn = bytes(8) + bytes(range(100))
    for kept in (1, 6, 8):
        path = tmp_path / f"again-{kept}.mp4"
        path.write_bytes(written + torn)
        assert frames_in(path) == 8
        again = FragmentedFile.reopen(path, track, kept)
        assert again is not None
        assert again.frames == kept
        for unit in units[kept:]:
            again.write(unit.data, key=unit.key)
        assert times(path) == [index / FPS for index in range(12)]
        again.finish()
        assert samples(path) == samples(whole)
        assert path.read_bytes() == whole.read_bytes()


def test_a_file_that_lacks_frames_or_is_of_another_track_is_not_gone_on_with(
    tmp_path: Path, stream: tuple[VideoTrack, list[AccessUnit]]
) -> None:
    track, units = stream
    file = FragmentedFile(tmp_path / "part.mp4", track)
    for unit in units[:5]:
        file.write(unit.data, key=unit.key)
    assert FragmentedFile.reopen(file.path, track, 6) is None
    assert FragmentedFile.reopen(file.path, replace(track, fps=FPS + 1), 5) is None
    assert times(file.path) == [index / FPS for index in range(5)]
    cut(file.path, 3)
    assert times(file.path) == [index / FPS for index in range(3)]
    file.finish()
    assert frames_in(file.path) == 0
