"""One WebSocket: a loop that reads, a loop that writes, and errors that are answered rather than fatal."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from ultraflash.models.errors import UltraflashError
from ultraflash.server.error_events import error_event
from ultraflash.server.errors import BadMedia, Busy, NotReady, OwnerPresent, StartTimeout, TooManyErrors
from ultraflash.server.metrics import Metrics
from ultraflash.server.outbox import POLICY_VIOLATION, Close, Outbox
from ultraflash.server.protocol import ClientEvent, PromptUpdate, SessionControl, parse_client_event
from ultraflash.server.settings import StreamSettings

log = logging.getLogger(__name__)

TOO_BIG = 1009
TRY_AGAIN_LATER = 1013
# A client that closes with one of these has left for good; all else is a lost connection.
GOOD_BYES = (1000, 1001)


class Peer(ABC):
    """A client, whatever it may do."""

    def __init__(
        self,
        websocket: WebSocket,
        outbox: Outbox,
        *,
        limits: StreamSettings,
        metrics: Metrics,
        max_message_bytes: int,
    ) -> None:
        self._websocket = websocket
        self._outbox = outbox
        self._limits = limits
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._errors = 0
        self._said_good_bye = False

    async def run(self) -> None:
        """Serves the client until either side closes."""
        self._metrics.connections.inc()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, tasks.cancel_scope)
                tasks.start_soon(self._send, tasks.cancel_scope)
        finally:
            self._metrics.connections.dec()
            self._metrics.dropped_frames.inc(self._outbox.dropped_frames)
            self._left()

    @abstractmethod
    def _dispatch(self, event: ClientEvent) -> None:
        """Does what the client asks. Raises typed errors, which the client is told."""

    @abstractmethod
    def _left(self) -> None:
        """The connection is over."""

    def _waits_for_start(self) -> bool:
        """Whether the client still owes its first event."""
        return False

    def _may_be_long(self, text: str) -> bool:
        """Whether this text may be longer than other messages: one that may start a session from a picture."""
        return False

    async def _receive(self, scope: anyio.CancelScope) -> None:
        start_by = anyio.current_time() + self._limits.start_timeout_s
        while True:
            deadline = start_by if self._waits_for_start() else math.inf
            with anyio.CancelScope(deadline=deadline) as wait:
                message = await self._websocket.receive()
            if wait.cancelled_caught:
                self._refuse(StartTimeout("No session.start came in time."), close=POLICY_VIOLATION)
                return
            if message["type"] == "websocket.disconnect":
                self._said_good_bye = message.get("code") in GOOD_BYES
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

    def _handle(self, text: str | None) -> None:
        event_id = None
        try:
            if text is None:
                raise BadMedia("Binary frames are not expected: this session takes no video.")
            if len(text) > self._max_message_bytes and not self._may_be_long(text):
                self._outbox.close(TOO_BIG, "message too big")
                return
            event = parse_client_event(text)
            event_id = event.event_id if isinstance(event, PromptUpdate | SessionControl) else None
            self._dispatch(event)
        except UltraflashError as error:
            self._answer(error, event_id)

    def _answer(self, error: UltraflashError, event_id: str | None = None) -> None:
        """Tells the client what went wrong; where that is a matter of time the connection ends."""
        if isinstance(error, Busy | NotReady | OwnerPresent):
            self._refuse(error, close=TRY_AGAIN_LATER)
        else:
            self._refuse(error, event_id=event_id)

    def _refuse(
        self, error: UltraflashError, *, event_id: str | None = None, close: int | None = None
    ) -> None:
        self._metrics.refused.labels(code=error.code).inc()
        self._outbox.put_event(error_event(error, event_id))
        self._errors += 1
        if close == TRY_AGAIN_LATER:
            known_s = error.retry_after_s if isinstance(error, Busy | NotReady) else None
            self._outbox.close(close, f"Retry-After: {known_s or self._limits.retry_after_s}")
        elif close is not None:
            self._outbox.close(close, error.code)
        elif self._errors >= self._limits.max_errors:
            self._refuse(
                TooManyErrors(f"{self._errors} bad messages on one connection."), close=POLICY_VIOLATION
            )
