"""Plain MP4 files from encoded packets, which appear under their name only when they are complete."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from ultraflash.models.errors import BadConfig
from ultraflash.server.media.boxes import (
    TICKS_PER_FRAME,
    VideoTrack,
    box,
    full_box,
    movie_header,
    sample,
    track_box,
)

if TYPE_CHECKING:
    from ultraflash.server.media.h264 import AccessUnit

_MDAT_HEADER_BYTES = 16


class Mp4Writer:
    """Writes access units of one track; the index comes first in the file, so that playback can start early.

    Used as a context manager: leaving it normally puts the file in place with one rename, leaving it by an
    exception removes everything. Frames follow each other without gaps; decode order is display order.
    """

    def __init__(self, path: Path, track: VideoTrack) -> None:
        self._path = path
        self._track = track
        self._sizes: list[int] = []
        self._keys: list[int] = []
        self._payload: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by __exit__

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return len(self._sizes)

    def write(self, unit: AccessUnit) -> None:
        """Adds the next frame. Raises ``BadConfig`` when the first one is not a keyframe."""
        self.add(sample(unit.data), key=unit.key)

    def add(self, data: bytes, *, key: bool) -> None:
        """Adds the next frame as an MP4 sample, its units behind their lengths. Raises as ``write`` does."""
        if key:
            self._keys.append(self.frames)
        elif not self._sizes:
            raise BadConfig("An MP4 must begin with a keyframe.")
        self._payload.write(data)
        self._sizes.append(len(data))

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._payload:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._head())
                self._payload.seek(0)
                shutil.copyfileobj(self._payload, file, 1 << 20)
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise

    def _head(self) -> bytes:
        file_type = box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isom", b"iso2", b"avc1", b"mp41")
        offset = len(file_type) + len(self._movie(0)) + _MDAT_HEADER_BYTES
        large_size = struct.pack(">I4sQ", 1, b"mdat", _MDAT_HEADER_BYTES + sum(self._sizes))
        return file_type + self._movie(offset) + large_size

    def _movie(self, payload_offset: int) -> bytes:
        duration = self.frames * TICKS_PER_FRAME
        tables = sample_tables(self._sizes, self._keys, payload_offset)
        return box(b"moov", movie_header(self._track, duration), track_box(self._track, duration, tables))


def sample_tables(sizes: Sequence[int], keys: Sequence[int], payload_offset: int) -> bytes:
    """Tables of a track whose samples lie in one chunk at ``payload_offset``; ``keys`` are 0-based indices."""
    times = full_box(b"stts", 0, 0, struct.pack(">III", 1, len(sizes), TICKS_PER_FRAME))
    sync = full_box(b"stss", 0, 0, struct.pack(f">{len(keys) + 1}I", len(keys), *(key + 1 for key in keys)))
    chunk = full_box(b"stsc", 0, 0, struct.pack(">IIII", 1, 1, len(sizes), 1))
    lengths = full_box(b"stsz", 0, 0, struct.pack(f">{len(sizes) + 2}I", 0, len(sizes), *sizes))
    offset = full_box(b"co64", 0, 0, struct.pack(">IQ", 1, payload_offset))
    return times + sync + chunk + lengths + offset


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
