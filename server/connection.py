"""One WebSocket connection: a loop that reads, a loop that writes, one session."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from ultraflash.models.errors import EmptyPrompt, PromptTooLong, UltraflashError, UnknownPreset
from ultraflash.server.errors import (
    BadMedia,
    Busy,
    NotReady,
    StartTimeout,
    TooManyErrors,
    UnexpectedEvent,
    UnknownSession,
    Unsupported,
)
from ultraflash.server.metrics import Metrics
from ultraflash.server.outbox import POLICY_VIOLATION, Close, Outbox
from ultraflash.server.protocol import (
    ClientEvent,
    KeyframeRequest,
    PlaybackAck,
    PromptUpdate,
    SessionControl,
    SessionPing,
    SessionPong,
    SessionResume,
    SessionStart,
    parse_client_event,
)
from ultraflash.server.sessions import LiveSession, error_event
from ultraflash.server.settings import Settings
from ultraflash.server.wall_clock import unix_ms
from ultraflash.server.worker.messages import WorkerReady
from ultraflash.server.worker.supervisor import WorkerSupervisor

log = logging.getLogger(__name__)

TRY_AGAIN_LATER = 1013


@dataclass(slots=True, kw_only=True)
class StreamServer:
    """What all connections share.

    Attributes:
        sessions: live ones, by id.
    """

    settings: Settings
    supervisor: WorkerSupervisor
    metrics: Metrics
    sessions: dict[str, LiveSession] = field(default_factory=dict)

    def capabilities(self) -> WorkerReady:
        """What the engine can make. Raises ``NotReady`` until it has said so."""
        ready = self.supervisor.ready
        if ready is None or not self.supervisor.is_ready:
            raise NotReady(f"The engine is not ready: {self.supervisor.status.stage}.")
        return ready

    def admit(self) -> None:
        """Raises ``Busy`` when there is no room for another session."""
        limit = self.settings.stream.max_streams
        if len(self.sessions) >= limit:
            raise Busy(f"All {limit} live streams are taken; try again later.")


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
        ("record", start.record or None),
    ):
        if value is not None:
            raise Unsupported(f"{name!r} is reserved and not supported yet; leave it out.", param=name)
    check_prompt(start.prompt, ready)


def check_prompt(prompt: str, ready: WorkerReady) -> None:
    """The cheap part of what the engine checks, answered without waiting for the group in work."""
    if not prompt.strip():
        raise EmptyPrompt("The prompt is empty; describe what to show.", param="prompt")
    if len(prompt.strip()) > ready.max_prompt_chars:
        raise PromptTooLong(
            f"The prompt has {len(prompt.strip())} characters; {ready.max_prompt_chars} are accepted.",
            param="prompt",
        )


class Connection:
    """Everything about one client."""

    def __init__(self, websocket: WebSocket, server: StreamServer) -> None:
        self._websocket = websocket
        self._server = server
        self._session: LiveSession | None = None
        self._outbox = Outbox(self._request_key)
        self._errors = 0

    async def run(self) -> None:
        """Serves the client until either side closes."""
        self._server.metrics.connections.inc()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, tasks.cancel_scope)
                tasks.start_soon(self._send, tasks.cancel_scope)
        finally:
            self._server.metrics.connections.dec()
            self._server.metrics.dropped_frames.inc(self._outbox.dropped_frames)
            if self._session is not None:
                self._session.abandon()
                self._release(self._session)

    async def _receive(self, scope: anyio.CancelScope) -> None:
        start_by = anyio.current_time() + self._server.settings.stream.start_timeout_s
        while True:
            deadline = start_by if self._waits_for_start() else math.inf
            with anyio.CancelScope(deadline=deadline) as wait:
                message = await self._websocket.receive()
            if wait.cancelled_caught:
                self._refuse(StartTimeout("No session.start came in time."), close=POLICY_VIOLATION)
                return
            if message["type"] == "websocket.disconnect":
                scope.cancel()
                return
            self._handle(message.get("text"))

    async def _send(self, scope: anyio.CancelScope) -> None:
        try:
            while True:
                item = await self._outbox.take()
                if isinstance(item, Close):
                    await self._websocket.close(item.code, item.reason)
                    break
                if isinstance(item, str):
                    await self._websocket.send_text(item)
                else:
                    await self._websocket.send_bytes(item)
        except (WebSocketDisconnect, RuntimeError) as error:
            log.info("the client has gone: %s", error)
        scope.cancel()

    def _waits_for_start(self) -> bool:
        return self._session is None or self._session.state == "refused"

    def _handle(self, text: str | None) -> None:
        event_id = None
        try:
            if text is None:
                raise BadMedia("Binary frames are not expected: this session takes no video.")
            event = parse_client_event(text)
            event_id = event.event_id if isinstance(event, PromptUpdate | SessionControl) else None
            self._dispatch(event)
        except (Busy, NotReady) as error:
            self._refuse(error, close=TRY_AGAIN_LATER)
        except UltraflashError as error:
            self._refuse(error, event_id=event_id)

    def _refuse(
        self, error: UltraflashError, *, event_id: str | None = None, close: int | None = None
    ) -> None:
        self._server.metrics.refused.labels(code=error.code).inc()
        self._outbox.put_event(error_event(error, event_id))
        self._errors += 1
        if close == TRY_AGAIN_LATER:
            self._outbox.close(close, f"Retry-After: {self._server.settings.stream.retry_after_s}")
        elif close is not None:
            self._outbox.close(close, error.code)
        elif self._errors >= self._server.settings.stream.max_errors:
            self._refuse(
                TooManyErrors(f"{self._errors} bad messages on one connection."), close=POLICY_VIOLATION
            )

    def _dispatch(self, event: ClientEvent) -> None:
        if isinstance(event, SessionPing):
            self._outbox.put_event(SessionPong(server_ms=unix_ms(), t=event.t))
        elif isinstance(event, SessionStart):
            self._start(event)
        elif isinstance(event, SessionResume):
            raise UnknownSession("A session ends with its connection; start a new one.")
        else:
            self._steer(self._running(event.type), event)

    def _start(self, event: SessionStart) -> None:
        if self._session is not None and self._session.state != "refused":
            raise UnexpectedEvent("This connection has its session already; open another one for a second.")
        if self._session is not None:
            self._release(self._session)
        check_start(event, self._server.capabilities())
        self._server.admit()
        session = LiveSession(
            event, supervisor=self._server.supervisor, outbox=self._outbox, metrics=self._server.metrics
        )
        self._session = session
        self._server.sessions[session.session_id] = session
        self._server.metrics.sessions.set(len(self._server.sessions))
        session.open()

    def _running(self, kind: str) -> LiveSession:
        if self._session is None or self._session.over:
            raise UnexpectedEvent(f"{kind} needs a session; send session.start first.")
        return self._session

    def _steer(self, session: LiveSession, event: ClientEvent) -> None:
        if isinstance(event, PlaybackAck):
            session.ack(event)
        elif isinstance(event, PromptUpdate):
            if self._server.supervisor.ready is not None:
                check_prompt(event.prompt, self._server.supervisor.ready)
            session.update_prompt(event)
        elif isinstance(event, SessionControl):
            session.control(event)
        elif isinstance(event, KeyframeRequest):
            session.request_key()
        else:
            session.stop()

    def _request_key(self) -> None:
        if self._session is not None:
            self._session.request_key()

    def _release(self, session: LiveSession) -> None:
        self._server.sessions.pop(session.session_id, None)
        self._server.metrics.sessions.set(len(self._server.sessions))
