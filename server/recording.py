"""Recordings: the packets of a session as MP4 files beside a log of how it came about.

A folder holds ``part-000.mp4`` and so on, a new part wherever the picture's size or the codec's parameters change, and
``session.json``. Files are written on a thread of their own, so that a slow disk never holds up a stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultraflash.server.access import Grant
from ultraflash.server.errors import RecordingFailed, RecordingNotReady, UnknownSession
from ultraflash.server.logs import fields
from ultraflash.server.media.boxes import VideoTrack
from ultraflash.server.media.fragmented_file import FragmentedFile, cut, frames_in
from ultraflash.server.media_feed import FeedPacket

log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64 * 1024 * 1024
SESSION_ID = re.compile(r"session_[0-9a-f]+")
LOG_NAME = "session.json"
LOG_VERSION = 1
IN_PROGRESS = "recording"


class Recording:
    """Writes one session to disk. What goes wrong on the way ends the recording, not the session."""

    def __init__(
        self, folder: Path, *, token_s: float, started_at: float, parts: list[dict[str, Any]], cut: bool
    ) -> None:
        """Made by ``begin`` and ``gone_on_with``; ``cut`` is whether the last part was left by a killed server."""
        self.session_id = folder.name
        self.finished = False
        self._folder = folder
        self._token, self._grant = Grant.issue(token_s)
        self._started_at = started_at
        self._replay: Mapping[str, Any] = {}
        self._part: FragmentedFile | None = None
        self._parts = parts
        self._cut = cut
        self._failed = False
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recording")

    @classmethod
    def begin(cls, recordings: Path, session_id: str, *, token_s: float) -> Recording:
        """That of a new session. Raises ``RecordingFailed``."""
        folder = recordings / session_id
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise RecordingFailed(
                f"Recordings cannot be written to {recordings}: {error.strerror}. "
                "Start without record, or have the server's setting data.folder changed.",
                param="record",
            ) from error
        return cls(folder, token_s=token_s, started_at=time.time(), parts=[], cut=False)

    @classmethod
    def gone_on_with(cls, recordings: Path, session_id: str, *, token_s: float) -> Recording | None:
        """That of a session which a killed server has left; None where there is nothing that can be gone on with."""
        folder = recordings / session_id
        try:
            document = read_log(recordings, session_id)
            if document is None or document["state"] != IN_PROGRESS:
                return None
            parts = [part for part in document["parts"] if (folder / part["file"]).exists()]
            for part in parts:
                part["frames"] = frames_in(folder / part["file"]) or part["frames"]
            return cls(folder, token_s=token_s, started_at=document["started_at"], parts=parts, cut=True)
        except (OSError, ValueError, KeyError):
            log.exception("a recording cannot be gone on with", extra=fields(session=session_id))
            return None

    def take_packet(self, packet: FeedPacket) -> None:
        """Writes a packet, soon."""
        size = len(packet.packet.payload)
        with self._lock:
            self._waiting += size
            if self._waiting > MAX_WAITING_BYTES and not self._failed:
                self._failed = True
                log.error("recording ended, the disk is too slow", extra=fields(session=self.session_id))
        self._thread.submit(self._guarded, self._write, packet, size)

    def note(self, replay: Mapping[str, Any]) -> None:
        """Writes the session's log, soon."""
        self._thread.submit(self._guarded, self._save, replay, IN_PROGRESS)

    def end_early(self) -> None:
        """Takes no more frames; those that are there are kept, and completed when the session ends."""
        if not self._failed:
            self._failed = True
            log.error("recording ended, recordings have no more room", extra=fields(session=self.session_id))

    def finish(self, replay: Mapping[str, Any], reason: str, then: Callable[[list[str]], None]) -> None:
        """Finishes the files, then calls back on the event loop with the addresses of the parts."""
        loop = asyncio.get_running_loop()

        def finished() -> None:
            self.finished = True
            then(self._addresses())

        def work() -> None:
            self._guarded(self._finish_part)
            self._guarded(self._save, replay, reason)
            if not loop.is_closed():
                loop.call_soon_threadsafe(finished)

        self._thread.submit(work)
        self._thread.shutdown(wait=False)

    def discard(self) -> None:
        """Forgets a recording into which nothing was written."""
        self._thread.shutdown(wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self.finished = True

    def wait(self) -> None:
        """Blocks until everything that was asked for is on the disk."""
        self._thread.shutdown(wait=True)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Runs a piece of the thread's work; the first failure ends the recording."""
        try:
            work(*arguments)
        except Exception:
            log.exception("recording ended", extra=fields(session=self.session_id))
            self._failed = True

    def _write(self, packet: FeedPacket, size: int) -> None:
        with self._lock:
            self._waiting -= size
        if self._failed:
            return
        track = packet.generation.track
        if self._cut:
            self._cut = False
            self._part = self._last_part(packet.packet.seq, track)
        if self._part is None or self._part.track != track:
            self._finish_part()
            name = f"part-{len(self._parts):03d}.mp4"
            self._part = FragmentedFile(self._folder / name, track)
            first = packet.packet.seq
            self._parts.append(
                {"file": name, "width": track.width, "height": track.height, "first_seq": first, "frames": 0}
            )
            self._save(self._replay, IN_PROGRESS)
        self._part.write(packet.packet.payload, key=packet.key)
        self._parts[-1]["frames"] = self._part.frames

    def _last_part(self, seq: int, track: VideoTrack) -> FragmentedFile | None:
        """The part that goes on with frame ``seq``, without what it has of that frame and those after it.

        The frames that follow are made anew; nobody goes on from the ones that were written before. A part that lacks
        frames before ``seq``, or is of another track, is left as it is, and a new one begins.
        """
        while self._parts and self._parts[-1]["first_seq"] >= seq:
            (self._folder / self._parts.pop()["file"]).unlink(missing_ok=True)
        if not self._parts:
            return None
        last = self._parts[-1]
        path, frames = self._folder / last["file"], seq - last["first_seq"]
        part = FragmentedFile.reopen(path, track, frames)
        if part is None:
            cut(path, frames)
            last["frames"] = min(last["frames"], frames)
        return part

    def _finish_part(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.finish()

    def _save(self, replay: Mapping[str, Any], state: str) -> None:
        self._replay = replay
        document = {
            "version": LOG_VERSION,
            "id": self.session_id,
            "state": state,
            "started_at": self._started_at,
            **replay,
            "parts": self._parts,
            "token": asdict(self._grant),
        }
        hidden = self._folder / f".{LOG_NAME}.part"
        hidden.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(hidden, self._folder / LOG_NAME)

    def _addresses(self) -> list[str]:
        base = f"/v1/sessions/{self.session_id}/recording?token={self._token}"
        return [f"{base}&part={number}" for number in range(len(self._parts))]


def read_log(recordings: Path, session_id: str) -> dict[str, Any] | None:
    """What lies beside a recording; None where there is no such recording."""
    if not SESSION_ID.fullmatch(session_id):
        return None
    try:
        document: dict[str, Any] = json.loads(
            (recordings / session_id / LOG_NAME).read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        return None
    return document


def find_part(recordings: Path, session_id: str, *, token: str, part: int, in_progress: bool) -> Path:
    """The file of a part. Raises ``UnknownSession``, ``BadToken`` or ``RecordingNotReady``."""
    document = read_log(recordings, session_id)
    if document is None:
        raise UnknownSession("There is no such recording; start a session with record: true.")
    Grant(**document["token"]).check(token)
    if in_progress:
        raise RecordingNotReady("The session is being recorded; its recording can be had when it is over.")
    if not 0 <= part < len(document["parts"]):
        raise UnknownSession(
            f"This recording has {len(document['parts'])} parts, counted from 0.", param="part"
        )
    return recordings / session_id / str(document["parts"][part]["file"])
