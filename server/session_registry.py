"""The live sessions of a server, and how long those are kept whose owner has lost its connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from ultraflash.server.admission import Admission, Claim, seconds_until_places, share_of_time
from ultraflash.server.errors import UnknownSession
from ultraflash.server.metrics import Metrics
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.sessions import LiveSession
from ultraflash.server.settings import StreamSettings
from ultraflash.server.snapshot_folder import SnapshotFolder
from ultraflash.server.waiting_line import WaitingLine
from ultraflash.server.worker.supervisor import WorkerSupervisor

# Weight of the newest session in the mean length of sessions.
NEWEST = 0.2
KEEP_EVERY_S = 10.0
# Nobody has stored a live session for so long: its server is gone.
SILENT_S = 6 * KEEP_EVERY_S


class SessionRegistry:
    """Sessions by id.

    Attributes:
        line: where those wait for whom there is no room yet.
        begun: how many sessions there have ever been.
    """

    def __init__(
        self,
        limits: StreamSettings,
        metrics: Metrics,
        supervisor: WorkerSupervisor,
        snapshots: SnapshotFolder,
        archive: SessionArchive,
    ) -> None:
        self.line = WaitingLine(
            fits=self._make_room,
            eta=self.eta,
            max_waiting=limits.max_queued,
            retry_after_s=limits.retry_after_s,
        )
        self.begun = 0
        supervisor.follow_costs(self.line.review)
        self._limits = limits
        self._metrics = metrics
        self._supervisor = supervisor
        self._snapshots = snapshots
        self._archive = archive
        self._admission = Admission(limits)
        self._began_at: dict[str, float] = {}
        self._mean_length_s: float | None = None
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

    def _make_room(self, claim: Claim) -> bool:
        """Whether one more stream fits, where that helps after ending sessions whose owners are away."""
        if not self._supervisor.is_ready:
            return False
        staying = list(self)
        away = [session for session in staying if session.session_id in self._expiries]
        for ended in range(len(away) + 1):
            running = [session.claim for session in staying if session not in away[:ended]]
            if self._admission.fits(claim, running, self._supervisor.frame_seconds):
                for session in away[:ended]:
                    self._expire(session)
                return True
        return False

    def eta(self, places: int) -> float | None:
        """Seconds until so many of the running sessions are expected to be over."""
        running = [session.claim for session in self]
        share = share_of_time(running, self._supervisor.frame_seconds)
        return seconds_until_places(places, running, share=share, mean_length_s=self._mean_length_s)

    def _note_length(self, session: LiveSession) -> None:
        length_s = time.monotonic() - self._began_at.pop(session.session_id)
        if session.state == "done":
            before = length_s if self._mean_length_s is None else self._mean_length_s
            self._mean_length_s = before + NEWEST * (length_s - before)

    def add(self, session: LiveSession) -> None:
        """A session has begun."""
        self.begun += 1
        self._sessions[session.session_id] = session
        self._began_at[session.session_id] = time.monotonic()
        self._count()

    def forget(self, session: LiveSession) -> None:
        """A session is of no use any more."""
        self.owner_is_back(session)
        if self._sessions.pop(session.session_id, None) is not None:
            self._note_length(session)
        self._snapshots.keep_only({kept.session_id for kept in self})
        self._count()
        self.line.review()

    def await_owner(self, session: LiveSession) -> None:
        """Keeps the place of a session that another server has left, as if its owner had just gone."""
        self.add(session)
        self._expire_later(session)

    async def keep(self) -> None:
        """Stores how far the live sessions are, which also says that this server lives, and forgets those that were
        over long ago."""
        for session in list(self):
            session.keep()
        self._archive.forget_older(self._limits.keep_s)

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
        self.line.close()
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
