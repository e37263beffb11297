"""Recordings on the disk: which of them go when they are old, or when together they take too much room."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ultraflash.server.logs import fields
from ultraflash.server.recording import IN_PROGRESS, LOG_NAME, SESSION_ID

log = logging.getLogger(__name__)

TIDY_EVERY_S = 30.0
# Another server that shares the folder writes to its recordings far more often than that.
SILENT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelved:
    """One recording: bytes of its files, and when the newest of them was changed, in Unix seconds."""

    folder: Path
    bytes: int
    changed_at: float


class RecordingShelf:
    """Blocking; called from threads.

    Args:
        folder: with one folder for each recorded session.
        quota_bytes: of all recordings together.
        expire_after_s: age from which a finished recording goes.
        in_use: whether a session of this server is being recorded.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quota_bytes: int,
        expire_after_s: float,
        in_use: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._expire_after_s = expire_after_s
        self._in_use = in_use
        self._clock = clock

    def tidy(self) -> int:
        """Removes what is too old, then the oldest ones until the rest fits; what is in use stays.

        Returns the bytes by which recordings in use alone are beyond the quota.
        """
        shelved = sorted(self._shelved(), key=lambda one: one.changed_at)
        excess = sum(one.bytes for one in shelved) - self._quota_bytes
        for one in shelved:
            expired = self._clock() - one.changed_at > self._expire_after_s
            if (expired or excess > 0) and not self._is_in_use(one):
                shutil.rmtree(one.folder, ignore_errors=True)
                excess -= one.bytes
                reason = "it has expired" if expired else "to make room"
                log.info("recording removed, %s", reason, extra=fields(session=one.folder.name))
        return max(excess, 0)

    def _shelved(self) -> list[Shelved]:
        if not self._folder.is_dir():
            return []
        shelved = []
        for entry in self._folder.iterdir():
            # Another server that shares the folder may have removed it by now.
            with suppress(FileNotFoundError):
                if SESSION_ID.fullmatch(entry.name):
                    shelved.append(_measured(entry))
        return shelved

    def _is_in_use(self, one: Shelved) -> bool:
        if self._in_use(one.folder.name):
            return True
        return self._clock() - one.changed_at < SILENT_S and _state(one.folder) == IN_PROGRESS


async def tidy_recordings(shelf: RecordingShelf, end_recordings: Callable[[], None]) -> None:
    """Tidies once; recordings in use that alone take too much room are ended."""
    if await asyncio.to_thread(shelf.tidy):
        end_recordings()


def _measured(folder: Path) -> Shelved:
    """Raises ``FileNotFoundError`` for a folder that is gone."""
    found = []
    for file in folder.iterdir():
        # It may have been a part of a file that is in its place by now.
        with suppress(FileNotFoundError):
            found.append(file.stat())
    newest = max(one.st_mtime for one in found or [folder.stat()])
    return Shelved(folder=folder, bytes=sum(one.st_size for one in found), changed_at=newest)


def _state(folder: Path) -> str:
    """State of a recording as its log has it; one without a log has only just begun."""
    try:
        return str(json.loads((folder / LOG_NAME).read_text(encoding="utf-8"))["state"])
    except FileNotFoundError:
        return IN_PROGRESS
