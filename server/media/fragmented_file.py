"""An MP4 file that grows and can be played at any moment, whatever happens to the process that writes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ultraflash.server.media.boxes import VideoTrack
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
        self._hidden = path.with_name(f".{path.name}.part")
        self._file = os.open(self._hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._end = os.pwrite(self._file, init_segment(track), 0)

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
