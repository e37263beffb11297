"""An MP4 file that grows and can be played at any moment, whatever happens to the process that writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ultraflash.server.media.boxes import SYNC_SAMPLE, VideoTrack
from ultraflash.server.media.fmp4 import fragment, init_segment
from ultraflash.server.media.mp4 import Mp4Writer

_BOX_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Where a frame's data lies in the file."""

    offset: int
    size: int
    key: bool


class FragmentedFile:
    """One fragment a frame while it grows, then replaced by a plain MP4 with an index.

    The file appears under its name with its first frame. A fragment's first bytes, which say that there is one, are
    written after the rest of it, so that a process that is killed in between leaves no torn frame behind: a box
    header of zeros means that nothing follows.
    """

    def __init__(self, path: Path, track: VideoTrack) -> None:
        self.path = path
        self.track = track
        self._samples: list[_Sample] = []
        self._hidden = _hidden(path)
        self._file = os.open(self._hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._end = os.pwrite(self._file, init_segment(track), 0)

    @classmethod
    def reopen(cls, path: Path, track: VideoTrack, frames: int) -> FragmentedFile | None:
        """Goes on behind the first ``frames`` frames, at least 1, of a file whose writer was killed.

        Returns:
            None where it is of another track, or has fewer frames. Raises ``OSError``.
        """
        init = init_segment(track)
        kept = list(_fragments(path))[:frames]
        with path.open("rb") as file:
            if not kept or len(kept) < frames or file.read(len(init)) != init:
                return None
        before = cls.__new__(cls)
        before.path, before.track, before._hidden = path, track, _hidden(path)
        before._samples = kept
        before._end = kept[-1].offset + kept[-1].size
        before._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(before._file, before._end)
        return before

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return len(self._samples)

    def write(self, access_unit: bytes, *, key: bool) -> None:
        """Adds the next frame, Annex-B. The first one must be a keyframe. Raises ``OSError``."""
        data = fragment(access_unit, index=self.frames, sequence=self.frames + 1, key=key)
        self._write_at(self._end + _BOX_HEADER_BYTES, data[_BOX_HEADER_BYTES:])
        self._write_at(self._end, data[:_BOX_HEADER_BYTES])
        lead = int.from_bytes(data[:4], "big") + _BOX_HEADER_BYTES
        self._samples.append(_Sample(offset=self._end + lead, size=len(data) - lead, key=key))
        self._end += len(data)
        if self.frames == 1:
            os.replace(self._hidden, self.path)

    def finish(self) -> None:
        """Puts a plain MP4 of the same frames in its place, with one rename. Raises ``OSError``."""
        try:
            if not self._samples:
                self._hidden.unlink()
                return
            with Mp4Writer(self.path, self.track) as writer:
                for one in self._samples:
                    writer.add(os.pread(self._file, one.size, one.offset), key=one.key)
        finally:
            os.close(self._file)

    def _write_at(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            offset, view = offset + written, view[written:]


def frames_in(path: Path) -> int:
    """Frames of a file whose writer was killed; 0 for one that was finished. Raises ``OSError``."""
    return sum(1 for _ in _fragments(path))


def cut(path: Path, frames: int) -> None:
    """Leaves only the first frames, at least 1, of a file whose writer was killed. Raises ``OSError``."""
    kept = list(_fragments(path))[:frames]
    if kept:
        os.truncate(path, kept[-1].offset + kept[-1].size)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _fragments(path: Path) -> Iterator[_Sample]:
    """The frames that are whole, in their order."""
    size = path.stat().st_size
    with path.open("rb") as file:
        key, start = False, 0
        while start + _BOX_HEADER_BYTES <= size:
            file.seek(start)
            header = file.read(_BOX_HEADER_BYTES)
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            if length < _BOX_HEADER_BYTES or start + length > size:
                return
            if kind == b"moof":
                # The flags of the one sample are the last thing in it.
                file.seek(start + length - 4)
                key = int.from_bytes(file.read(4), "big") == SYNC_SAMPLE
            elif kind == b"mdat":
                lead = _BOX_HEADER_BYTES
                yield _Sample(offset=start + lead, size=length - lead, key=key)
            start += length
