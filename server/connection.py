"""The WebSocket of an owner: it starts one session, or comes back to one, and steers it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial

from starlette.websockets import WebSocket

from ultraflash.models.errors import UltraflashError, UnknownPreset
from ultraflash.server.admission import claim_of, size_name
from ultraflash.server.errors import (
    Busy,
    NotReady,
    OwnerPresent,
    UnexpectedEvent,
    UnknownSession,
    Unsupported,
)
from ultraflash.server.jobs.references import References
from ultraflash.server.keys.allowance import Allowances, check_prompt_length
from ultraflash.server.keys.records import Caller, KeyLimits
from ultraflash.server.logs import fields
from ultraflash.server.metrics import Metrics
from ultraflash.server.outbox import Outbox
from ultraflash.server.owner_seat import OwnerSeat
from ultraflash.server.peer import Peer
from ultraflash.server.prompts import usable_prompt
from ultraflash.server.protocol import (
    ClientEvent,
    KeyframeRequest,
    PlaybackAck,
    PromptUpdate,
    SessionAuthenticate,
    SessionControl,
    SessionDone,
    SessionPing,
    SessionPong,
    SessionResume,
    SessionStart,
    SessionStop,
)
from ultraflash.server.session_archive import SessionArchive
from ultraflash.server.session_registry import SILENT_S, SessionRegistry
from ultraflash.server.session_store import StoredSession
from ultraflash.server.sessions import DONE, LiveSession
from ultraflash.server.settings import Settings
from ultraflash.server.snapshot_folder import SnapshotFolder
from ultraflash.server.tracing import NO_TRACER, Tracer
from ultraflash.server.waiting_line import Ticket
from ultraflash.server.wall_clock import unix_ms
from ultraflash.server.worker.messages import AUTO, WorkerReady
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

    def take_over(self) -> None:
        """Awaits the owners of sessions that a killed server of this database has left. Blocking."""
        for stored, owner in self.archive.store.take_over(SILENT_S):
            if stored.updated_at < time.time() - SILENT_S - self.settings.stream.resume_s:
                continue
            try:
                self._await_owner_of(stored, owner)
            except Exception:
                # One of another version must not keep the server from starting, nor the others from going on.
                log.exception("a session cannot be gone on with", extra=fields(session=stored.id))
        self.snapshots.forget_the_gone()

    def _await_owner_of(self, stored: StoredSession, server: str) -> None:
        """Keeps the place of a session that ``server`` has left."""
        self.snapshots.adopt(stored.id, server)
        session = self.session(SessionStart.model_validate(stored.start), before=stored)
        self.sessions.await_owner(session)
        # Its limits are looked up when its owner is back.
        self.allowances.began(
            stored.id, Caller(key_id=stored.key_id, limits=KeyLimits()), stored.pixels_per_s
        )

    def capabilities(self) -> WorkerReady:
        """What the engine can make. Raises ``NotReady`` until it has said so."""
        ready = self.supervisor.ready
        if ready is None or not self.supervisor.is_ready:
            raise NotReady(f"The engine is not ready: {self.supervisor.status.stage}.")
        return ready


def check_start(start: SessionStart, ready: WorkerReady) -> None:
    """Raises an error that says what is accepted where ``session.start`` asks for what cannot be had."""
    if start.preset not in (None, ready.model):
        raise UnknownPreset(f"No preset {start.preset!r} is loaded; this server runs {ready.model!r}.")
    if start.codecs is not None and not any(
        codec.lower().startswith(("avc1", "h264")) for codec in start.codecs
    ):
        raise Unsupported("None of the codecs can be made; this server makes H.264: avc1.*", param="codecs")
    for name, value in (
        ("negative", start.negative),
        ("image", start.image),
    ):
        if value is not None:
            raise Unsupported(f"{name!r} is reserved and not supported yet; leave it out.", param=name)
    usable_prompt(start.prompt, ready)


def pixel_rate(ready: WorkerReady, size: str, fps: int | None) -> int:
    """Pixels a second of a stream. Raises ``UnknownSize``."""
    wanted = ready.default_size if size == AUTO else size_name(size, ready)
    width, height = next((width, height) for name, width, height in ready.sizes if name == wanted)
    return int(width * height * (fps or ready.fps))


class Connection(Peer):
    """The client that owns a session."""

    def __init__(self, websocket: WebSocket, server: StreamServer, caller: Caller) -> None:
        outbox = Outbox(self._request_key)
        super().__init__(websocket, outbox, limits=server.settings.stream, metrics=server.metrics)
        self._server = server
        self._caller = caller
        self._session: LiveSession | None = None
        self._ticket: Ticket | None = None

    def _waits_for_start(self) -> bool:
        return self._ticket is None and (self._session is None or self._session.state == "refused")

    def _left(self) -> None:
        self._leave_line()
        if self._session is not None:
            self._server.sessions.owner_left(self._session, for_good=self._said_good_bye)

    def _dispatch(self, event: ClientEvent) -> None:
        if isinstance(event, SessionPing):
            self._outbox.put_event(SessionPong(server_ms=unix_ms(), t=event.t))
        elif isinstance(event, SessionAuthenticate):
            # Before the first event it is read elsewhere; a client need not know whether a key is wanted.
            return
        elif isinstance(event, SessionStart):
            self._start(event)
        elif isinstance(event, SessionResume):
            self._resume(event)
        elif self._ticket is not None and isinstance(event, SessionStop):
            self._leave_line()
            self._outbox.put_event(SessionDone(reason="stopped", frames=0))
            self._outbox.close(DONE, "stopped")
        elif self._session is not None and self._session.ending:
            # Too late to matter, and the client cannot know yet.
            return
        else:
            self._steer(self._running(event.type), event)

    def _start(self, event: SessionStart) -> None:
        self._check_free()
        ready, limits = self._server.capabilities(), self._server.settings.stream
        check_start(event, ready)
        check_prompt_length(event.prompt, self._caller)
        event = event.model_copy(update={"size": self._countable(event.size, ready)})
        rate = pixel_rate(ready, event.size, event.fps)
        self._server.allowances.check_start(self._caller, rate)
        claim = claim_of(event.size, event.fps, event.max_frames, ready=ready, limits=limits)
        begin = partial(self._admitted, event, rate)
        self._ticket = Ticket(claim=claim, begin=begin, tell=self._outbox.put_event)
        try:
            self._server.sessions.line.enter(self._ticket)
        except Busy:
            self._ticket = None
            raise

    def _countable(self, size: str, ready: WorkerReady) -> str:
        """A size whose pixels are known, for a key that may have only so many: the default one for ``auto``."""
        counted = self._caller.limits.max_pixels_per_s is not None
        return ready.default_size if counted and size == AUTO else size

    def _admitted(self, event: SessionStart, rate: int) -> None:
        """There is a place, perhaps after a wait, so that what goes wrong now is told from here."""
        self._ticket = None
        try:
            # Others of the same key may have begun in the meantime.
            self._server.allowances.check_start(self._caller, rate)
            self._begin(event, rate)
        except UltraflashError as error:
            self._refuse(error)

    def _leave_line(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._server.sessions.line.leave(ticket)

    def _begin(self, event: SessionStart, rate: int) -> None:
        session = self._server.session(event, key_id=self._caller.key_id)
        self._session = session
        self._server.sessions.add(session)
        self._server.allowances.began(session.session_id, self._caller, rate)
        session.open(OwnerSeat(self._outbox, event.transport))

    def _resume(self, event: SessionResume) -> None:
        self._check_free()
        session = self._server.sessions.find(event.session_id)
        if session.key_id != self._caller.key_id:
            raise UnknownSession("This session has ended or never was; start a new one.", param="session_id")
        session.owner_grant.check(event.resume_token)
        if session.audience.owner is not None:
            raise OwnerPresent("The session's owner is connected already; only one can steer.")
        self._session = session
        self._server.allowances.came_back(session.session_id, self._caller)
        self._server.sessions.owner_is_back(session)
        session.resume(OwnerSeat(self._outbox, session.transport), event.last_pts_us)

    def _check_free(self) -> None:
        """Makes way for a session where none was started, or one that was refused."""
        if self._ticket is not None:
            raise UnexpectedEvent("This connection waits for its session already; see queue.status.")
        if self._session is not None and self._session.state != "refused":
            raise UnexpectedEvent("This connection has its session already; open another one for a second.")
        if self._session is not None:
            self._server.sessions.forget(self._session)
            self._session = None

    def _running(self, kind: str) -> LiveSession:
        if self._ticket is not None:
            raise UnexpectedEvent(f"{kind} needs a session, and this one waits in the queue for its place.")
        if self._session is None or self._session.over:
            raise UnexpectedEvent(f"{kind} needs a session; send session.start first.")
        return self._session

    def _steer(self, session: LiveSession, event: ClientEvent) -> None:
        if isinstance(event, PlaybackAck):
            session.ack(event)
        elif isinstance(event, PromptUpdate):
            check_prompt_length(event.prompt, self._caller)
            if self._server.supervisor.ready is not None:
                usable_prompt(event.prompt, self._server.supervisor.ready)
            session.update_prompt(event)
        elif isinstance(event, SessionControl):
            ready = self._server.supervisor.ready
            if event.size is not None and ready is not None:
                event = event.model_copy(update={"size": self._countable(event.size, ready)})
                rate = pixel_rate(ready, event.size or AUTO, session.fps)
                self._server.allowances.check_size(session.session_id, rate)
            session.control(event)
        elif isinstance(event, KeyframeRequest):
            session.request_key()
        else:
            session.stop()

    def _request_key(self) -> None:
        if self._session is not None:
            self._session.request_key()
