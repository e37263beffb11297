"""What a job needs to go on after its worker has died: the encoded frames so far, and the engine's stream behind them.

A folder holds a journal, to which every encoded frame is appended, and a checkpoint, which is replaced as a whole and
says how much of the journal belongs to it.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from ultraflash.server.media.h264 import AccessUnit

log = logging.getLogger(__name__)

JOURNAL = "journal"
CHECKPOINT = "checkpoint"
_RECORD = struct.Struct(">IB")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStream:
    """A stream between two groups.

    Attributes:
        state: the engine's, as it keeps it.
        frames: frames made so far.
        cues_shown: prompts given to the engine so far.
    """

    state: bytes
    frames: int
    cues_shown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A stream, and where its encoded frames are."""

    kept: KeptStream
    journal: Path

    def units(self) -> Iterator[AccessUnit]:
        """The encoded frames up to the checkpoint."""
        from ultraflash.server.media.h264 import AccessUnit

        with self.journal.open("rb") as file:
            for index in range(self.kept.frames):
                length, key = _RECORD.unpack(file.read(_RECORD.size))
                yield AccessUnit(data=file.read(length), key=bool(key), index=index)


class JobJournal:
    """Writes both files into a folder of its own; used as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal: IO[bytes] = (folder / JOURNAL).open("wb")

    def __enter__(self) -> JobJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def write(self, unit: AccessUnit) -> None:
        """Appends an encoded frame."""
        self._journal.write(_RECORD.pack(len(unit.data), unit.key) + unit.data)

    def keep(self, kept: KeptStream) -> None:
        """Makes a checkpoint; all frames of the stream have been written."""
        self._journal.flush()
        os.fsync(self._journal.fileno())
        fields = [kept.state, kept.frames, kept.cues_shown, self._journal.tell()]
        part = self._folder / f"{CHECKPOINT}.part"
        with part.open("wb") as file:
            file.write(msgpack.packb(fields))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._folder / CHECKPOINT)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in a folder; None where there is none, or none that can be used."""
    try:
        state, frames, cues_shown, journal_bytes = msgpack.unpackb((folder / CHECKPOINT).read_bytes())
        journal = folder / JOURNAL
        if _end_of_frame(journal, frames) != journal_bytes:
            raise ValueError("the journal does not belong to it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
        log.warning("the checkpoint in %s cannot be used: %s", folder, error)
        return None
    return Checkpoint(kept=KeptStream(state=state, frames=frames, cues_shown=cues_shown), journal=journal)


def _end_of_frame(journal: Path, frames: int) -> int:
    """Offset behind so many frames, all of which are there. Raises ``struct.error`` or ``ValueError``."""
    size = journal.stat().st_size
    with journal.open("rb") as file:
        for _ in range(frames):
            length, _ = _RECORD.unpack(file.read(_RECORD.size))
            if file.seek(length, os.SEEK_CUR) > size:
                raise ValueError("the journal is too short")
        return file.tell()
