"""The live sessions of a server, and how long those are kept whose owner has lost its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ultraflash.server.errors import Busy, UnknownSession
from ultraflash.server.metrics import Metrics
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.sessions import LiveSession
from ultraflash.server.settings import StreamSettings
from ultraflash.server.snapshot_folder import SnapshotFolder

KEEP_EVERY_S = 10.0
# Nobody has stored a live session for so long: its server is gone.
SILENT_S = 6 * KEEP_EVERY_S


class SessionRegistry:
    """Sessions by id."""

    def __init__(
        self, limits: StreamSettings, metrics: Metrics, snapshots: SnapshotFolder, archive: SessionArchive
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._snapshots = snapshots
        self._archive = archive
        self._sessions: dict[str, LiveSession] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}

    def __iter__(self) -> Iterator[LiveSession]:
        return iter([session for session in self._sessions.values() if not session.over])

    def find(self, session_id: str) -> LiveSession:
        """The session of that id, which may be over. Raises ``UnknownSession``."""
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSession("This session has ended or never was; start a new one.", param="session_id")
        return session

    def is_recording(self, session_id: str) -> bool:
        """Whether the recording of a session is still being written."""
        return session_id in self._sessions and self._sessions[session_id].is_recording

    def end_recordings(self) -> None:
        """Lets all sessions go on without being recorded further."""
        for session in self:
            session.end_recording()

    def admit(self) -> None:
        """Makes room for one more session, if need be by ending one whose owner is away. Raises ``Busy``."""
        limit = self._limits.max_streams
        if len(list(self)) < limit:
            return
        away = next((session for session in self if session.session_id in self._expiries), None)
        if away is None:
            raise Busy(f"All {limit} live streams are taken; try again later.")
        self._expire(away)

    def add(self, session: LiveSession) -> None:
        """A session has begun."""
        self._sessions[session.session_id] = session
        self._count()

    def forget(self, session: LiveSession) -> None:
        """A session is of no use any more."""
        self.owner_is_back(session)
        self._sessions.pop(session.session_id, None)
        self._snapshots.keep_only({kept.session_id for kept in self})
        self._count()

    def await_owner(self, session: LiveSession) -> None:
        """Keeps the place of a session that another server has left, as if its owner had just gone."""
        self.add(session)
        self._expire_later(session)

    async def keep_alive(self) -> None:
        """Stores now and then how far the live sessions are, and forgets those that were over long ago."""
        while True:
            for session in self:
                session.keep()
            self._archive.forget_older(self._limits.keep_s)
            await asyncio.sleep(KEEP_EVERY_S)

    def owner_left(self, session: LiveSession, *, for_good: bool) -> None:
        """Keeps a session for its owner for a while, unless that said good-bye or has had everything."""
        had_everything = session.over
        session.owner_left()
        if for_good or had_everything:
            self._expire(session)
            return
        self._expire_later(session)

    def _expire_later(self, session: LiveSession) -> None:
        self._expiries[session.session_id] = asyncio.get_running_loop().call_later(
            self._limits.resume_s, self._expire, session
        )

    def owner_is_back(self, session: LiveSession) -> None:
        """The session does not end after all."""
        expiry = self._expiries.pop(session.session_id, None)
        if expiry is not None:
            expiry.cancel()

    async def end_all(self) -> None:
        """Ends all sessions, and returns when their recordings are complete."""
        ending = list(self)
        for session in ending:
            self._expire(session)
        for session in ending:
            await asyncio.to_thread(session.wait_for_recording)

    def _expire(self, session: LiveSession) -> None:
        session.abandon()
        self.forget(session)

    def _count(self) -> None:
        self._metrics.sessions.set(len(self._sessions))
