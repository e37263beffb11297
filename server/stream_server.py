"""What all connections of a server share."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from ultraflash.server.errors import NotReady, VideoGone
from ultraflash.server.jobs.references import References
from ultraflash.server.keys.allowance import Allowances
from ultraflash.server.keys.records import Caller, KeyLimits
from ultraflash.server.logs import fields
from ultraflash.server.metrics import Metrics
from ultraflash.server.protocol import SessionStart
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.session_registry import SILENT_S, SessionRegistry
from ultraflash.server.session_store import StoredSession
from ultraflash.server.sessions import LiveSession
from ultraflash.server.settings import Settings
from ultraflash.server.snapshot_folder import SnapshotFolder
from ultraflash.server.tracing import NO_TRACER, Tracer
from ultraflash.server.worker.messages import WorkerReady
from ultraflash.server.worker.supervisor import WorkerSupervisor

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class StreamServer:
    """What all connections share.

    Attributes:
        snapshots: where the worker keeps the states of live streams.
        archive: where sessions are stored.
        sessions: live ones.
        references: pictures that sessions start from.
        allowances: whose they are, and how much each key uses.
    """

    settings: Settings
    supervisor: WorkerSupervisor
    metrics: Metrics
    snapshots: SnapshotFolder
    archive: SessionArchive
    references: References
    tracer: Tracer = NO_TRACER
    sessions: SessionRegistry = field(init=False)
    allowances: Allowances = field(init=False)
    _taking_over: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.sessions = SessionRegistry(
            self.settings.stream, self.metrics, self.supervisor, self.snapshots, self.archive
        )
        self.allowances = Allowances(lambda: [session.session_id for session in self.sessions])

    def session(
        self, start: SessionStart, *, key_id: str | None = None, before: StoredSession | None = None
    ) -> LiveSession:
        """A new session of a key, or the one that a server which is gone has left."""
        return LiveSession(
            start,
            supervisor=self.supervisor,
            metrics=self.metrics,
            limits=self.settings.stream,
            recordings=self.settings.data.recordings,
            keep=self.archive.put,
            tracer=self.tracer,
            key_id=key_id,
            before=before,
        )

    def begin(self, start: SessionStart, *, key_id: str | None, frames: Path | None) -> LiveSession:
        """A new session of a key, which starts from those frames if there are any. Raises ``DataUnusable``."""
        session = self.session(start, key_id=key_id)
        if frames is not None:
            session.start_from(self.snapshots.keep_start(session.session_id, frames))
        return session

    async def take_over(self) -> None:
        """Awaits the owners of sessions that a killed server of this database has left. Streams go on meanwhile."""
        async with self._taking_over:
            for stored, owner in await asyncio.to_thread(self.archive.store.take_over, SILENT_S):
                if stored.updated_at < time.time() - SILENT_S - self.settings.stream.resume_s:
                    continue
                try:
                    await self._await_owner_of(stored, owner)
                except Exception:
                    # One of another version must not keep the server from starting, nor the others from going on.
                    log.exception("a session cannot be gone on with", extra=fields(session=stored.id))
            await asyncio.to_thread(self._forget_the_gone)

    async def _await_owner_of(self, stored: StoredSession, server: str) -> None:
        """Keeps the place of a session that ``server`` has left."""
        with self.snapshots.expecting(stored.id):
            await asyncio.to_thread(self.snapshots.adopt, stored.id, server)
            has_start = stored.image is not None and await asyncio.to_thread(
                self._has_start, stored.id, stored.image
            )
            session = self.session(SessionStart.model_validate(stored.start), before=stored)
            if has_start:
                session.start_from(self.snapshots.start_path(stored.id))
            self.sessions.await_owner(session)
        # Its limits are looked up when its owner is back.
        self.allowances.began(
            stored.id, Caller(key_id=stored.key_id, limits=KeyLimits()), stored.pixels_per_s
        )

    def _forget_the_gone(self) -> None:
        """Removes the states that nobody is going to go on from. Blocking."""
        left = self.snapshots.left_by_the_gone()
        self.snapshots.forget_the_gone(left - self.archive.store.may_be_fetched(left))

    def _has_start(self, session_id: str, image: str) -> bool:
        """Whether the frames that a session starts from are in their place, or can be brought there. Blocking."""
        if self.snapshots.start_path(session_id).exists():
            return True
        try:
            self.references.bring(image, self.snapshots.start_path(session_id))
        except VideoGone:
            log.warning("the picture that a session started from has gone", extra=fields(session=session_id))
            return False
        return True

    def capabilities(self) -> WorkerReady:
        """What the engine can make. Raises ``NotReady`` until it has said so."""
        ready = self.supervisor.ready
        if ready is None or not self.supervisor.is_ready:
            raise NotReady(f"The engine is not ready: {self.supervisor.status.stage}.")
        return ready
